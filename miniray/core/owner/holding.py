"""Holding: the reference protocol, one half of the owner role (PROTOCOL.md sections 3 and 4).

Joins the tables of counts, values and hand-offs, and turns their facts into messages. The other half,
`dispatch.py`, gets tasks run. The rules that hold here:

- A value is freed when, and in the step in which, nothing keeps it any more; what it contains follows at once,
  over an explicit list (a chain of containers may be long).
- A borrowed ref that is held is registered with its owner, or covered by a running task that its owner has
  submitted, or its owner is gone (`References.check`).
- An answer is owed for every `AddHolder` and `WhereIs`; the unknown is an answer, never a new entry.
- Merge first, drop second: whoever calls with a reply registers what it retains before it releases what it pins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import NODE_NUMBER, ObjectId, ProcessId, TaskId, local_number, node_of, show
from miniray.core.machine import Send
from miniray.core.messages import (
    AddHolder,
    DropHolders,
    FreeOrphans,
    FreePlaces,
    HandoffDone,
    HolderAdded,
    RefGone,
    WhereIs,
)
from miniray.core.owner.copies import CopyTable, is_of_the_node
from miniray.core.owner.events import FreeStored
from miniray.core.owner.handoffs import Handoffs, Transfer
from miniray.core.owner.lineage import Lineage
from miniray.core.owner.objects import Objects
from miniray.core.owner.references import Asking, Borrowed, Owned, Reference, References
from miniray.core.owner.tasks import Task
from miniray.core.record import Effect
from miniray.core.task_spec import ActorAt, Failed, Inline, Place, Stored, Value, contained

_NOT_IN_LINEAGE = (Stored, ActorAt)  # values that a lineage count alone does not keep


class Holding:
    def __init__(
        self,
        me: ProcessId,
        lineage: Lineage,
        dead_nodes: Mapping[ProcessId, None],
        emit: Callable[[Effect], None],
    ) -> None:
        self.me = me
        self.dead_nodes = dead_nodes
        self._emit = emit
        self.references = References(me)
        self.objects = Objects()
        self.copies = CopyTable(me, self.objects, dead_nodes, emit)
        self.handoffs = Handoffs()
        self.lineage = lineage
        self.on_dead_nodes: list[ObjectId] = []  # for `remaking.py`: values that came too late to be read
        self.specs_dropped: list[Task] = []  # for `remaking.py`: kept specs that nothing needs any more
        self.lost: dict[ProcessId, None] = {}  # processes whose links broke; ids are never given again
        self.watched: dict[ObjectId, None] = {}  # creation objects of which `actors.py` keeps a row
        self.actors_freed: list[ObjectId] = []  # for `actors.py`: those that nobody here holds any more

    def row(self, object_id: ObjectId) -> Reference:
        """The row of this object, made when this process meets the ref for the first time.

        An own id without a row was freed: a ref to it can only come from a hand-off that broke. Its row begins with
        an error, and ends like any other.
        """
        row = self.references.rows.get(object_id)
        if row is None:
            row = self.references.add(object_id)
            if type(row) is Owned:
                self.objects.values[object_id] = Failed(gone(object_id))
        elif type(row) is Owned and row.lineage and not row.keeps_value:
            self.objects.values.setdefault(object_id, Failed(gone(object_id)))
        return row

    # ---- values ----

    def set_value(self, object_id: ObjectId, value: Value, transfer: Transfer | None = None) -> list[TaskId]:
        """The outcome of an object of this process, or what its owner says of it; the tasks that waited for it."""
        row = self.references.rows.get(object_id)
        if row is None or (type(value) in _NOT_IN_LINEAGE and not row.keeps_value):
            self.discard(object_id, value)
            return []
        if type(value) is Stored and node_of(value.place.holder) in self.dead_nodes:
            self.on_dead_nodes.append(object_id)
        self.objects.values[object_id] = value
        if type(value) is Stored or self.copies.elsewhere:
            self.copies.was_set(object_id, value)
        if type(value) is ActorAt and not self._settle_in(object_id, value):
            return []
        for inner in contained(value):
            self._hold_container(inner, transfer)
        if not self.objects.is_awaited(object_id):
            return []
        for asker in self.objects.take_askers(object_id):
            self.copies.answer(object_id, value, asker)
        return self.objects.take_dependants(object_id)

    def _settle_in(self, actor: ObjectId, value: ActorAt) -> bool:
        """From now on the hold of the actor's own process on it does not count, or it would never end. Whether anything
        else keeps it: a worker may hold a handle from what it ran before, and become the next life of that actor."""
        row = self.references.rows[actor]
        if isinstance(row, Owned):
            row.weak = value.process
            if not row.keeps_value:
                self.let_go(actor)
                return False
        return True

    def _hold_container(self, inner: ObjectId, transfer: Transfer | None) -> None:
        row = self.row(inner)
        row.containers += 1
        if isinstance(row, Borrowed):
            self.make_known(inner, row)
            if transfer is not None and self.handoffs.is_open(inner):
                self.handoffs.expect(inner, transfer)

    def discard(self, object_id: ObjectId, value: Value) -> None:
        """A value that nobody wants any more: its refs were never counted here, its place is freed."""
        if isinstance(value, Stored):
            self._free_place(object_id, value.place)
        elif isinstance(value, ActorAt):
            self.actors_freed.append(object_id)

    def _free_place(self, object_id: ObjectId, place: Place) -> None:
        if place.holder == self.me:
            self._emit(FreeStored([(object_id, place)]))
            return
        node = node_of(place.holder)
        if node in self.dead_nodes:
            return
        if place.holder in self.lost or is_of_the_node(place):
            self._emit(Send(node, FreeOrphans([(object_id, place)])))
        else:
            self._emit(Send(place.holder, FreePlaces([(object_id, place)])))

    def hold_containers(self, inner_ids: Iterable[ObjectId]) -> None:
        for inner in inner_ids:
            self._hold_container(inner, None)

    def hold_arguments(self, object_ids: Iterable[ObjectId]) -> None:
        """Pins of a hand-off that goes out from here; the refs are held here already."""
        for object_id in object_ids:
            self.row(object_id).arguments += 1

    def release_containers(self, inner_ids: Iterable[ObjectId]) -> None:
        for inner in inner_ids:
            if not self.references.release_container(inner):
                self.let_go(inner)

    # ---- letting go ----

    def drop_local(self, object_ids: Iterable[ObjectId]) -> None:
        release = self.references.release_local
        for object_id in object_ids:
            if not release(object_id):
                self.let_go(object_id)

    def drop_views(self, object_ids: Iterable[ObjectId]) -> None:
        for object_id in object_ids:
            row = self.references.rows[object_id]
            keeps_value = self.references.release_view(object_id)
            if not row.views:
                self.finish(self.handoffs.views_gone(object_id))
            if not keeps_value:
                self.let_go(object_id)

    def release_arguments(self, object_ids: Iterable[ObjectId]) -> None:
        for object_id in object_ids:
            if not self.references.release_argument(object_id):
                self.let_go(object_id)

    def let_go(self, object_id: ObjectId) -> None:
        """Nothing keeps this value any more, nor, when it is gone, what only it contained."""
        todo = [object_id]
        while todo:
            object_id = todo.pop()
            row = self.references.rows[object_id]
            if type(row) is Owned and row.lineage:
                todo.extend(self._let_go_but_lineage(object_id))
                continue
            value = self.objects.values.pop(object_id, None)
            if type(value) is Stored:
                self._free_copies(object_id)
            if object_id in self.watched:
                self.actors_freed.append(object_id)
            if type(row) is Owned:
                del self.references.rows[object_id]
                if type(value) is Inline and not value.contains:
                    continue
                if type(value) is not Inline:
                    self._origin_gone(object_id)
                if value is None or type(value) is ActorAt:  # of an actor: the next life was asked for
                    for asker in self.objects.take_askers(object_id):
                        self._emit(Send(asker, RefGone(object_id, 0)))
                if value is not None:
                    self.discard(object_id, value)
            elif isinstance(row, Borrowed):
                self._let_go_borrowed(object_id, row)
            if value is not None:
                for inner in contained(value):
                    if not self.references.release_container(inner):
                        todo.append(inner)

    def _let_go_but_lineage(self, object_id: ObjectId) -> list[ObjectId]:
        """Only kept specs name it any more: its value is freed unless it is small. What only that contained."""
        value = self.objects.values.get(object_id)
        if value is None or type(value) is ActorAt:  # of an actor: the next life was asked for
            for asker in self.objects.take_askers(object_id):
                self._emit(Send(asker, RefGone(object_id, 0)))
        if isinstance(value, _NOT_IN_LINEAGE):
            del self.objects.values[object_id]
            self._free_copies(object_id)
            self.discard(object_id, value)
        elif value is not None:
            return []
        if object_id in self.watched:
            self.actors_freed.append(object_id)
        return [inner for inner in contained(value) if not self.references.release_container(inner)] if value else []

    def _free_copies(self, object_id: ObjectId, *, for_good: bool = True) -> None:
        for place in self.copies.freed(object_id, for_good=for_good):
            self._free_place(object_id, place)

    def _origin_gone(self, object_id: ObjectId) -> None:
        task = self.lineage.freed(object_id)
        if task is not None:
            self.specs_dropped.append(task)

    def lose_value(self, object_id: ObjectId) -> None:
        """What lay in the store is not there any more; the row, and all that keeps it, stays."""
        value = self.objects.values.pop(object_id)
        self._free_copies(object_id, for_good=False)
        self.release_containers(contained(value))

    def fail_lost(self, object_id: ObjectId) -> list[TaskId]:
        """It cannot be made again, and says so; the tasks that waited for it."""
        name, site, reason = self.lineage.why_lost(object_id)
        self._origin_gone(object_id)
        made = f", made at {site}," if site else ""
        message = f"the value of object {show(object_id)}{made} is lost and cannot be made again: {reason}"
        failure = Failure(FailureKind.OBJECT_LOST, name or show(object_id), message, site=site)
        return self.set_value(object_id, Failed(failure))

    def _let_go_borrowed(self, object_id: ObjectId, row: Borrowed) -> None:
        if row.registered:
            row.registered = False
            self._emit(Send(ProcessId(object_id[:8]), DropHolders([object_id])))
        self.copies.elsewhere.pop(object_id, None)
        if row.asking is Asking.NO:
            del self.references.rows[object_id]
        else:
            row.asking = Asking.STALE

    # ---- this process as a holder ----

    def hold_unpickled(self, object_ids: Iterable[ObjectId]) -> None:
        """Refs appeared in this process."""
        for object_id in object_ids:
            row = self.row(object_id)
            row.local += 1
            if isinstance(row, Borrowed):
                self.make_known(object_id, row)

    def make_known(self, object_id: ObjectId, row: Borrowed) -> None:
        """Register with the owner, unless it knows, or a running task of its own covers the ref."""
        if row.registered or row.arrivals or row.orphaned:
            return
        owner = ProcessId(object_id[:8])
        if owner in self.lost:
            row.orphaned = True
            self.objects.values.setdefault(object_id, Failed(owner_died(object_id)))
            return
        row.registered = True
        self._emit(Send(owner, AddHolder(object_id, self.handoffs.next_receipt(object_id))))

    def want(self, object_id: ObjectId) -> None:
        """Ask the owner of a borrowed object for its value, once."""
        row = self.references.rows.get(object_id)
        if not isinstance(row, Borrowed) or object_id in self.objects.values or row.asking is not Asking.NO:
            return
        row.asking = Asking.ASKED
        self._emit(Send(ProcessId(object_id[:8]), WhereIs(object_id, row.died)))

    def learn(self, object_id: ObjectId, value: Value) -> tuple[list[ObjectId], list[TaskId]]:
        """The answer to `WhereIs`: what is ready now, and the tasks that waited for it."""
        row = self.references.rows.get(object_id)
        if not isinstance(row, Borrowed):
            return [], []
        stale = row.asking is Asking.STALE
        row.asking = Asking.NO
        if not row.keeps_value:
            del self.references.rows[object_id]
            return [], []
        if stale:
            self.want(object_id)
            return [], []
        if object_id in self.objects.values:
            return [], []
        # The reader registers each inner ref before it lets go of the outer one.
        transfer = Transfer(outer=object_id)
        tasks = self.set_value(object_id, value, transfer)
        if transfer.left:
            row.arguments += 1
        return [object_id], tasks

    def refused(self, object_id: ObjectId, failure: Failure) -> tuple[list[ObjectId], list[TaskId]]:
        """As `learn`, but there was no room for a copy: so it is for those who have asked. Whoever asks later has this
        forgotten, and asks again."""
        failed = Failed(failure)
        news = self.learn(object_id, failed)
        if self.objects.values.get(object_id) is failed:
            self.copies.elsewhere[object_id] = failed
        return news

    def forget_refusals(self, object_ids: Iterable[ObjectId]) -> None:
        for object_id in object_ids:
            row = self.references.rows.get(object_id)
            if isinstance(row, Borrowed) and not row.orphaned and object_id in self.copies.elsewhere:
                self.lose_value(object_id)

    def learn_gone(self, object_id: ObjectId, *, answers_where_is: bool) -> tuple[list[ObjectId], list[TaskId]]:
        """`RefGone`: the value was freed before this process had registered; the ref ends with an error at once."""
        row = self.references.rows.get(object_id)
        if not isinstance(row, Borrowed):
            return [], []
        stale = row.asking is Asking.STALE
        if answers_where_is:
            row.asking = Asking.NO
        if not row.keeps_value:
            if row.asking is Asking.NO:
                del self.references.rows[object_id]
            return [], []
        if answers_where_is and stale:
            self.want(object_id)  # the ref came back meanwhile: its own answer is on its way
            return [], []
        self.forget_refusals([object_id])
        row.orphaned, row.registered = True, False
        if object_id in self.objects.values:
            return [], []
        return [object_id], self.set_value(object_id, Failed(gone(object_id)))

    def tell_all(self, owner: ProcessId) -> list[tuple[ObjectId, int]]:
        """What is held of that owner's objects, each with a new receipt. No other is waited for any more."""
        held = {}
        for object_id in self.references.borrowed_from(owner):
            row = self.references.rows[object_id]
            if isinstance(row, Borrowed) and row.keeps_value and not row.orphaned:
                row.registered = True
                held[object_id] = self.handoffs.next_receipt(object_id)
        self.finish(self.handoffs.close_others(owner, held))
        return list(held.items())

    def ask_again(self, owner: ProcessId, offered: Callable[[ObjectId], bool]) -> None:
        """Questions to that owner have got lost, or their answers."""
        for object_id in self.references.borrowed_from(owner):
            row = self.references.rows[object_id]
            if not isinstance(row, Borrowed) or row.asking is Asking.NO or offered(object_id):
                continue
            row.asking = Asking.NO
            if row.keeps_value:
                self.want(object_id)
            else:
                del self.references.rows[object_id]

    # ---- this process as an owner ----

    def answer_add_holder(self, object_id: ObjectId, number: int, holder: ProcessId) -> None:
        known = self.references.add_holder(object_id, holder)
        self._emit(Send(holder, (HolderAdded if known else RefGone)(object_id, number)))

    def answer_where_is(self, object_id: ObjectId, asker: ProcessId, after: int) -> None:
        row = self.references.rows.get(object_id)
        if row is None or not row.keeps_value:  # perhaps its spec is kept: that answers nobody (65833)
            self._emit(Send(asker, RefGone(object_id, 0)))
            return
        value = self.objects.values.get(object_id)
        if type(value) is ActorAt and value.incarnation <= after:  # this process has not heard of that death yet
            self.objects.ask(object_id, asker)
        elif value is not None:
            self.copies.answer(object_id, value, asker)
        else:
            self.objects.ask(object_id, asker)

    def drop_holder(self, object_id: ObjectId, holder: ProcessId) -> None:
        if self.references.drop_holder(object_id, holder):
            self.let_go(object_id)

    def confirmed(self, object_id: ObjectId, number: int) -> None:
        self.finish(self.handoffs.confirm(object_id, number))

    def finish(self, transfers: Iterable[Transfer]) -> None:
        for transfer in transfers:
            if transfer.sender is not None:
                receiver, task, attempt = transfer.sender
                self._emit(Send(receiver, HandoffDone(task, attempt)))
            if transfer.outer is not None:
                self.release_arguments([transfer.outer])

    def peer_lost(self, peer: ProcessId) -> tuple[list[ObjectId], list[TaskId]]:
        """Drop all that this process counted for `peer`; what of its objects was awaited ends: (ready, dependants)."""
        self.lost[peer] = None
        self.objects.forget_asker(peer)
        self.copies.forget_asker(peer)
        for object_id in self.references.held_by(peer):
            self.drop_holder(object_id, peer)
        self.release_arguments(self.handoffs.receiver_lost(peer))
        for object_id, transfer in self.handoffs.waits_for(peer):
            if object_id in self.references.rows and self.references.rows[object_id].views:
                self.handoffs.wait_for_views(object_id, transfer)
        self.finish(self.handoffs.owner_lost(peer))
        ready: list[ObjectId] = []
        tasks: list[TaskId] = []
        for object_id in self.references.borrowed_from(peer):
            row = self.references.rows[object_id]
            assert isinstance(row, Borrowed)
            self.forget_refusals([object_id])
            row.orphaned, row.registered, row.asking = True, False, Asking.NO
            if not row.keeps_value:
                del self.references.rows[object_id]
            elif object_id not in self.objects.values:
                ready.append(object_id)
                tasks.extend(self.set_value(object_id, Failed(owner_died(object_id))))
        return ready, tasks

    def has_views_of(self, owner: ProcessId) -> bool:
        """Of this owner's objects; a node's id: of those of all owners there."""
        whole_node = local_number(owner) == NODE_NUMBER
        borrowed = self.references.borrowed_from_node if whole_node else self.references.borrowed_from
        return any(
            self.references.rows[object_id].views or isinstance(self.objects.values.get(object_id), Stored)
            for object_id in borrowed(owner)
        )

    def check(self) -> None:
        self.references.check()
        self.lineage.check()
        self.copies.check()
        for object_id in self.objects.values:
            assert object_id in self.references.rows, f"{show(object_id)} has a value that nothing keeps"

    def statistics(self) -> dict[str, int]:
        return {
            "references": len(self.references.rows),
            **self.objects.statistics(),
            **self.copies.statistics(),
            **self.handoffs.statistics(),
            **self.lineage.statistics(),
        }


def gone(object_id: ObjectId) -> Failure:
    message = (
        f"object {show(object_id)} was freed before this process could register as a holder: whoever passed the "
        "ref on died, or dropped it, during the hand-off"
    )
    return Failure(FailureKind.OBJECT_LOST, show(object_id), message)


def owner_died(object_id: ObjectId) -> Failure:
    message = f"the process that owns object {show(object_id)} has died, and with it all knowledge of the object"
    return Failure(FailureKind.OWNER_DIED, show(object_id), message, process=ProcessId(object_id[:8]))
