"""Invariant 6: calls of one caller to one actor start in the order in which they were made.

Those that a dead actor had not answered are sent again in that order, before the others: so it holds in each of its
processes by itself. A call that failed or was cancelled leaves a gap; one that is retried by `retry_exceptions` has had
its turn.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, ProcessId, TaskId, owner_of, show
from miniray.core.machine import Send
from miniray.core.messages import TasksDone
from miniray.core.owner.events import Submitted
from miniray.core.record import Effect
from miniray.core.task_spec import PushedTask
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class CallOrder(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {Submitted: self._submitted}
        self.decided = {TasksDone: self._answered}
        self._submissions = 0
        self._calls: dict[TaskId, tuple[ObjectId, int]] = {}  # which actor, and the number of the call
        self._last: dict[tuple[ProcessId, ObjectId, ProcessId], int] = {}  # caller, actor, its process

    def _submitted(self, home: SimulatedProcess, event: Submitted, effects: list[Effect]) -> None:
        if event.spec.actor is not None:
            self._submissions += 1
            self._calls[event.spec.task_id] = event.spec.actor, self._submissions

    def _answered(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, TasksDone)
        for result in effect.message.results:
            if result.retry:
                self._calls.pop(result.task_id, None)

    def started(self, home: SimulatedProcess, task: PushedTask) -> None:
        call = self._calls.get(task.task_id)
        if call is None:
            return
        key = owner_of(ObjectId(task.task_id + bytes(4))), call[0], home.me
        if self._last.get(key, -1) > call[1]:
            raise BrokenInvariant(6, f"call {show(task.task_id)} starts after a later one", task.task_id)
        self._last[key] = call[1]
