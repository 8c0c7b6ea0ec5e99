"""Invariant 12: a worker runs at most one task at a time."""

from __future__ import annotations

from miniray.core.ids import ProcessId, TaskId, show
from miniray.core.record import Effect
from miniray.core.task_spec import PushedTask
from miniray.core.worker.events import TaskFinished
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class OneTask(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {TaskFinished: self._finished}
        self._running: dict[ProcessId, TaskId] = {}

    def started(self, home: SimulatedProcess, task: PushedTask) -> None:
        other = self._running.get(home.me)
        if other is not None:
            told = f"{home.name} starts {show(task.task_id)} while it runs {show(other)}"
            raise BrokenInvariant(12, told, task.task_id, other)
        self._running[home.me] = task.task_id

    def _finished(self, home: SimulatedProcess, event: TaskFinished, effects: list[Effect]) -> None:
        self._running.pop(home.me, None)
