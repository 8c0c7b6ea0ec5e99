"""Invariant 8: no message of a dead attempt changes a table (of an ended lease: `leases.py`)."""

from __future__ import annotations

from miniray.core.ids import TaskId, show, task_of
from miniray.core.machine import Received, Send
from miniray.core.messages import CallActor, PushTasks, TasksDone
from miniray.core.owner.events import Ready
from miniray.core.record import Effect
from miniray.core.task_spec import PushedTask
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class Stale(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {TasksDone: self._answered}
        self.decided = {PushTasks: self._pushed, CallActor: self._called}
        self._pushes: dict[TaskId, int] = {}

    def _pushed(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, PushTasks)
        self._note(effect.message.tasks)

    def _called(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, CallActor)
        self._note(effect.message.calls)

    def _note(self, tasks: list[PushedTask]) -> None:
        for task in tasks:
            self._pushes[task.task_id] = task.attempt

    def _answered(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, TasksDone)
        ready = [one for effect in effects if type(effect) is Ready for one in effect.object_ids]
        told = {task_of(object_id) for object_id in ready}
        for result in event.message.results:
            if result.task_id in told and result.attempt != self._pushes.get(result.task_id):
                raise BrokenInvariant(8, f"an old attempt decides {show(result.task_id)}", result.task_id)
