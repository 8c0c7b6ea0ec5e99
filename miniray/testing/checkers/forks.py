"""Invariant 14: what was forked from the driver for one actor serves that actor alone, which nothing else serves.

It has inherited what that actor needs, and nothing else has. So neither a task nor another actor begins there, and the
actor begins nowhere else, in whichever life. When the driver holds nothing any more, no such process is left.
"""

from __future__ import annotations

from miniray.core.ids import ProcessId, TaskId, show
from miniray.core.node.events import StartWorker
from miniray.core.owner.events import Submitted
from miniray.core.record import Effect
from miniray.core.task_spec import PushedTask
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class ForkedForOne(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {Submitted: self._submitted}
        self.decided = {StartWorker: self._forked}
        self._wanted: dict[TaskId, bool] = {}  # creations that want a fork
        self._forked_for: dict[ProcessId, TaskId] = {}

    def _submitted(self, home: SimulatedProcess, event: Submitted, effects: list[Effect]) -> None:
        if event.spec.options.fork:
            self._wanted[event.spec.task_id] = True

    def _forked(self, home: SimulatedProcess, effect: StartWorker) -> None:
        if effect.fork is not None:
            self._forked_for[effect.process] = effect.fork

    def started(self, home: SimulatedProcess, task: PushedTask) -> None:
        if task.method and not task.creates_actor:
            return  # a call, of the actor that lives there
        forked_for = self._forked_for.get(home.me)
        if forked_for is None and task.task_id in self._wanted:
            told = f"{show(task.task_id)} begins in {home.name}, which was not forked for it"
            raise BrokenInvariant(14, told, task.task_id)
        if forked_for is not None and forked_for != task.task_id:
            told = f"{home.name} was forked for {show(forked_for)}, and {show(task.task_id)} begins there"
            raise BrokenInvariant(14, told, task.task_id)

    def at_end(self) -> None:
        for process, task_id in self._forked_for.items():
            home = self.cluster.processes.get(process)
            if home is not None and home.may_act:
                raise BrokenInvariant(14, f"{home.name}, forked for {show(task_id)}, is still there", process)
