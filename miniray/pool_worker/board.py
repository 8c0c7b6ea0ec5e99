"""The board: a few words of shared memory for each worker of a pool, which outlive the worker, and a letterbox.

- `progress`: which call of which group it started last. When the process is killed this tells the call that was
  lost from those that had not begun, and may simply be run elsewhere.
- `given_back`: from which call on the worker will not run a group, since a slow call holds it up.
- `posted`, `posted_bytes`: of which group the letterbox has outcomes: those that a slow call would keep behind it leave
  that way. The box is written once a group, before the word that tells of it; whoever reads looks at
  the word again afterwards. It takes memory only when it is used.

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
BOX_BYTES = 1 << 20  # as much as a group's results may weigh
_WORDS = 4
_PROGRESS, _GIVEN_BACK, _POSTED, _POSTED_BYTES = range(_WORDS)
_WORD_BYTES = 8
_SLOT_BYTES = _WORDS * _WORD_BYTES + BOX_BYTES


class Board:
    """The pool's side.

    Args:
        slots: how many workers there may be at once.
    """

    def __init__(self, slots: int) -> None:
        self._descriptor = -1  # `close` is called also where one of the next lines fails
        self._map: mmap.mmap | None = None
        self._slots: list[tuple[memoryview, memoryview]] = []
        self._descriptor = os.memfd_create("miniray-pool", os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, slots * _SLOT_BYTES)
        self._map = mmap.mmap(self._descriptor, slots * _SLOT_BYTES)
        self._slots = [_words_and_box(self._map, slot) for slot in range(slots)]
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def clear(self, slot: int) -> None:
        """A new worker takes this slot."""
        words, _ = self._slots[slot]
        words[_PROGRESS] = words[_GIVEN_BACK] = words[_POSTED] = 0

    def started(self, slot: int, number: int, calls: int) -> int:
        """How many of the `calls` of a group were started by the worker of this slot."""
        return _part(self._slots[slot][0][_PROGRESS], number, calls, earlier=calls, later=0)

    def is_at(self, slot: int, number: int) -> bool:
        """Whether group `number` is the one that the worker of this slot began last."""
        return bool(self._slots[slot][0][_PROGRESS] >> INDEX_BITS == number)

    def kept(self, slot: int, number: int, calls: int) -> int:
        """How many of them it has not given back."""
        return _part(self._slots[slot][0][_GIVEN_BACK], number, calls, earlier=calls, later=calls)

    def posted(self, slot: int, number: int) -> bytes | None:
        """What its worker has put into the letterbox about a group; None: nothing, or nothing about this one."""
        words, box = self._slots[slot]
        mark = words[_POSTED]
        if mark != number:
            return None
        found = bytes(box[: words[_POSTED_BYTES]])
        return found if words[_POSTED] == mark else None

    def close(self) -> None:
        if self._descriptor >= 0:
            for words, box in self._slots:
                words.release()
                box.release()
            if self._map is not None:
                self._map.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _part(mark: int, number: int, calls: int, *, earlier: int, later: int) -> int:
    """What `mark` says of group `number`: it is of a later group than that, of an earlier one, or of this."""
    of = mark >> INDEX_BITS
    if of == number:
        return min(mark & MAX_GROUP_CALLS, calls)
    return earlier if of > number else later


def _words_and_box(shared: mmap.mmap, slot: int) -> tuple[memoryview, memoryview]:
    start = slot * _SLOT_BYTES
    view = memoryview(shared)[start : start + _SLOT_BYTES]
    return view[: _WORDS * _WORD_BYTES].cast("q"), view[_WORDS * _WORD_BYTES :]


class Marks:
    """The worker's side: its words and its letterbox."""

    def __init__(self, path: str, slot: int) -> None:
        self._map: mmap.mmap | None = None
        self.words: MutableSequence[int] | memoryview[Any] = [0] * _WORDS
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self.is_shared = False
            return
        try:
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self.words, self._box = _words_and_box(self._map, slot)
        self.is_shared = True

    def give_back(self, number: int, kept: int) -> None:
        self.words[_GIVEN_BACK] = (number << INDEX_BITS) + kept

    def post(self, number: int, content: bytes) -> None:
        """Outcomes of the first calls of a group; dropped if they are too large for the box."""
        if len(content) <= BOX_BYTES:
            self.words[_POSTED] = 0
            self._box[: len(content)] = content
            self.words[_POSTED_BYTES] = len(content)
            self.words[_POSTED] = number
