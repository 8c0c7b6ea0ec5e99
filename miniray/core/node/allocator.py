"""The node's table of the arena: which process holds which extent, and what is free (DESIGN.md section 5).

Numbers only: reserving memory, clearing ledgers and giving pages back are effects of the node's machine.

- Each byte from `first_offset` on is in exactly one range: free, or an extent. Free neighbours are joined.
- A living holder frees its places by itself; this table hears of them when the holder is dead. Its extents
  are then *orphaned*, and each stays until nothing in it lives:

      granted --orphan--> ledger being read --settled--> places live --the last one freed--> free
                                                 '--none live--> free

- A free, or the burial of an owner, may come while a ledger is being read. It is remembered, and `keep` of
  what it named does nothing: a place must not outlive its last free.
- Whatever makes a range free returns it as (offset, size), for the machine to give its pages back.

Sizes. A process that returns one small result must not pin 64 MiB of real memory, and one that fills the
store must not ask for each object: so the first grant is 8 MiB, later ones double what the process holds, up
to 64 MiB (64 MiB take 14 ms to reserve, 8 MiB under 2). Neither exceeds a 16th of the arena, or a small arena
would be gone when two processes had asked. An object that needs more gets what it needs.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, ProcessId, owner_of
from miniray.core.machine import InvariantError
from miniray.core.record import Row
from miniray.core.task_spec import Place

FIRST_GRANT_BYTES = 8 << 20
LARGEST_GRANT_BYTES = 64 << 20
GRANTS_IN_ARENA = 16  # no grant is more than this fraction of the arena, unless one object needs it
UNIT_BYTES = 64 << 10  # every extent is a multiple: whole pages on every platform, few odd gaps
LARGE_UNIT_BYTES = 2 << 20  # for extents from 32 times this on: like sizes fit into each other's gaps

Range = tuple[int, int]  # offset, size in bytes


class _Extent(Row):
    holder: ProcessId
    size_bytes: int
    orphaned: bool = False
    settled: bool = False  # orphaned, and its ledger has been read
    kept: dict[int, ObjectId] = {}  # offset of each place that lives in it; only of an orphan
    places: dict[int, Place] = {}
    freed_early: dict[Place, ObjectId] = {}  # while its ledger was being read
    buried_early: dict[ProcessId, None] = {}


class Allocator:
    """The extents of one arena.

    Args:
        capacity_bytes: length of the arena; what is left of it after the last whole unit is not used.
        first_offset: where the first extent may begin.
    """

    def __init__(self, capacity_bytes: int, first_offset: int) -> None:
        first = _round_up(first_offset, UNIT_BYTES)
        self.first_offset = first
        self.capacity_bytes = max(capacity_bytes - capacity_bytes % UNIT_BYTES - first, 0)  # that can be granted
        self._free: list[Range] = [(first, self.capacity_bytes)] if self.capacity_bytes else []  # by offset
        self._extents: dict[int, _Extent] = {}
        self._place_extents: dict[int, int] = {}  # offset of a kept place -> of its extent

    # ---- grants -------------------------------------------------------------------------------------

    def grant(self, holder: ProcessId, size_bytes: int, *, exactly: bool = False) -> Range | None:
        """An extent of at least `size_bytes` for `holder`; None when no free range is that large. `exactly`: and not
        more than the next whole unit."""
        needed = _round_up(max(size_bytes, 1), UNIT_BYTES)
        size = min(needed if exactly else self._wanted(holder, needed), self.largest_free_bytes)
        if size < needed:
            return None
        index = min((size_there, index) for index, (_, size_there) in enumerate(self._free) if size_there >= size)[1]
        offset, size_there = self._free[index]
        self._free[index : index + 1] = [(offset + size, size_there - size)] if size_there > size else []
        self._extents[offset] = _Extent(holder, size)
        return offset, size

    def give_back(self, holder: ProcessId, offset: int) -> Range | None:
        """Free an extent that its living holder returns (or for which no memory was there); None: not its own."""
        extent = self._extents.get(offset)
        if extent is None or extent.holder != holder or extent.orphaned:
            return None
        return self._release(offset)

    def extents_of(self, holder: ProcessId) -> list[Range]:
        """What it holds, dead or alive, in the order of the grants."""
        return [(offset, extent.size_bytes) for offset, extent in self._extents.items() if extent.holder == holder]

    # ---- after a holder's death ------------------------------------------------------------------------

    def orphan(self, holder: ProcessId) -> list[Range]:
        """The holder is dead: its extents, whose ledgers are to be read now. A second time: none."""
        found = []
        for offset, extent in self._extents.items():
            if extent.holder == holder and not extent.orphaned:
                extent.orphaned = True
                found.append((offset, extent.size_bytes))
        return found

    def keep(self, extent_offset: int, object_id: ObjectId, place: Place) -> bool:
        """The ledger of an orphan names a place: it lives until it is freed. False: it was freed already."""
        extent = self._extents.get(extent_offset)
        if extent is None or not extent.orphaned or extent.settled:
            return False
        if extent.freed_early.get(place) == object_id or owner_of(object_id) in extent.buried_early:
            return False
        extent.kept[place.offset] = object_id
        extent.places[place.offset] = place
        self._place_extents[place.offset] = extent_offset
        return True

    def owners_kept(self) -> list[ProcessId]:
        """The owners of what lives in orphans."""
        return list({owner_of(one): None for extent in self._extents.values() for one in extent.kept.values()})

    def settle(self, extent_offset: int) -> Range | None:
        """All that its ledger names is kept. The range, when nothing in it lives."""
        extent = self._extents.get(extent_offset)
        if extent is None or not extent.orphaned:
            return None
        extent.settled = True
        extent.freed_early.clear()
        extent.buried_early.clear()
        return None if extent.kept else self._release(extent_offset)

    def free_place(self, object_id: ObjectId, place: Place) -> Range | None:
        """Free a place in an orphan; ignored unless object and place match. The range, if it was the last."""
        extent_offset = self._place_extents.get(place.offset)
        if extent_offset is None:
            for extent in self._extents.values():
                if extent.orphaned and not extent.settled and extent.holder == place.holder:
                    extent.freed_early[place] = object_id
            return None
        extent = self._extents[extent_offset]
        if extent.kept[place.offset] != object_id or extent.places[place.offset] != place:
            return None
        return self._drop_place(extent_offset, place.offset)

    def bury_owner(self, owner: ProcessId) -> list[Range]:
        """Nobody looks at this dead owner's objects any more: free those in orphans; the ranges that became free."""
        freed = []
        for extent_offset, extent in list(self._extents.items()):
            if extent.orphaned and not extent.settled:
                extent.buried_early[owner] = None
            for offset in [at for at, object_id in extent.kept.items() if owner_of(object_id) == owner]:
                released = self._drop_place(extent_offset, offset)
                if released:
                    freed.append(released)
        return freed

    # ---- figures ------------------------------------------------------------------------------------

    @property
    def free_bytes(self) -> int:
        return sum(size for _, size in self._free)

    @property
    def largest_free_bytes(self) -> int:
        return max((size for _, size in self._free), default=0)

    def statistics(self) -> dict[str, int]:
        """All zero at quiescence but `free_bytes`, which is then `capacity_bytes`."""
        orphans = [extent for extent in self._extents.values() if extent.orphaned]
        return {
            "extents": len(self._extents),
            "granted_bytes": sum(extent.size_bytes for extent in self._extents.values()),
            "orphaned_extents": len(orphans),
            "orphaned_bytes": sum(extent.size_bytes for extent in orphans),
            "kept_places": len(self._place_extents),
            "free_bytes": self.free_bytes,
        }

    def check(self) -> None:
        """Each byte in one range, free neighbours joined, kept places within their own orphan."""
        held = [(offset, extent.size_bytes, False) for offset, extent in self._extents.items()]
        at, after_free = self.first_offset, False
        for offset, size, free in sorted([*held, *((offset, size, True) for offset, size in self._free)]):
            _hold(offset == at and size > 0, f"a range begins at {offset}, the one before it ends at {at}")
            _hold(not (free and after_free), f"two free neighbours at {offset}")
            at, after_free = offset + size, free
        _hold(at == self.first_offset + self.capacity_bytes, f"the ranges end at {at}")
        kept = 0
        for offset, extent in self._extents.items():
            _hold(extent.orphaned or not extent.kept, f"places kept in the living extent {offset}")
            _hold(bool(extent.kept) or not extent.settled, f"the orphan {offset} is empty and not free")
            for start, place in extent.places.items():
                _hold(start in extent.kept and self._place_extents.get(start) == offset, f"{place} is misfiled")
                _hold(offset <= start and start + place.size_bytes <= offset + extent.size_bytes, f"{place} is outside")
            kept += len(extent.kept)
        _hold(kept == len(self._place_extents), "a place is filed under an extent that does not keep it")

    # ---- within -------------------------------------------------------------------------------------

    def _wanted(self, holder: ProcessId, needed: int) -> int:
        held = sum(size for _, size in self.extents_of(holder))
        usual = min(max(held, FIRST_GRANT_BYTES), LARGEST_GRANT_BYTES, self.capacity_bytes // GRANTS_IN_ARENA)
        size = max(_round_up(usual, UNIT_BYTES), needed)
        return _round_up(size, LARGE_UNIT_BYTES) if size >= 32 * LARGE_UNIT_BYTES else size

    def _drop_place(self, extent_offset: int, offset: int) -> Range | None:
        extent = self._extents[extent_offset]
        del extent.kept[offset], extent.places[offset], self._place_extents[offset]
        return self._release(extent_offset) if extent.settled and not extent.kept else None

    def _release(self, offset: int) -> Range:
        size = self._extents.pop(offset).size_bytes
        joined: list[Range] = []
        for at, length in sorted([*self._free, (offset, size)]):
            if joined and joined[-1][0] + joined[-1][1] == at:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((at, length))
        self._free = joined
        return offset, size


def _round_up(size_bytes: int, unit_bytes: int) -> int:
    return -(-size_bytes // unit_bytes) * unit_bytes


def _hold(condition: bool, story: str) -> None:
    if not condition:
        raise InvariantError(story)
