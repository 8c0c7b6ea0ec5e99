"""Invariant 6: calls of one caller to one actor start in the order in which they were made.

A call that failed or was cancelled leaves a gap; one that is retried by `retry_exceptions` starts again later.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, ProcessId, TaskId, owner_of, show
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
        self._calls: dict[TaskId, tuple[ObjectId, int]] = {}  # which actor, and the number of the call
        self._last: dict[tuple[ProcessId, ObjectId, ProcessId], int] = {}  # caller, actor, its process

    def _submitted(self, home: SimulatedProcess, event: Submitted, effects: list[Effect]) -> None:
        if event.spec.actor is not None:
            self._calls[event.spec.task_id] = event.spec.actor, len(self._calls)

    def started(self, home: SimulatedProcess, task: PushedTask) -> None:
        call = self._calls.get(task.task_id)
        if call is None or task.attempt > 1:
            return
        key = owner_of(ObjectId(task.task_id + bytes(4))), call[0], home.me
        if self._last.get(key, -1) > call[1]:
            raise BrokenInvariant(6, f"call {show(task.task_id)} starts after a later one", task.task_id)
        self._last[key] = call[1]
