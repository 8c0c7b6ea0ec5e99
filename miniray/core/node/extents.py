"""Extents: who has which piece of the arena, and what becomes of a dead process's pieces.

`allocator.py` has the table of ranges. A grant is reserved (in the kernel) before it is told. When the arena is
full every holder is asked once to give back what lies wholly free, and then the asker gets its answer.

A dead holder's extents are read through their ledgers: the ids name the owners, which say what still lives;
the rest is free. A dead owner's places are freed only after every process has said that no view of them is left.
All owners of a dead node are buried together, under the node's own id. Copies of other nodes' values lie in extents of
the node process itself (`transfers.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.core.ids import NODE_NUMBER, ObjectId, ProcessId, local_number, node_of, owner_of
from miniray.core.machine import Send
from miniray.core.messages import (
    ClaimPlaces,
    ExtentGranted,
    ExtentRefused,
    MakeCopy,
    NoViewsOf,
    OwnerBuried,
    ReclaimExtents,
    ViewsOf,
)
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import FreeRange, LedgerRead, ReadLedger, ReserveExtent
from miniray.core.node.transfers import Transfer, Transfers
from miniray.core.record import Effect
from miniray.core.task_spec import Place

RECLAIM_SECONDS = 0.5  # a holder that does not answer by then is passed over


class Extents:
    def __init__(self, allocator: Allocator, transfers: Transfers, emit: Callable[[Effect], None]) -> None:
        self._allocator = allocator
        self._transfers = transfers
        self._emit = emit
        self._waiting: dict[ProcessId, int] = {}  # asked for, while holders are asked to give back
        self._copies_waiting: list[Transfer] = []  # likewise
        self._asked: dict[ProcessId, None] = {}  # of whom an answer is awaited
        self._reclaim_until = 0.0
        self._burials: dict[ProcessId, dict[ProcessId, None]] = {}  # dead owner -> processes that may have views

    def request(self, now: float, holder: ProcessId, size_bytes: int, living: list[ProcessId]) -> None:
        if self._grant(holder, size_bytes):
            return
        self._waiting[holder] = size_bytes
        self._reclaim(now, living)

    def make_copy(self, now: float, owner: ProcessId, message: MakeCopy, living: list[ProcessId]) -> None:
        transfer = Transfer(owner, message.number, message.object_id, message.place)
        if not self._transfers.begin(transfer):
            self._copies_waiting.append(transfer)
            self._reclaim(now, living)

    def _reclaim(self, now: float, living: list[ProcessId]) -> None:
        """Ask every holder for what lies wholly free."""
        if not self._asked:
            self._asked = dict.fromkeys(living)
            self._reclaim_until = now + RECLAIM_SECONDS
            for process in living:
                self._emit(Send(process, ReclaimExtents()))
            self._answer_waiting()

    def _grant(self, holder: ProcessId, size_bytes: int) -> bool:
        found = self._allocator.grant(holder, size_bytes)
        if found is not None:
            self._emit(ReserveExtent(holder, *found))
        return found is not None

    def reserved(self, holder: ProcessId, offset: int, size_bytes: int, *, done: bool, lives: bool) -> None:
        if done and lives:
            self._emit(Send(holder, ExtentGranted(offset, size_bytes)))
            return
        if lives:
            self._allocator.give_back(holder, offset)  # nothing was reserved
            self._refuse(holder, size_bytes)

    def _refuse(self, holder: ProcessId, size_bytes: int) -> None:
        free, capacity = self._allocator.free_bytes, self._allocator.capacity_bytes
        self._emit(Send(holder, ExtentRefused(size_bytes, free, capacity)))

    def returned(self, holder: ProcessId, offsets: list[int]) -> None:
        for offset in offsets:
            self._freed(self._allocator.give_back(holder, offset))
        self._asked.pop(holder, None)
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        if self._asked:
            return
        waiting, self._waiting = self._waiting, {}
        for holder, size_bytes in waiting.items():
            if not self._grant(holder, size_bytes):
                self._refuse(holder, size_bytes)
        copies, self._copies_waiting = self._copies_waiting, []
        for transfer in copies:
            if not self._transfers.begin(transfer):
                self._transfers.refuse(transfer)

    # ---- deaths ----

    def process_died(self, died: ProcessId, living: list[ProcessId]) -> None:
        """A process of this host, or an owner of another one."""
        self._waiting.pop(died, None)
        self._asked.pop(died, None)
        self._answer_waiting()
        for offset, _ in self._allocator.orphan(died):
            self._emit(ReadLedger(offset))
        for owner in list(self._burials):
            self.no_views(NoViewsOf(owner), died, living)
        self._begin_burial(died, living)

    def _begin_burial(self, died: ProcessId, living: list[ProcessId]) -> None:
        """Of one owner, or of all of a node."""
        self._burials[died] = dict.fromkeys(living)
        for process in living:
            self._emit(Send(process, ViewsOf(died)))
        if not living:
            self._end_burial(died, living)

    def node_died(self, node: ProcessId, living: list[ProcessId]) -> None:
        self._begin_burial(node, living)

    def no_views(self, message: NoViewsOf, peer: ProcessId, living: list[ProcessId]) -> None:
        pending = self._burials.get(message.owner)
        if pending is None:
            return
        pending.pop(peer, None)
        if not pending:
            self._end_burial(message.owner, living)

    def _end_burial(self, owner: ProcessId, living: list[ProcessId]) -> None:
        del self._burials[owner]
        self._bury(owner)
        for process in living:
            self._emit(Send(process, OwnerBuried(owner)))

    def ledger_read(self, event: LedgerRead, may_live: Callable[[ProcessId], bool]) -> None:
        claims: dict[ProcessId, list[tuple[ObjectId, Place]]] = {}
        for object_id, place in event.objects:
            if self._allocator.keep(event.extent_offset, object_id, place):
                claims.setdefault(owner_of(object_id), []).append((object_id, place))
        self._freed(self._allocator.settle(event.extent_offset))
        for owner, places in claims.items():
            if may_live(owner):
                self._emit(Send(owner, ClaimPlaces(places)))
            elif owner not in self._burials and node_of(owner) not in self._burials:
                self._bury(owner)

    def free(self, objects: list[tuple[ObjectId, Place]]) -> None:
        for object_id, place in objects:
            if local_number(place.holder) == NODE_NUMBER:
                self._transfers.free(object_id, place)
            else:
                self._freed(self._allocator.free_place(object_id, place))

    def _bury(self, owner: ProcessId) -> None:
        whole_node = local_number(owner) == NODE_NUMBER
        owners = [one for one in self._allocator.owners_kept() if node_of(one) == owner] if whole_node else [owner]
        for one in owners:
            for freed in self._allocator.bury_owner(one):
                self._freed(freed)
        self._copies_waiting = [one for one in self._copies_waiting if owner not in (one.owner, node_of(one.owner))]
        self._transfers.bury(owner)

    def _freed(self, freed: tuple[int, int] | None) -> None:
        if freed is not None:
            self._emit(FreeRange(*freed))

    def deadline(self) -> float | None:
        return self._reclaim_until if self._asked else None

    def tick(self, now: float) -> None:
        if self._asked and self._reclaim_until <= now:
            self._asked.clear()
            self._answer_waiting()

    def statistics(self) -> dict[str, int]:
        return {
            "extent_waits": len(self._waiting) + len(self._copies_waiting),
            "burials": len(self._burials),
            "orphaned_bytes": self._allocator.statistics().get("orphaned_bytes", 0),
        }
