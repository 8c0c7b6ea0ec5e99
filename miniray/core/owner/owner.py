"""The owner role: decides for every task, object and actor that this process created, and for every ref it holds.

Every driver and worker has one. It joins its parts, most with tables of their own:

- `holding.py`: refs, values, hand-offs; `borrowing.py`: what holders and owners say of them; `arrivals.py`: refs that
  came with what runs here;
- `completion.py`: a task from submission to outcome;
- `dispatch.py`: tasks to leased workers;
- `actors.py`: calls to actors;
- `places.py`: its share of the arena;
- `adoption.py`: values that are put for another owner;
- `remaking.py`: values whose copies are lost; `sessions.py`: links that were made again;
- `orders.py`: cancel and kill; `burials.py`: what ends with the dead.

This file has the one table of what an owner reacts to, and the little that concerns several parts. A step ends
with `_settle`: what one part found out is handed to the others until nothing is left, then the effects leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miniray.core.ids import ObjectId, ProcessId, TaskId, return_id, show
from miniray.core.machine import Awaited, Received, Send, Tick
from miniray.core.messages import (
    ArgumentsArrived,
    AskDrained,
    Drained,
    EndSession,
    ExecutionEnded,
    LeaseGranted,
    LeaseRefused,
    Register,
    RevokeLease,
    Spillback,
    TakenBack,
    TasksDone,
)
from miniray.core.owner.actors import Actors
from miniray.core.owner.adoption import Adoption
from miniray.core.owner.arrivals import Arrivals
from miniray.core.owner.borrowing import Borrowing
from miniray.core.owner.burials import Burials
from miniray.core.owner.completion import Completion
from miniray.core.owner.deaths import Deaths
from miniray.core.owner.dispatch import Dispatch
from miniray.core.owner.events import (
    FunctionDropped,
    FunctionExported,
    ProcessStarted,
    Ready,
    SessionEnding,
    Submitted,
    ValuePut,
)
from miniray.core.owner.holding import Holding
from miniray.core.owner.lineage import MAX_LINEAGE_BYTES, Lineage
from miniray.core.owner.orders import Orders
from miniray.core.owner.places import Places
from miniray.core.owner.references import Owned
from miniray.core.owner.remaking import Remaking
from miniray.core.owner.sessions import Sessions
from miniray.core.owner.tasks import TaskState
from miniray.core.record import Effect, Event, Message, replace
from miniray.core.task_spec import Failed, Stored, TaskSpec, Value, contained

Handler = Callable[[float, Any, ProcessId], None]


class Owner:
    def __init__(self, me: ProcessId, node: ProcessId, max_lineage_bytes: int = MAX_LINEAGE_BYTES) -> None:
        self._me, self._node = me, node
        self._effects: list[Effect] = []
        emit = self._emit = self._effects.append
        self._deaths = Deaths()
        self._holding = Holding(me, Lineage(max_lineage_bytes), self._deaths.nodes, emit)
        self._arrivals = Arrivals(self._holding)
        self._completion = Completion(self._holding, emit)
        self._dispatch = Dispatch(node, self._completion, emit)
        self._actors = Actors(self._completion, self._holding, self._deaths.known, emit)
        self._places = Places(node, self._holding, self._deaths, emit)
        self._adoption = Adoption(self._holding, self._completion, emit)
        self._remaking = Remaking(self._holding, self._completion, self._dispatch, emit)
        sessions = Sessions(
            self._holding, self._arrivals, self._completion, self._dispatch, self._actors, self._adoption, emit
        )
        orders = Orders(me, self._completion.tasks, self._dispatch, self._actors, emit)
        self._burials = Burials(
            self._deaths, self._holding, self._completion, self._dispatch, self._actors, self._places, self._adoption,
            self._remaking, emit,
        )  # fmt: skip
        self._drained_asked = False
        self.values: Mapping[ObjectId, Value] = self._holding.objects.values  # for those who look without a step
        self.elsewhere: Mapping[ObjectId, Failed | None] = self._holding.copies.elsewhere  # likewise
        self._on: dict[type[Event] | type[Message], Handler] = {
            ProcessStarted: self._on_process_started,
            SessionEnding: self._on_session_ending,
            Submitted: self._on_submitted,
            ValuePut: self._on_value_put,
            FunctionExported: self._on_function_exported,
            FunctionDropped: self._on_function_dropped,
            Awaited: self._on_awaited,
            Tick: self._on_tick,
            ArgumentsArrived: self._on_arguments_arrived,
            ExecutionEnded: self._on_execution_ended,
            AskDrained: self._on_ask_drained,
            TasksDone: self._on_tasks_done,
            TakenBack: self._on_taken_back,
            LeaseGranted: self._on_lease_granted,
            LeaseRefused: self._on_lease_refused,
            RevokeLease: self._on_revoke_lease,
            Spillback: self._on_spillback,
            **Borrowing(self._holding, self._completion).on,
            **self._places.on,
            **self._adoption.on,
            **self._remaking.on,
            **sessions.on,
            **orders.on,
            **self._burials.on,
        }

    def handles(self) -> tuple[type[Event] | type[Message], ...]:
        return tuple(self._on)

    def step(self, now: float, event: Event) -> list[Effect]:
        if type(event) is Received:
            self._on[type(event.message)](now, event.message, event.peer)
        else:
            self._on[type(event)](now, event, self._me)
        completion, holding = self._completion, self._holding
        if (
            completion.ready
            or completion.runnable
            or completion.retried
            or completion.left
            or holding.actors_freed
            or self._drained_asked
            or self._deaths.views_asked
            or holding.specs_dropped
            or holding.on_dead_nodes
        ):
            self._settle(now)
        if not self._effects:
            return []
        effects = self._effects[:]
        self._effects.clear()
        return effects

    def _settle(self, now: float) -> None:
        completion, holding = self._completion, self._holding
        if holding.on_dead_nodes:
            self._remaking.lose_late_news()
        self._remaking.drop_specs()
        while completion.runnable or completion.retried or completion.left or holding.actors_freed:
            runnable, completion.runnable = completion.runnable, []
            for task in runnable:
                (self._actors.runnable if task.spec.actor is not None else self._dispatch.enqueue)(now, task)
            retried, completion.retried = completion.retried, []
            for task in retried:
                if task.spec.actor is not None:
                    self._actors.retry(now, task)
                else:
                    self._dispatch.requeue(now, [task])
            left, completion.left = completion.left, []
            self._actors.left(now, left)
            freed, holding.actors_freed = holding.actors_freed, []
            for actor in freed:
                self._actors.forget(actor)
                self._dispatch.end_actor(actor)
            self._remaking.drop_specs()
        if completion.ready:
            self._emit(Ready(completion.ready))
            completion.ready = []
        if self._drained_asked and not holding.handoffs.pins and not holding.references.held_by_others():
            self._drained_asked = False
            self._emit(Send(self._me, Drained()))
        if self._deaths.views_asked:
            self._places.answer_views_asked()

    # ---- from this process: calls, refs, views, waits ----

    def _on_process_started(self, now: float, event: ProcessStarted, peer: ProcessId) -> None:
        self._emit(Send(self._node, Register(event.pid, event.is_driver)))

    def _on_session_ending(self, now: float, event: SessionEnding, peer: ProcessId) -> None:
        self._emit(Send(self._node, EndSession()))

    def _on_submitted(self, now: float, event: Submitted, peer: ProcessId) -> None:
        task = self._completion.submit(event.spec)
        if task is None:
            return
        if event.spec.actor is not None:
            self._actors.submit(now, task)
        elif not task.unresolved:
            self._dispatch.enqueue(now, task)

    def _on_value_put(self, now: float, event: ValuePut, peer: ProcessId) -> None:
        self._holding.references.rows[event.object_id] = Owned(1)
        self._holding.set_value(event.object_id, event.value)
        if type(event.value) is Stored:
            self._holding.lineage.put(event.object_id, event.site)

    def _on_function_exported(self, now: float, event: FunctionExported, peer: ProcessId) -> None:
        if self._completion.functions.add_handle(event.function, event.value, event.object_id):
            if event.object_id is None:
                self._holding.hold_containers(contained(event.value))
            else:  # it lies in the store under this name
                self._holding.references.rows[event.object_id] = Owned(containers=1)
                self._holding.set_value(event.object_id, event.value)
        elif event.object_id is not None:
            self._holding.discard(event.object_id, event.value)

    def _on_function_dropped(self, now: float, event: FunctionDropped, peer: ProcessId) -> None:
        self._completion.drop_handle(event.function)

    def _on_awaited(self, now: float, event: Awaited, peer: ProcessId) -> None:
        me = self._me
        for object_id in event.object_ids:
            if object_id[:8] != me:
                self._holding.want(object_id)
        self._dispatch.flush(now)
        self._actors.flush(now)

    # ---- from this process: the worker role ----

    def _on_arguments_arrived(self, now: float, message: ArgumentsArrived, peer: ProcessId) -> None:
        self._arrivals.arrive(message)

    def _on_execution_ended(self, now: float, message: ExecutionEnded, peer: ProcessId) -> None:
        """Pin what the values contain, say what is still held, then let go of what came with the task."""
        submitter, result = message.submitter, message.result
        inner = [one for value in result.values for one in contained(value) if one[:8] != submitter]
        if submitter in self._holding.lost:
            inner = []
            for index, value in enumerate(result.values):
                self._holding.discard(return_id(result.task_id, index), value)
        if inner:
            self._holding.hold_arguments(inner)
            self._holding.handoffs.pin((submitter, result.task_id, result.attempt), inner)
        retained, pending = self._arrivals.depart(submitter, result.task_id, result.attempt)
        full = replace(result, retained=retained, pending=pending, pinned=bool(inner))
        # Before any `DropHolders` that `depart` has decided: what registers must not be overtaken by what drops.
        self._effects.insert(0, Send(submitter, TasksDone([full])))

    def _on_ask_drained(self, now: float, message: AskDrained, peer: ProcessId) -> None:
        self._drained_asked = True

    # ---- from workers ----

    def _on_tasks_done(self, now: float, message: TasksDone, peer: ProcessId) -> None:
        rows = self._completion.tasks.rows
        apply = self._completion.apply
        lease = actor = None
        for result in message.results:  # all of one lease, or all of one actor, but for what is out of date
            task = rows.get(result.task_id)
            if task is None or task.attempt != result.attempt or task.state is not TaskState.PUSHED:
                apply(peer, None, result)
                continue
            if task.spec.actor is not None:
                actor = self._actors.answered(task)
            else:
                lease = self._dispatch.answered(now, task, result) or lease
            apply(peer, task, result)
        if lease is not None:
            self._dispatch.refill(now, lease)
        if actor is not None:
            self._actors.refill(now, actor)

    def _on_taken_back(self, now: float, message: TakenBack, peer: ProcessId) -> None:
        self._dispatch.taken_back(now, message)

    # ---- from nodes ----

    def _on_lease_granted(self, now: float, message: LeaseGranted, peer: ProcessId) -> None:
        self._dispatch.granted(now, message, lost=message.worker in self._holding.lost)

    def _on_lease_refused(self, now: float, message: LeaseRefused, peer: ProcessId) -> None:
        self._dispatch.refused(message)

    def _on_revoke_lease(self, now: float, message: RevokeLease, peer: ProcessId) -> None:
        self._dispatch.revoked(now, message.lease)

    def _on_spillback(self, now: float, message: Spillback, peer: ProcessId) -> None:
        self._dispatch.spilled(message, node_died=message.node in self._deaths.nodes)

    # ---- time ----

    def _on_tick(self, now: float, event: Tick, peer: ProcessId) -> None:
        self._dispatch.tick(now)
        self._actors.tick(now)
        self._burials.tick(now)

    def deadline(self) -> float | None:
        dispatch, actors = self._dispatch, self._actors
        first = dispatch.flush_at
        for other in (dispatch.sweep_at, actors.flush_at, actors.sweep_at):
            if other is not None and (first is None or other < first):
                first = other
        if self._deaths.draining:
            drained = min(self._deaths.draining.values())
            first = drained if first is None or drained < first else first
        return first

    def holds_back(self) -> bool:
        """Whether tasks or calls wait for company: somebody who is about to block must have them sent."""
        return self._dispatch.flush_at is not None or self._actors.flush_at is not None

    def has_one_task(self) -> bool:
        """Whether exactly one task or call of this process is under way."""
        return len(self._completion.tasks.rows) == 1

    # ---- proof ----

    def check(self) -> None:
        self._holding.check()
        for task_id, task in self._completion.tasks.rows.items():
            assert task_id == task.spec.task_id, f"{show(task_id)} is filed under another name"

    def held_of_others(self) -> list[ObjectId]:
        """The refs of living owners that something here holds."""
        held = self._holding.references.held_of_others()
        return [one for one in held if not self._adoption.is_offered(one)]  # their owner may not have read of them yet

    def submitted(self, task_id: TaskId) -> TaskSpec | None:
        """What this process has submitted under that id, while it has no outcome."""
        task = self._completion.tasks.rows.get(task_id)
        return task.spec if task is not None else None

    def knows(self, object_id: ObjectId) -> bool:
        """Whether it is owned here, and not freed."""
        row = self._holding.references.rows.get(object_id)
        return row is not None and row.keeps_value

    def viewed(self) -> list[ObjectId]:
        """What lies in the arena and is looked at here."""
        return [object_id for object_id, row in self._holding.references.rows.items() if row.views]

    def awaits_confirmation(self, object_id: ObjectId) -> bool:
        """Whether its owner has yet to confirm that this process holds it."""
        return self._holding.handoffs.is_open(object_id)

    def statistics(self) -> dict[str, int]:
        return {
            "tasks": len(self._completion.tasks.rows),
            "restartable": len(self._completion.tasks.living),
            "functions": len(self._completion.functions.rows),
            **self._deaths.statistics(),
            **self._holding.statistics(),
            **self._arrivals.statistics(),
            **self._dispatch.statistics(),
            **self._actors.statistics(),
            **self._adoption.statistics(),
        }
