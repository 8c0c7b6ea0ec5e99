"""One process's store: create, write, seal and free places in its own extents, with no round trip.

- Called under the state lock, but for `write`, `view` and `copy_into`: a copy of 100 MB must not hold it. That
  is safe since a place between `create` and `seal` belongs to its creator alone: a `free` that comes meanwhile
  is remembered and done by `seal`.
- A place begins on a page and fills whole pages, so that it can be mapped privately (Arena.private_view).
- `free` compares object, offset, size and holder with the ledger and ignores what does not match: a repeated
  free must not hit a place that was used again (PROTOCOL.md section 4, "Places are lent").
- Warmth decides the speed of a copy, so it is kept for each page. GB/s measured for 100 MB:

      page           pwrite               memcpy
      cold           5.2 to 6.9  <- used   1.7 to 2.2
      written once   4.8 to 7.0           3.0 to 3.8, its pages mapped in one go first  <- used
      mapped         6.8                 12   to 17   <- used

  Mapping pays only when the memory is used again, so it waits for the second time. (In a virtual machine,
  memory that the machine itself never touched costs 0.4 to 0.6 whoever touches it first, and however.)
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right, insort
from typing import Any

from miniray._store.arena import PAGE_BYTES, Arena, round_up
from miniray._store.layout import FreeRanges, Ledger, extent_bytes_for
from miniray.core.ids import NODE_NUMBER, ObjectId, ProcessId, local_number, node_of, owner_of
from miniray.core.record import Row
from miniray.core.task_spec import Place

_COPY_CHUNK_BYTES = 4 << 20  # slice assignment keeps the GIL: 0.3 ms, then others may have it
_FITS_COMPARED = 4  # of the tightest free ranges, the warmest is taken
_RECENT_SIZES = 64  # so many sizes are remembered with the place that was freed last
_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python has no name for it

_COLD, _WRITTEN, _MAPPED = 0, 1, 2
_COLD_BYTE, _WRITTEN_BYTE, _MAPPED_BYTE = b"\0", b"\1", b"\2"


class _Extent:
    def __init__(self, arena: Arena, offset: int) -> None:
        self.offset = offset
        self.ledger = Ledger(arena.view, offset)
        self.places = 0  # that live in it
        self.warmth = bytearray(self.ledger.size_bytes // PAGE_BYTES)  # of each page, for this process

    def pages(self, start: int, size_bytes: int) -> tuple[int, int]:
        return (start - self.offset) // PAGE_BYTES, -(-(start + size_bytes - self.offset) // PAGE_BYTES)

    def warm_bytes(self, start: int, size_bytes: int) -> int:
        """How much of a range is not cold, counted up to its first cold page."""
        first, end = self.pages(start, size_bytes)
        cold = self.warmth.find(_COLD, first, end)
        return size_bytes if cold < 0 else (cold - first) * PAGE_BYTES


class _Live(Row):
    """A place in use."""

    object_id: ObjectId
    place: Place
    extent: _Extent
    row: int  # of its extent's ledger
    sealed: bool = False
    doomed: bool = False  # freed while it was being written: `seal` frees it


class StoreClient:
    """The places of process `me` in `arena`."""

    def __init__(self, arena: Arena, me: ProcessId) -> None:
        self.arena = arena
        self.live_bytes = 0
        self._me = me
        self._free = FreeRanges()
        self._live: dict[int, _Live] = {}  # by offset
        self._extents: dict[int, _Extent] = {}
        self._extent_starts: list[int] = []  # sorted
        self._recent: dict[int, int] = {}  # size of a place -> where one of that size was freed last

    # ---- extents ------------------------------------------------------------------------------------

    def extent_size_for(self, size_bytes: int) -> int:
        """What to ask the node for when `create` of an object of this size found no room."""
        return extent_bytes_for(size_bytes)

    def add_extent(self, offset: int, size_bytes: int) -> None:
        """Use an extent that was granted.

        Raises:
            LedgerError: the node has not prepared it (`layout.clear_ledger`).
        """
        extent = _Extent(self.arena, offset)
        ledger = extent.ledger
        assert offset not in self._extents and ledger.size_bytes == size_bytes and ledger.holder == self._me
        self._extents[offset] = extent
        insort(self._extent_starts, offset)
        self._free.add(ledger.first_place, offset + size_bytes - ledger.first_place)

    def give_back(self) -> list[int]:
        """Forget the extents in which nothing lives; their offsets, for `ExtentsReturned`."""
        returned = [offset for offset, extent in self._extents.items() if not extent.places]
        for offset in returned:
            extent = self._extents.pop(offset)
            self._extent_starts.remove(offset)
            self._free.take(extent.ledger.first_place, offset + extent.ledger.size_bytes - extent.ledger.first_place)
        return returned

    # ---- places -------------------------------------------------------------------------------------

    def create(self, object_id: ObjectId, size_bytes: int) -> Place | None:
        """A place for an object, to be written and then sealed; None: ask for another extent first."""
        need = round_up(size_bytes or 1)
        chosen = self._choose(need)
        if chosen is None:
            return None
        start, extent = chosen
        self._free.take(start, need)
        place = Place(self._me, start, size_bytes)
        row = extent.ledger.add(object_id, start, size_bytes)
        self._live[start] = _Live(object_id, place, extent, row)
        extent.places += 1
        self.live_bytes += size_bytes
        return place

    def seal(self, object_id: ObjectId, place: Place) -> bool:
        """Make it readable for all; False when it was freed meanwhile, and is gone now."""
        live = self._find(object_id, place)
        assert live is not None and not live.sealed, "only its creator seals, once"
        live.extent.ledger.seal(live.row)
        live.sealed = True
        if live.doomed:
            self._release(live)
        return not live.doomed

    def free(self, object_id: ObjectId, place: Place) -> bool:
        """Whether the place was this object's; it is free now (or will be, as soon as its creator seals it)."""
        live = self._find(object_id, place)
        if live is None or live.doomed:
            return False
        if live.sealed:
            self._release(live)
        else:
            live.doomed = True
        return True

    def abandon(self, object_id: ObjectId, place: Place) -> None:
        """The creator could not finish (the value would not serialize): the place is free at once."""
        live = self._find(object_id, place)
        assert live is not None and not live.sealed, "only its creator abandons, instead of sealing"
        self._release(live)

    def places_owned_by(self, owner: ProcessId) -> list[tuple[ObjectId, Place]]:
        """Every place here of an object of `owner`, for its burial; also those still being written. A node's id: of all
        owners there."""
        whole_node = local_number(owner) == NODE_NUMBER
        return [
            (live.object_id, live.place)
            for live in self._live.values()
            if (node_of(live.object_id) if whole_node else owner_of(live.object_id)) == owner
        ]

    def statistics(self) -> dict[str, int]:
        return {
            "extents": len(self._extents),
            "extent_bytes": sum(extent.ledger.size_bytes for extent in self._extents.values()),
            "live_places": len(self._live),
            "live_bytes": self.live_bytes,
            "free_bytes": self._free.free_bytes,
            "free_ranges": len(self._free),
            "largest_free_bytes": self._free.largest_bytes,
        }

    def check(self) -> None:
        """Assert that places and free ranges fill the extents exactly."""
        used = [(start, round_up(live.place.size_bytes or 1)) for start, live in self._live.items()]
        ledgers = [(offset, e.ledger.first_place - offset) for offset, e in self._extents.items()]
        at: dict[int, int] = dict([*used, *ledgers, *self._free.ranges()])
        assert len(at) == len(used) + len(ledgers) + len(self._free), "two ranges begin at one offset"
        for offset, extent in self._extents.items():
            end = offset + extent.ledger.size_bytes
            while offset < end:
                assert offset in at, f"nobody knows of {offset}"
                offset += at.pop(offset)
            assert offset == end, "a range leaves its extent"
        assert not at, f"ranges outside of all extents: {at}"

    # ---- bytes: without the lock -----------------------------------------------------------------------

    def view(self, place: Place) -> memoryview:
        """The bytes of a place, anyone's; writable only for its creator, until it is sealed."""
        view = self.arena.view[place.offset : place.offset + place.size_bytes]
        live = self._live.get(place.offset)
        writable = live is not None and live.place == place and not live.sealed
        return view if writable else view.toreadonly()

    def write(self, place: Place, parts: list[tuple[int, Any]]) -> None:
        """Copy buffers to their offsets within an unsealed place, the fastest way for its pages.

        A place with any cold page is written by `pwrite` as a whole: by its third use it is all mapped.
        """
        live = self._live[place.offset]
        assert live.place == place and not live.sealed, "only an unsealed place of this process is written"
        warmth = live.extent.warmth
        first, end = live.extent.pages(place.offset, place.size_bytes)
        cold = warmth.find(_COLD, first, end) >= 0
        populate = not cold and warmth.find(_WRITTEN, first, end) >= 0
        for offset, part in parts:
            source = as_bytes(part)
            if offset < 0 or offset + len(source) > place.size_bytes:
                raise ValueError(f"{len(source)} bytes at {offset} leave a place of {place.size_bytes}")
            start = place.offset + offset
            if cold:
                self._pwrite(start, source)
            elif populate:
                self._populate_and_copy(start, source)
            else:
                copy_into(self.arena.view[start : start + len(source)], source)
        if cold:
            warmth[first:end] = warmth[first:end].replace(_COLD_BYTE, _WRITTEN_BYTE)
        elif populate:
            warmth[first:end] = warmth[first:end].replace(_WRITTEN_BYTE, _MAPPED_BYTE)

    def _pwrite(self, start: int, source: memoryview) -> None:
        done = 0
        while done < len(source):  # one call moves 2 GiB at most
            done += os.pwrite(self.arena.fd, source[done:], start + done)

    def _populate_and_copy(self, start: int, source: memoryview) -> None:
        for done in range(0, len(source), _COPY_CHUNK_BYTES):
            chunk = source[done : done + _COPY_CHUNK_BYTES]
            at = start + done
            aligned = at - at % mmap.PAGESIZE
            try:
                self.arena.map.madvise(_MADV_POPULATE_WRITE, aligned, at + len(chunk) - aligned)
            except OSError:  # an older kernel: the copy faults the pages in, one by one
                pass
            self.arena.view[at : at + len(chunk)] = chunk

    # ---- within -------------------------------------------------------------------------------------

    def _choose(self, need: int) -> tuple[int, _Extent] | None:
        """Where the last place of this size was freed; else the warmest of the tightest few ranges.

        Going back into the middle of a free range fragments it no more than it was just before.
        """
        recent = self._recent.pop(need, None)
        if recent is not None and self._free.holds(recent, need):
            extent = self._extent_at(recent)
            if not extent.ledger.is_full:
                return recent, extent
        best: tuple[int, _Extent] | None = None
        best_warm, compared = -1, 0
        for start in self._free.fitting(need):
            extent = self._extent_at(start)
            if extent.ledger.is_full:
                continue
            warm = extent.warm_bytes(start, need)
            if warm > best_warm:
                best, best_warm = (start, extent), warm
            compared += 1
            if warm == need or compared == _FITS_COMPARED:
                break
        return best

    def _extent_at(self, offset: int) -> _Extent:
        return self._extents[self._extent_starts[bisect_right(self._extent_starts, offset) - 1]]

    def _find(self, object_id: ObjectId, place: Place) -> _Live | None:
        live = self._live.get(place.offset)
        return live if live is not None and live.object_id == object_id and live.place == place else None

    def _release(self, live: _Live) -> None:
        """Order duty: first the ledger, then the table; a reader of the ledger must never see a reused place."""
        start, need = live.place.offset, round_up(live.place.size_bytes or 1)
        live.extent.ledger.remove(live.row)
        live.extent.places -= 1
        del self._live[start]
        self.live_bytes -= live.place.size_bytes
        self._free.add(start, need)
        self._recent.pop(need, None)
        self._recent[need] = start
        if len(self._recent) > _RECENT_SIZES:
            del self._recent[next(iter(self._recent))]


def as_bytes(source: Any) -> memoryview:
    """Any contiguous buffer as a flat view of its bytes."""
    view = memoryview(source)
    if view.nbytes == 0:
        return memoryview(b"")  # an empty array has a zero in its shape, and cannot be cast
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def copy_into(target: memoryview, source: Any) -> None:
    """Copy all of `source` to the start of `target`, in chunks between which other threads may run.

    Plain slices: NumPy's copy of 100 MB is no faster (15 GB/s against 16).
    """
    view = as_bytes(source)
    for start in range(0, len(view), _COPY_CHUNK_BYTES):
        target[start : min(start + _COPY_CHUNK_BYTES, len(view))] = view[start : start + _COPY_CHUNK_BYTES]
