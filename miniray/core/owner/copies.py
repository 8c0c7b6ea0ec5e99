"""Copies: on which nodes a stored value of this process lies, and where one is being made (PROTOCOL.md section 3).

A process reads only what lies on its own node. The place in `Objects.values` is the primary; the others are kept here,
for values that have more than one copy or are to have one: of one node there is nothing in this table.

- Only the owner lends places, so only it has copies made: it asks the node of whoever needs one (`MakeCopy`). One copy
  is under way for each object and node, and all who wait there share it.
- A source is not kept for the sake of a copy. An answer counts if its number is known: that is forgotten with the
  value, so what was read of a freed place is never lent. What does not count is freed (dropped, never ignored).
- A node always answers: it could read the source, or has heard that the source's node is dead, or has no room. If it
  dies itself, all who waited there are dead. So a copy under way always ends; while one is, nothing is lost.
- The primary of a dead node is followed by any other copy. On the owner's own node a copy is always the primary, since
  the owner reads what `values` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from miniray.core.failures import Failure
from miniray.core.ids import NODE_NUMBER, ObjectId, ProcessId, local_number, node_of, same_node, show
from miniray.core.machine import InvariantError, Send
from miniray.core.messages import CopyFailed, CopyMade, CopyRefused, FreeOrphans, MakeCopy, RefGone, ValueIs
from miniray.core.owner.objects import Objects
from miniray.core.record import Effect, Row
from miniray.core.task_spec import Failed, Place, Stored, Value


class UnderWay(Row):
    """A copy that a node is making."""

    number: int
    source: Place
    askers: dict[ProcessId, None] = {}  # of that node; this process itself, if it is on it


class Copies(Row):
    """Of one object, beside its primary; by node."""

    secondaries: dict[ProcessId, Place] = {}
    under_way: dict[ProcessId, UnderWay] = {}


class CopyTable:
    def __init__(
        self, me: ProcessId, objects: Objects, dead_nodes: Mapping[ProcessId, None], emit: Callable[[Effect], None]
    ) -> None:
        self._me = me
        self._objects = objects
        self._dead_nodes = dead_nodes
        self._emit = emit
        self._last_number = 0
        self._numbers: dict[int, ObjectId] = {}  # of copies under way
        self.rows: dict[ObjectId, Copies] = {}
        #: Own values that cannot be read on this node, and why not, if it was tried. Of borrowed ones only the latter,
        #: which is in `values` too, until somebody asks again.
        self.elsewhere: dict[ObjectId, Failed | None] = {}

    # ---- where it lies ----

    def on_node_of(self, object_id: ObjectId, value: Stored, process: ProcessId) -> Stored | None:
        """The value as this process can read it."""
        if same_node(value.place.holder, process):
            return value
        row = self.rows.get(object_id)
        place = row.secondaries.get(node_of(process)) if row is not None else None
        return None if place is None else Stored(place, value.contains)

    def is_copy(self, object_id: ObjectId, place: Place) -> bool:
        value = self._objects.values.get(object_id)
        if not isinstance(value, Stored):
            return False
        row = self.rows.get(object_id)
        return value.place == place or (row is not None and place in row.secondaries.values())

    def was_set(self, object_id: ObjectId, value: Value) -> None:
        if type(value) is Stored and not same_node(value.place.holder, self._me):
            self.elsewhere[object_id] = None
        elif self.elsewhere:
            self.elsewhere.pop(object_id, None)

    # ---- making ----

    def answer(self, object_id: ObjectId, value: Value, asker: ProcessId) -> None:
        """Tell who asked for the value; if it cannot read it yet, when it can. This process looks by itself."""
        if type(value) is Stored:
            here = self.on_node_of(object_id, value, asker)
            if here is None:
                self.make(object_id, value, asker, wanted=True)
                return
            value = here
        if asker != self._me:
            self._emit(Send(asker, ValueIs(object_id, value)))

    def make(self, object_id: ObjectId, value: Stored, reader: ProcessId, *, wanted: bool) -> None:
        """Have a copy made on the node of `reader`; `wanted`: it has asked, and is told."""
        node = node_of(reader)
        if node in self._dead_nodes:
            return
        row = self.rows.get(object_id)
        if row is None or node not in row.under_way:
            source = self._source(object_id, value)
            if source is None:  # the last copy that is under way decides what becomes of it
                if wanted:
                    self._objects.ask(object_id, reader)
                return
            if row is None:
                row = self.rows[object_id] = Copies()
            self._last_number += 1
            self._numbers[self._last_number] = object_id
            row.under_way[node] = UnderWay(self._last_number, source)
            self._emit(Send(node, MakeCopy(self._last_number, object_id, source)))
        if wanted:
            row.under_way[node].askers[reader] = None

    def _source(self, object_id: ObjectId, value: Stored) -> Place | None:
        row = self.rows.get(object_id)
        places: list[Place] = [value.place, *(row.secondaries.values() if row is not None else ())]
        for place in places:
            if node_of(place.holder) not in self._dead_nodes:
                return place
        return None

    # ---- what nodes answer ----

    def source_node(self, number: int, node: ProcessId) -> ProcessId | None:
        """Whence this copy was to come."""
        object_id = self._numbers.get(number)
        return None if object_id is None else node_of(self.rows[object_id].under_way[node].source.holder)

    def made(self, message: CopyMade, node: ProcessId) -> bool:
        """Whether this process can read it now."""
        object_id = self._numbers.pop(message.number, None)
        if object_id is None:
            self._emit(Send(node, FreeOrphans([(message.object_id, message.place)])))
            return False
        row = self.rows[object_id]
        askers = row.under_way.pop(node).askers
        value = self._objects.values[object_id]
        assert isinstance(value, Stored), f"{show(object_id)} has copies, and no stored value"
        old = node_of(value.place.holder)
        mine, late = same_node(node, self._me), old in self._dead_nodes
        copy = Stored(message.place, value.contains)
        if mine or late:
            self._objects.values[object_id] = copy
            if not late:
                row.secondaries[old] = value.place
            if mine:
                del self.elsewhere[object_id]
        else:
            row.secondaries[node] = message.place
        self._tidy(object_id, row)
        for asker in askers:
            if asker != self._me:
                self._emit(Send(asker, ValueIs(object_id, copy)))
        if late:
            self._answer_all(object_id, copy)
        return mine

    def _answer_all(self, object_id: ObjectId, value: Value) -> None:
        """It is known again where it lies: those who have asked meanwhile."""
        for asker in self._objects.take_askers(object_id):
            self.answer(object_id, value, asker)

    def failed(self, message: CopyFailed, node: ProcessId) -> ObjectId | None:
        """The object, if this concerns one. That the source's node is dead has been taken in by now."""
        object_id = self._numbers.pop(message.number, None)
        if object_id is None:
            return None
        row = self.rows[object_id]
        askers = row.under_way.pop(node).askers
        self._tidy(object_id, row)
        value = self._objects.values[object_id]
        for asker in askers:
            if message.failure is None:
                self.answer(object_id, value, asker)
            else:
                self._refuse(object_id, asker, message.failure)
        return object_id

    def _refuse(self, object_id: ObjectId, asker: ProcessId, failure: Failure) -> None:
        if asker == self._me:
            self.elsewhere[object_id] = Failed(failure)
        else:
            self._emit(Send(asker, CopyRefused(object_id, failure)))

    # ---- losing ----

    def node_died(self, node: ProcessId) -> None:
        for object_id, row in list(self.rows.items()):
            row.secondaries.pop(node, None)
            under_way = row.under_way.pop(node, None)
            if under_way is not None:
                del self._numbers[under_way.number]
            self._tidy(object_id, row)

    def survives(self, object_id: ObjectId, value: Stored) -> bool:
        """The primary is lost: whether another copy takes its place, or is on its way to some node."""
        row = self.rows.get(object_id)
        if row is None:
            return False
        for node, place in row.secondaries.items():
            del row.secondaries[node]
            self._tidy(object_id, row)
            self._objects.values[object_id] = Stored(place, value.contains)
            self._answer_all(object_id, self._objects.values[object_id])
            return True
        return bool(row.under_way)

    def freed(self, object_id: ObjectId, *, for_good: bool) -> list[Place]:
        """The value is gone: what lies beside its primary, to be freed. Who waited for a copy waits on (it may be made
        again), or is told."""
        self.elsewhere.pop(object_id, None)
        row = self.rows.pop(object_id, None)
        if row is None:
            return []
        for under_way in row.under_way.values():
            del self._numbers[under_way.number]
            for asker in under_way.askers:
                if not for_good:
                    self._objects.ask(object_id, asker)
                elif asker != self._me:
                    self._emit(Send(asker, RefGone(object_id, 0)))
        return list(row.secondaries.values())

    def forget_asker(self, asker: ProcessId) -> None:
        for row in self.rows.values():
            for under_way in row.under_way.values():
                under_way.askers.pop(asker, None)

    def _tidy(self, object_id: ObjectId, row: Copies) -> None:
        if not (row.secondaries or row.under_way):
            self.rows.pop(object_id, None)

    # ---- proof ----

    def check(self) -> None:
        under_way = {one.number: object_id for object_id, row in self.rows.items() for one in row.under_way.values()}
        if under_way != self._numbers:
            raise InvariantError(f"copies under way: {under_way}, but expected are {self._numbers}")
        for object_id, row in self.rows.items():
            value = self._objects.values.get(object_id)
            if not isinstance(value, Stored) or not (row.secondaries or row.under_way):
                raise InvariantError(f"{show(object_id)} has a row of copies for nothing: {row}")
            if node_of(value.place.holder) in row.secondaries:
                raise InvariantError(f"two copies of {show(object_id)} on one node: {value} and {row}")
        for object_id in self.elsewhere:
            value = self._objects.values.get(object_id)
            if object_id[:8] != self._me and value is not None and value is self.elsewhere[object_id]:
                continue
            if not isinstance(value, Stored) or same_node(value.place.holder, self._me):
                raise InvariantError(f"{show(object_id)} lies elsewhere, they say, and is {value}")

    def statistics(self) -> dict[str, int]:
        return {"copies": len(self.rows), "copies_under_way": len(self._numbers)}


def is_of_the_node(place: Place) -> bool:
    """Whether it is a copy that a node has made, in its own extent."""
    return local_number(place.holder) == NODE_NUMBER
