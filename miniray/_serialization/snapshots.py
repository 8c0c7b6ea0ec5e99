"""Many values, a pickle each: what they share is shared no more.

Whoever sends several things in one message, and must not have one of them change another, makes snapshots of them. A
pickler by value is made once for all of them: what classes and functions are made of is found out at the first one, and
not looked at again; and the definitions of classes are in the first pickle that needs them only, so they are read in
the order in which they were made.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

from miniray._serialization import pickles
from miniray._serialization.forking import ReadOnceError
from miniray._serialization.strikes import raised_by_handler
from miniray._serialization.values import taker, without_read_only

LARGE_BYTES = 1 << 16  # a copy of less takes no longer than a message does


class Snapshots:
    """
    Args:
        whole: also buffers of 64 kB and more, such as large arrays, are copied.

    Attributes:
        met_descriptor: whether the last value has none because it holds a pipe's end or a socket. Such a value can
            still be an argument, or a result: one process receives it, once.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self.met_descriptor = False
        self._buffers: list[memoryview] = []
        self._large_bytes = sys.maxsize if whole else LARGE_BYTES
        self._taker = taker(self._buffers, self._large_bytes)
        self._is_plain = not pickles.some_module_goes_by_value()
        self._file = io.BytesIO()
        self._by_value: Any = None

    def take(self, value: object) -> bytes | None:
        """The value as it is now: bytes of which `pickle.loads` makes another like it, in any process of the session
        that has read those before it.

        Arrays are writable in the copy, also where they were not here.

        None: it cannot be pickled, or should not travel like this: it holds refs, which have to be counted on their
        way, a pipe's end or a socket, or large buffers, which need not be copied.
        """
        self.met_descriptor = False
        try:
            data, refs = self._dumps(value)
            buffers = [bytearray(buffer) for buffer in self._buffers if len(buffer) < self._large_bytes]
            if refs or len(buffers) < len(self._buffers):
                return None
            if self._by_value is not None:
                self._by_value.leave_out_definitions()
            return pickle.dumps(_Joined(without_read_only(data), buffers), pickles.PROTOCOL) if buffers else data
        except Exception as error:
            if raised_by_handler(error):
                raise
            self.met_descriptor = isinstance(error, ReadOnceError)
            return None
        finally:
            self._buffers.clear()

    def _dumps(self, value: object) -> tuple[bytes, tuple[Any, ...]]:
        if self._is_plain:
            try:
                dumped = pickles.dumps(value, self._taker, is_kept=True)
                if dumped is not None:
                    return dumped
            except RecursionError:
                raise
            except Exception as error:
                if raised_by_handler(error):
                    raise
            self._is_plain = False  # the others are likely to be of the same kind
            self._buffers.clear()
        if self._by_value is None:
            from miniray._serialization.by_value import ByValuePickler

            self._by_value = ByValuePickler(self._file, "", self._taker, is_used_again=True)
        self._file.seek(0)
        self._file.truncate()
        self._by_value.clear_memo()
        refs = pickles.dump_with(self._by_value, value, is_kept=True)
        return self._file.getvalue(), refs


class _Joined:
    """A pickle and the read-only buffers that have left it, as one pickle of what it is a pickle of."""

    def __init__(self, data: bytes, buffers: list[bytearray]) -> None:
        self._data, self._buffers = data, buffers

    def __reduce__(self) -> Any:
        return _load, (self._data, self._buffers)


def _load(data: bytes, buffers: list[bytearray]) -> Any:
    return pickles.loads(data, buffers=buffers)
