"""Invariant 7: `max_retries=0` is started at most once; and a crash is charged to what had started, to nothing else.

Each attempt of any task starts once, and none while another attempt of it runs.
"""

from __future__ import annotations

from miniray.core.failures import UNKNOWN_STATUS, Failure, FailureKind
from miniray.core.ids import TaskId, show, task_of
from miniray.core.owner.events import Ready, Submitted
from miniray.core.record import Effect
from miniray.core.task_spec import Failed, PushedTask
from miniray.core.worker.events import TaskFinished
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class Starts(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {TaskFinished: self._finished, Submitted: self._submitted}
        self.decided = {Ready: self._told}
        self._attempts: dict[TaskId, list[int]] = {}  # that have started
        self._running: dict[TaskId, SimulatedProcess] = {}
        self._retries: dict[TaskId, int] = {}
        self._failures: dict[Failure, TaskId] = {}  # each with the first task that had it; others inherit it

    def _submitted(self, home: SimulatedProcess, event: Submitted, effects: list[Effect]) -> None:
        self._retries[event.spec.task_id] = event.spec.options.max_retries

    def started(self, home: SimulatedProcess, task: PushedTask) -> None:
        task_id = task.task_id
        attempts = self._attempts.setdefault(task_id, [])
        if task.attempt in attempts:
            raise BrokenInvariant(7, f"attempt {task.attempt} of {show(task_id)} starts twice", task_id)
        attempts.append(task.attempt)
        other = self._running.get(task_id)
        if other is not None and other.alive:
            raise BrokenInvariant(7, f"{show(task_id)} starts while {other.name} runs it", task_id)
        self._running[task_id] = home
        retries = self._retries.get(task_id, -1)
        if 0 <= retries < len(attempts) - 1:
            told = f"{show(task_id)} has max_retries={retries} and starts for the {len(attempts)}th time"
            raise BrokenInvariant(7, told, task_id)

    def _finished(self, home: SimulatedProcess, event: TaskFinished, effects: list[Effect]) -> None:
        self._running.pop(event.task_id, None)

    def _told(self, home: SimulatedProcess, effect: Ready) -> None:
        assert home.process is not None
        for object_id in effect.object_ids:
            value = home.process.owner.values.get(object_id)
            if not isinstance(value, Failed) or value.failure.kind is not FailureKind.WORKER_CRASHED:
                continue
            task_id = task_of(object_id)
            death = value.failure.death
            if self._failures.setdefault(value.failure, task_id) != task_id or death is None:
                continue
            if death.status == UNKNOWN_STATUS:  # nobody could say what had started
                continue
            if len(self._attempts.get(task_id, ())) <= self._retries.get(task_id, 0):
                told = f"{show(task_id)} fails by crashes of others: it had not started when they died"
                raise BrokenInvariant(7, told, task_id)
