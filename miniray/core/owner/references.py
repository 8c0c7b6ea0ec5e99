"""References: what keeps a value alive (PROTOCOL.md section 4).

One row for each object that this process owns or holds. All counting of the system is here:

- `local`: live `ObjectRef`s of this process;
- `arguments`: unfinished tasks that name it, submitted from here or running here, and pins of hand-offs;
- `containers`: values kept here that contain it;
- `views`: live views of its bytes in this process. They count as a hold like the others, so a process with
  views stays a holder, and the owner needs no separate set of those to whom it has lent a place;
- `lineage`, at the owner only: kept specs of finished tasks that name it. It keeps the row, and of values only an
  inline one (`lineage.py`);
- `holders`, at the owner only: the processes that have said "I hold it". An insertion-ordered dict used as a
  set, since iteration order is part of the protocol. Only a receiver registers, on its own ordered link to the
  owner, so membership is enough (Birrell et al. 1993). Ray merges tables of borrowers instead, which its
  tracker shows to be the hardest part of it (18552, 19910, 63560).

The table changes and answers; it sends nothing. Every `release` says whether the row keeps its value still.
"""

from __future__ import annotations

from enum import Enum

from miniray.core.ids import ObjectId, ProcessId, node_of, show
from miniray.core.machine import InvariantError
from miniray.core.record import Row


class Asking(Enum):
    NO = 0
    ASKED = 1  # a `WhereIs` is out: the row stays until it is answered
    STALE = 2  # it is out, but the ref was let go meanwhile: the answer must not be used


class Owned(Row):
    local: int = 0
    arguments: int = 0
    containers: int = 0
    views: int = 0
    lineage: int = 0
    holders: dict[ProcessId, None] | None = None
    weak: ProcessId | None = None  # of an actor's creation: its own process, whose hold keeps nothing (45699)

    @property
    def keeps_value(self) -> bool:
        if self.local or self.arguments or self.containers or self.views:
            return True
        holders = self.holders
        return bool(holders and (len(holders) > 1 or self.weak not in holders))


class Borrowed(Row):
    local: int = 0
    arguments: int = 0
    containers: int = 0
    views: int = 0
    registered: bool = False  # the owner counts this process among the holders, or will once it reads its link
    arrivals: int = 0  # running tasks that came from its owner with it: their pins cover it, unregistered
    asking: Asking = Asking.NO
    orphaned: bool = False  # its owner is dead, or has said that it is gone: nobody to register with
    died: int = 0  # of an actor's creation: the last incarnation that is known here to be dead

    @property
    def keeps_value(self) -> bool:
        return bool(self.local or self.arguments or self.containers or self.views)


Reference = Owned | Borrowed


class References:
    def __init__(self, me: ProcessId) -> None:
        self._me = me
        self.rows: dict[ObjectId, Reference] = {}

    def add(self, object_id: ObjectId) -> Reference:
        """A row for an object that has none here."""
        row: Reference = Owned() if object_id[:8] == self._me else Borrowed()
        self.rows[object_id] = row
        return row

    def release_local(self, object_id: ObjectId) -> bool:
        row = self.rows[object_id]
        row.local -= 1
        return row.local > 0 or row.keeps_value

    def release_argument(self, object_id: ObjectId) -> bool:
        row = self.rows[object_id]
        row.arguments -= 1
        return row.keeps_value

    def release_container(self, object_id: ObjectId) -> bool:
        row = self.rows[object_id]
        row.containers -= 1
        return row.keeps_value

    def release_view(self, object_id: ObjectId) -> bool:
        row = self.rows[object_id]
        row.views -= 1
        return row.keeps_value

    def release_lineage(self, object_id: ObjectId) -> bool:
        """Whether its row stays."""
        row = self.rows[object_id]
        assert isinstance(row, Owned)
        row.lineage -= 1
        return row.lineage > 0 or row.keeps_value

    def add_holder(self, object_id: ObjectId, holder: ProcessId) -> bool:
        """Whether `holder` is registered now; False: the value is gone, and asking creates nothing (63560)."""
        row = self.rows.get(object_id)
        if not isinstance(row, Owned) or (row.lineage and not row.keeps_value):  # (65833)
            return False
        if row.holders is None:
            row.holders = {}
        row.holders[holder] = None
        return True

    def drop_holder(self, object_id: ObjectId, holder: ProcessId) -> bool:
        """Whether that was the last thing that kept the value. Idempotent: a drop and a death may both come (60495)."""
        row = self.rows.get(object_id)
        if not isinstance(row, Owned) or not row.holders or holder not in row.holders:
            return False
        del row.holders[holder]
        return not row.keeps_value

    def held_by(self, holder: ProcessId) -> list[ObjectId]:
        return [
            object_id
            for object_id, row in self.rows.items()
            if isinstance(row, Owned) and row.holders and holder in row.holders
        ]

    def borrowed_from(self, owner: ProcessId) -> list[ObjectId]:
        return [object_id for object_id in self.rows if object_id[:8] == owner]

    def borrowed_from_node(self, node: ProcessId) -> list[ObjectId]:
        """From all owners of another node."""
        return [object_id for object_id in self.rows if node_of(object_id) == node]

    def held_of_others(self) -> list[ObjectId]:
        rows = self.rows.items()
        return [one for one, row in rows if isinstance(row, Borrowed) and row.keeps_value and not row.orphaned]

    def held_by_others(self) -> bool:
        return any(isinstance(row, Owned) and row.holders for row in self.rows.values())

    def check(self) -> None:
        for object_id, row in self.rows.items():
            lineage = row.lineage if isinstance(row, Owned) else 0
            counts = (row.local, row.arguments, row.containers, row.views, lineage)
            if min(counts) < 0:
                raise InvariantError(f"{show(object_id)} is counted below zero: {row}")
            if not (row.keeps_value or lineage or (isinstance(row, Borrowed) and row.asking is not Asking.NO)):
                raise InvariantError(f"{show(object_id)} is kept by nothing, yet it has a row: {row}")
            if isinstance(row, Borrowed) and row.keeps_value and not (row.registered or row.arrivals or row.orphaned):
                raise InvariantError(f"{show(object_id)} is held without its owner's knowledge: {row}")
            if isinstance(row, Owned) != (object_id[:8] == self._me):
                raise InvariantError(f"{show(object_id)} has a row of the wrong kind: {row}")
