"""Reading the input of `imap`.

A list or a range is read where it is needed. Any other iterable runs users' code, and may block until a result has
been used (`imap` over another `imap`, a queue): nothing but a thread of its own makes that harmless, as the standard
pool has one. It reads only what it is asked for, and ends with its iterator.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from miniray.pool_worker.parcels import pack_item

if TYPE_CHECKING:
    from miniray.pool.results import IMapIterator

_HARMLESS = frozenset({list, tuple, range, str, bytes, dict, set, frozenset, deque})


def may_block(iterable: Any) -> bool:
    return type(iterable) not in _HARMLESS


class Feed:
    """What was read of one input, and the thread that reads it."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._input = source
        self._read: deque[Any] = deque()
        self._wanted = 0
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._asked = threading.Lock()  # free: something is wanted
        self._asked.acquire()
        self._thread: threading.Thread | None = None

    def take(self, limit: int, reader: IMapIterator) -> tuple[list[Any], bool, BaseException | None]:
        """What is there: items, whether it was the last, what the input raised. More is read meanwhile.

        Whole chunks only, until the input has ended: one that raises takes its unfinished chunk with it.
        """
        chunk = reader.chunk
        ended = self._ended  # before the look at what was read
        count = len(self._read)
        if not ended or self._error is not None:
            limit, count = max(limit, chunk), count - count % chunk
            limit -= limit % chunk
        items = [self._read.popleft() for _ in range(min(limit, count))]
        if ended:
            return items, not items, None if items else self._error
        self._wanted = max(2 * limit - len(self._read), chunk)
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(
                target=_feed, args=(self, weakref.ref(reader), chunk), name="miniray-pool-input", daemon=True
            )
            self._thread.start()
        self._ask()
        return items, False, None

    def close(self) -> None:
        """From a finaliser, perhaps: nothing that blocks."""
        self._closed = True
        self._ask()

    def leave(self, deadline: float) -> None:
        """The same, and the thread has ended, unless the input takes longer."""
        self.close()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - monotonic()))

    def _ask(self) -> None:
        try:
            self._asked.release()
        except RuntimeError:
            pass  # it knows already


def _feed(feed: Feed, reader: weakref.ref[IMapIterator], chunk: int) -> None:
    while not feed._closed:
        feed._asked.acquire()
        try:
            while feed._wanted > 0 and not feed._closed:
                feed._wanted -= 1
                feed._read.append(pack_item(next(feed._input)))
                if len(feed._read) == chunk:
                    _tell(reader)
        except StopIteration:
            feed._ended = True
        except BaseException as error:  # also SystemExit: it is the input's, and whoever asks for results gets it
            feed._error, feed._ended = error, True
        _tell(reader)
        if feed._ended:
            return


def _tell(reader: weakref.ref[IMapIterator]) -> None:
    iterator = reader()
    if iterator is not None:
        iterator._dispatcher.resume(iterator)
