"""The board: a few words of shared memory for each worker of a pool, which outlive the worker, and a letterbox.

- `progress`: which call of which group it started last. When the process is killed this tells the call that was
  lost from those that had not begun, and may simply be run elsewhere.
- `given_back`: from which call on the worker will not run a group, since a slow call holds it up.
- `posted`, `posts`: of which group the letterbox has outcomes, and how many of them: they leave that way as soon as
  they are there, and no slow call keeps them behind it. `bounds` says where each begins and ends in the box, so that
  one which cannot be unpickled hides none behind it. An outcome is written first, then where it ends, and last the
  word that counts it: a worker that is killed in the middle of this has not posted it. Whoever reads looks at the
  group's number again afterwards. All this takes memory only where it is used.

Each word has one writer, the worker, and is written in one piece. The board is a memfd: it has no name, so no kill
can leave a file behind; workers of the same host open it through /proc. Where they cannot, nothing is given back,
and all calls of a lost group count as started.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, MutableSequence
from itertools import pairwise
from typing import Any, NamedTuple

INDEX_BITS = 24  # a mark is (group number << INDEX_BITS) + index
MAX_GROUP_CALLS = (1 << INDEX_BITS) - 1
BOX_BYTES = 1 << 20  # as much as a group's results may weigh
_SHORTEST_BYTES = 4  # of a pickle: so there are never more bounds than fit
_PROGRESS, _GIVEN_BACK, _POSTED, _POSTS, _BOUNDS = range(5)  # the first bound is 0, where the box begins
_WORDS = _BOUNDS + 1 + BOX_BYTES // _SHORTEST_BYTES
_WORD_BYTES = 8
_SLOT_BYTES = _WORDS * _WORD_BYTES + BOX_BYTES


class Board:
    """The pool's side.

    Args:
        slots: how many workers there may be at once.
    """

    def __init__(self, slots: int) -> None:
        self._descriptor = -1  # `close` is called also where one of the next lines fails
        self._maps: list[mmap.mmap] = []
        self._slots: list[tuple[memoryview, memoryview]] = []
        self._descriptor = os.memfd_create("miniray-pool", os.MFD_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self.extend(slots)

    def extend(self, slots: int) -> range:
        """So many more; those that there are stay where they are."""
        more = range(len(self._slots), len(self._slots) + slots)
        os.ftruncate(self._descriptor, more.stop * _SLOT_BYTES)
        shared = mmap.mmap(self._descriptor, more.stop * _SLOT_BYTES)
        self._maps.append(shared)
        self._slots += [_words_and_box(shared, slot) for slot in more]
        return more

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

    def posted(self, slot: int, number: int, first: int) -> Posted | None:
        """What its worker has put into the letterbox about a group, from one of its outcomes on; None: nothing."""
        words, box = self._slots[slot]
        if words[_POSTED] != number:
            return None
        bounds = words[_BOUNDS + first : _BOUNDS + words[_POSTS] + 1].tolist()
        if len(bounds) < 2:
            return None
        found = Posted(first, bounds, bytes(box[bounds[0] : bounds[-1]]))
        return found if words[_POSTED] == number else None

    def close(self) -> None:
        if self._descriptor >= 0:
            for words, box in self._slots:
                words.release()
                box.release()
            for shared in self._maps:
                shared.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


class Posted(NamedTuple):
    """Outcomes of a group from the letterbox."""

    first: int  # which call of the group the first is of
    bounds: list[int]  # in the box: where the first begins, where each ends
    content: bytes

    def pickles(self) -> Iterator[bytes]:
        box_start = self.bounds[0]
        for start, end in pairwise(self.bounds):
            yield self.content[start - box_start : end - box_start]


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
        self._posts = self._end = 0  # how many outcomes are in the box, and where they end
        self.words: MutableSequence[int] | memoryview[Any] = [0] * _BOUNDS
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

    def begin_posts(self, number: int) -> bool:
        """Outcomes of this group may go into the box, in order; whether there is one."""
        if self.is_shared:
            self.words[_POSTED] = self.words[_POSTS] = self._posts = self._end = 0
            self.words[_POSTED] = number
        return self.is_shared

    def post(self, outcome: bytes) -> bool:
        """The pickle of the next outcome of the group; whether the box has taken it."""
        start = self._end
        end = start + len(outcome)
        if end > BOX_BYTES:
            return False
        self._box[start:end] = outcome
        words, count = self.words, self._posts + 1
        words[_BOUNDS + count] = self._end = end
        words[_POSTS] = self._posts = count  # last: only now is it there
        return True
