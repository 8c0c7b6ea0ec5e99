"""The board: two words of shared memory for each worker of a pool, which outlive the worker.

- `progress`: which call of which group it started last. When the process is killed this tells the call that was
  lost from those that had not begun, and may simply be run elsewhere.
- `given_back`: from which call on the worker will not run a group, since a slow call holds it up.

Each word has one writer, the worker, and is written in one piece. The board is a memfd: it has no name, so no kill
can leave a file behind; workers of the same host open it through /proc. Where they cannot, nothing is given back,
and all calls of a lost group count as started.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import MutableSequence
from typing import Any

INDEX_BITS = 24  # a mark is (group number << INDEX_BITS) + index
MAX_GROUP_CALLS = (1 << INDEX_BITS) - 1
_WORDS = 2
_WORD_BYTES = 8


class Board:
    """The pool's side.

    Args:
        slots: how many workers there may be at once.
    """

    def __init__(self, slots: int) -> None:
        self._descriptor = os.memfd_create("miniray-pool", os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, slots * _WORDS * _WORD_BYTES)
        self._map = mmap.mmap(self._descriptor, slots * _WORDS * _WORD_BYTES)
        self._words = memoryview(self._map).cast("q")
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def clear(self, slot: int) -> None:
        """A new worker takes this slot."""
        self._words[_WORDS * slot] = self._words[_WORDS * slot + 1] = 0

    def started(self, slot: int, number: int, calls: int) -> int:
        """How many of the `calls` of a group were started by the worker of this slot."""
        return _part(self._words[_WORDS * slot], number, calls, earlier=calls, later=0)

    def kept(self, slot: int, number: int, calls: int) -> int:
        """How many of them it has not given back."""
        return _part(self._words[_WORDS * slot + 1], number, calls, earlier=calls, later=calls)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._words.release()
            self._map.close()
            os.close(self._descriptor)
            self._descriptor = -1

    __del__ = close


def _part(mark: int, number: int, calls: int, *, earlier: int, later: int) -> int:
    """What `mark` says of group `number`: it is of a later group than that, of an earlier one, or of this."""
    of = mark >> INDEX_BITS
    if of == number:
        return min(mark & MAX_GROUP_CALLS, calls)
    return earlier if of > number else later


class Marks:
    """The worker's side: its two words."""

    def __init__(self, path: str, slot: int) -> None:
        self._map: mmap.mmap | None = None
        self.words: MutableSequence[int] | memoryview[Any] = [0, 0]
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self.is_shared = False
            return
        try:
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self.words = memoryview(self._map).cast("q")[_WORDS * slot : _WORDS * (slot + 1)]
        self.is_shared = True
