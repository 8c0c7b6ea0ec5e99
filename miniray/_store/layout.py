"""How an extent is laid out: its ledger, then places, and which ranges between them are free.

    | header row | ledger rows of 64 bytes ... | place | free | place | ...      all places begin on a page

The ledger says which objects lie in the extent, so that the node can read it after the holder was killed.

- The node writes the header and clears the rows (`clear_ledger`) *before* it grants the extent: the memory may
  hold an earlier life's bytes. From then on only the holder writes.
- A row is in use when its state byte says so. The byte is one store, and it is written last when a row is
  made and first when it is dropped; other stores of a killed process are all visible to others. So the row
  that a kill tears is a row that is not in use.
- Only sealed rows are reported: nobody but its maker can know of an object that was not sealed.
- One row for each 64 KiB of the extent, 63 at least (smaller values travel inline). A full ledger counts like
  a full extent: the client asks for another one.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from miniray._store.arena import PAGE_BYTES, round_up
from miniray.core.ids import OBJECT_ID_BYTES, ObjectId, ProcessId
from miniray.core.task_spec import Place

ROW_BYTES = 64  # a cache line: two rows never share one
BYTES_PER_ROW = 64 << 10

_MAGIC = b"mrLedgr1"
_HEADER = struct.Struct("<8sQQ8s")  # magic, offset, size, holder
_ROW = struct.Struct(f"<QQ{OBJECT_ID_BYTES}s")  # offset, size, object; then the state byte
_STATE_AT = _ROW.size

_UNUSED, _WRITING, _SEALED = 0, 1, 2


class LedgerError(ValueError):
    """There is no ledger where there should be one: the memory was overwritten."""


def ledger_bytes(extent_bytes: int) -> int:
    """Room that the ledger takes at the start of an extent, header included."""
    return round_up(max(extent_bytes // BYTES_PER_ROW, 1) * ROW_BYTES)


def extent_bytes_for(object_bytes: int) -> int:
    """The smallest extent in which one object of this size fits; every larger one does as well."""
    places = round_up(max(object_bytes, 1))
    extent = places + PAGE_BYTES
    while extent - ledger_bytes(extent) < places:
        extent = places + ledger_bytes(extent)
    return extent


def clear_ledger(view: memoryview, offset: int, extent_bytes: int, holder: ProcessId) -> None:
    """Make an empty ledger. The node does this after it has reserved an extent and before it grants it."""
    view[offset : offset + ledger_bytes(extent_bytes)] = bytes(ledger_bytes(extent_bytes))
    _HEADER.pack_into(view, offset, _MAGIC, offset, extent_bytes, holder)


def read_header(view: memoryview, offset: int) -> tuple[int, ProcessId]:
    """(size, holder) of the extent at `offset`.

    Raises:
        LedgerError: no extent begins there.
    """
    magic, at, size_bytes, holder = _HEADER.unpack_from(view, offset)
    if magic != _MAGIC or at != offset or size_bytes % PAGE_BYTES or offset + size_bytes > len(view):
        raise LedgerError(f"no ledger at {offset} of the arena")
    return size_bytes, ProcessId(holder)


def read_ledger(view: memoryview, offset: int) -> list[tuple[ObjectId, Place]]:
    """The sealed objects of the extent at `offset`, in the order of their rows; for the node, after a death.

    Raises:
        LedgerError: the ledger was overwritten; what lies in the extent cannot be told.
    """
    size_bytes, holder = read_header(view, offset)
    first = offset + ledger_bytes(size_bytes)
    found = []
    for at in range(offset + ROW_BYTES, first, ROW_BYTES):
        if view[at + _STATE_AT] != _SEALED:
            continue
        start, length, object_id = _ROW.unpack_from(view, at)
        if start < first or start % PAGE_BYTES or start + length > offset + size_bytes:
            raise LedgerError(f"the ledger at {offset} names a place outside its extent: {start}, {length} bytes")
        found.append((ObjectId(object_id), Place(holder, start, length)))
    return found


class Ledger:
    """The holder's pen. Rows are reused last in, first out: those pages are warm."""

    def __init__(self, view: memoryview, offset: int) -> None:
        self.size_bytes, self.holder = read_header(view, offset)
        self.first_place = offset + ledger_bytes(self.size_bytes)
        self._view = view
        self._unused = list(range(self.first_place - ROW_BYTES, offset, -ROW_BYTES))

    @property
    def is_full(self) -> bool:
        return not self._unused

    def add(self, object_id: ObjectId, offset: int, size_bytes: int) -> int:
        """The row (where it lies in the arena) that says: here is this object, still being written."""
        at = self._unused.pop()
        _ROW.pack_into(self._view, at, offset, size_bytes, object_id)
        self._view[at + _STATE_AT] = _WRITING
        return at

    def seal(self, at: int) -> None:
        self._view[at + _STATE_AT] = _SEALED

    def remove(self, at: int) -> None:
        self._view[at + _STATE_AT] = _UNUSED
        self._unused.append(at)


class FreeRanges:
    """The free ranges of one process's extents. Neighbours are always joined.

    Sorted lists of ints beat any tree in Python: a search in 10,000 ranges takes under a microsecond, an
    insertion moves 80 KB at worst. Ranges of two extents never join: a ledger lies between them.
    """

    def __init__(self) -> None:
        self.free_bytes = 0
        self._sizes: dict[int, int] = {}  # start -> size
        self._starts: list[int] = []  # sorted
        self._by_size: list[tuple[int, int]] = []  # (size, start), sorted

    def __len__(self) -> int:
        return len(self._starts)

    def ranges(self) -> list[tuple[int, int]]:
        return [(start, self._sizes[start]) for start in self._starts]

    @property
    def largest_bytes(self) -> int:
        return self._by_size[-1][0] if self._by_size else 0

    def fitting(self, size_bytes: int) -> Iterator[int]:
        """Starts of ranges of at least this size, the tightest first, the lowest of equals first."""
        for index in range(bisect_left(self._by_size, (size_bytes, -1)), len(self._by_size)):
            yield self._by_size[index][1]

    def holds(self, start: int, size_bytes: int) -> bool:
        """Whether all of this range is free."""
        index = bisect_right(self._starts, start) - 1
        if index < 0:
            return False
        found = self._starts[index]
        return start + size_bytes <= found + self._sizes[found]

    def add(self, start: int, size_bytes: int) -> None:
        """Free a range. It must not be free, not even in part: that would give one place to two objects."""
        index = bisect_left(self._starts, start)
        end = start + size_bytes
        self.free_bytes += size_bytes
        if index < len(self._starts):
            following = self._starts[index]
            assert end <= following, f"freed twice: {start}, {size_bytes} bytes"
            if end == following:
                end += self._sizes[following]
                self._forget(index)
        if index:
            before = self._starts[index - 1]
            assert before + self._sizes[before] <= start, f"freed twice: {start}, {size_bytes} bytes"
            if before + self._sizes[before] == start:
                start = before
                self._forget(index - 1)
        self._remember(start, end - start)

    def take(self, start: int, size_bytes: int) -> None:
        """Use a range that is free; what lies beside it in the same free range stays free."""
        assert self.holds(start, size_bytes), f"not free: {start}, {size_bytes} bytes"
        index = bisect_right(self._starts, start) - 1
        found = self._starts[index]
        end = found + self._sizes[found]
        self.free_bytes -= size_bytes
        self._forget(index)
        if found < start:
            self._remember(found, start - found)
        if start + size_bytes < end:
            self._remember(start + size_bytes, end - start - size_bytes)

    def _remember(self, start: int, size_bytes: int) -> None:
        self._sizes[start] = size_bytes
        insort(self._starts, start)
        insort(self._by_size, (size_bytes, start))

    def _forget(self, index: int) -> None:
        start = self._starts.pop(index)
        size_bytes = self._sizes.pop(start)
        self._by_size.pop(bisect_left(self._by_size, (size_bytes, start)))
