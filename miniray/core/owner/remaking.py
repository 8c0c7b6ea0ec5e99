"""Remaking: what to do when the stored copy of a value is lost (PROTOCOL.md section 6).

- A place that is not the value's any more is old news: a value may be reported lost by many, and after it has been made
  again (64694, 47990).
- Another copy comes first (`copies.py`); only when none is left, nor under way, is the value lost.
- A value is made again by its task, under the same id and with a higher attempt, and one retry is spent. Who needs it
  waits for it as for any pending object, so all share one run.
- Before that come the arguments which have no value: lost ones, and those that were freed while their specs were kept.
  They are found over an explicit list, since a chain of 10,000 must not recurse, and started in that order; tasks wait
  for their arguments in any case.
- What cannot be made again fails, with the reason, and what depends on it in the usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miniray.core.ids import ObjectId, ProcessId, node_of, task_of
from miniray.core.machine import Send
from miniray.core.messages import CopyFailed, CopyMade, CopyRefused, ReportLost
from miniray.core.owner.completion import Completion, resolved_by
from miniray.core.owner.dispatch import Dispatch
from miniray.core.owner.events import CopyWanted
from miniray.core.owner.holding import Holding
from miniray.core.owner.references import Owned
from miniray.core.owner.tasks import Task, TaskState
from miniray.core.record import Effect, Event, Message
from miniray.core.task_spec import Stored

Handler = Callable[[float, Any, ProcessId], None]


class Remaking:
    def __init__(
        self, holding: Holding, completion: Completion, dispatch: Dispatch, emit: Callable[[Effect], None]
    ) -> None:
        self._holding = holding
        self._completion = completion
        self._dispatch = dispatch
        self._emit = emit
        self.on: Mapping[type[Event] | type[Message], Handler] = {
            ReportLost: self._on_report_lost,
            CopyWanted: self._on_copy_wanted,
            CopyMade: self._on_copy_made,
            CopyRefused: self._on_copy_refused,
        }

    # ---- copies ----

    def _on_copy_wanted(self, now: float, event: CopyWanted, peer: ProcessId) -> None:
        """A value that is not there is waited for by name: it may be made again on another node."""
        holding = self._holding
        for object_id in event.object_ids:
            if type(holding.references.rows.get(object_id)) is not Owned:
                holding.forget_refusals([object_id])
                holding.want(object_id)
                continue
            value = holding.objects.values.get(object_id)
            if value is None:
                holding.objects.ask(object_id, holding.me)
            elif object_id in holding.copies.elsewhere:
                holding.copies.elsewhere[object_id] = None
                holding.copies.answer(object_id, value, holding.me)

    def _on_copy_made(self, now: float, message: CopyMade, peer: ProcessId) -> None:
        if self._holding.copies.made(message, peer):
            self._completion.ready.append(message.object_id)

    def _on_copy_refused(self, now: float, message: CopyRefused, peer: ProcessId) -> None:
        ready, tasks = self._holding.refused(message.object_id, message.failure)
        self._completion.ready.extend(ready)
        self._completion.resolved(tasks)

    def copy_failed(self, message: CopyFailed, node: ProcessId) -> None:
        object_id = self._holding.copies.failed(message, node)
        if object_id is None:
            return
        if self._holding.copies.elsewhere.get(object_id) is not None:
            self._completion.ready.append(object_id)  # why it cannot be read here
        self._lose_unless_copied([object_id])

    # ---- losing ----

    def _on_report_lost(self, now: float, message: ReportLost, peer: ProcessId) -> None:
        value = self._holding.objects.values.get(message.object_id)
        if isinstance(value, Stored) and value.place == message.place:
            self._lose([message.object_id])

    def node_died(self, node: ProcessId) -> None:
        self._holding.copies.node_died(node)
        self._lose_unless_copied(list(self._holding.objects.values))

    def _lose_unless_copied(self, object_ids: list[ObjectId]) -> None:
        """Those of them that lie on dead nodes."""
        holding, lost = self._holding, []
        for object_id in object_ids:
            value = holding.objects.values[object_id]
            if type(value) is Stored and node_of(value.place.holder) in holding.dead_nodes:
                if not holding.copies.survives(object_id, value):
                    lost.append(object_id)
        if lost:
            self._lose(lost)

    def lose_late_news(self) -> None:
        """Values that were heard of after the node where they lay had died."""
        late, self._holding.on_dead_nodes = self._holding.on_dead_nodes, []
        self._lose(late)

    def _lose(self, object_ids: list[ObjectId]) -> None:
        rows, values = self._holding.references.rows, self._holding.objects.values
        own: list[ObjectId] = []
        for object_id in object_ids:
            value = values.get(object_id)
            if not isinstance(value, Stored):
                continue  # it was in one that is lost, too, and went with it
            if isinstance(rows[object_id], Owned):
                own.append(object_id)
                self._holding.discard(object_id, value)
            else:
                self._emit(Send(ProcessId(object_id[:8]), ReportLost(object_id, value.place)))
            self._holding.lose_value(object_id)
        self._hold_back(dict.fromkeys(object_ids))
        self._make(own)

    def _hold_back(self, lost: dict[ObjectId, None]) -> None:
        """Unfinished tasks that had these as arguments wait for them again."""
        for task in list(self._completion.tasks.rows.values()):
            missing = [one for one in resolved_by(task.spec) if one in lost]
            if not missing:
                continue
            if task.state is TaskState.QUEUED:
                if task.spec.actor is None:
                    self._unqueue(task)
                task.state = TaskState.WAITING
            for object_id in missing:
                self._completion.unresolve(task, object_id)

    def _unqueue(self, task: Task) -> None:
        for settled_later in (self._completion.runnable, self._completion.retried):
            if task in settled_later:
                settled_later.remove(task)
                return
        self._dispatch.unqueue(task)

    def _make(self, lost: list[ObjectId]) -> None:
        """Run the tasks of these own objects again, and of what they need."""
        holding, completion = self._holding, self._completion
        rows = holding.references.rows
        todo = lost[::-1]
        while todo:
            object_id = todo.pop()
            row = rows.get(object_id)
            if row is None or not row.keeps_value:
                continue  # nobody needs it
            if object_id in holding.objects.values or task_of(object_id) in completion.tasks.rows:
                continue  # it has a value, or is being made
            task = holding.lineage.run_again(object_id)
            if task is None:
                completion.ready.append(object_id)
                completion.resolved(holding.fail_lost(object_id))
                continue
            completion.run_again(task)
            todo.extend([one for one in reversed(task.held) if type(rows.get(one)) is Owned])

    def drop_specs(self) -> None:
        """Until none is left: a spec that goes takes along what only it kept."""
        dropped = self._holding.specs_dropped
        while dropped:
            self._completion.drop_spec(dropped.pop())
