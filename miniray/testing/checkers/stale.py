"""Invariant 8: no message of a dead attempt changes a table (of an ended lease: `leases.py`).

And no attempt is given up while its answer is under way: a link is read to its end before a death counts (section 2).
Who has buried a process gives nobody its address, and runs nothing for it. A cancel strikes the task that it names.
"""

from __future__ import annotations

from miniray.core.ids import ProcessId, TaskId, owner_of, show, task_of
from miniray.core.machine import LinkRenewed, PeerLost, Received, Send
from miniray.core.messages import CallActor, CancelTask, ProcessDied, PushTasks, TasksDone, ValueIs
from miniray.core.owner.events import Ready
from miniray.core.record import Effect
from miniray.core.task_spec import ActorAt, PushedTask
from miniray.core.worker.events import InterruptTask, RunTask
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class Stale(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {
            TasksDone: self._answered,
            ProcessDied: self._died,
            PeerLost: self._lost,
            LinkRenewed: self._renewed,
            CancelTask: self._cancelled,
        }
        self.decided = {
            PushTasks: self._pushed,
            CallActor: self._called,
            ValueIs: self._tells,
            RunTask: self._runs,
        }
        self._news: dict[tuple[ProcessId, ProcessId], bool] = {}  # who was told of whose death
        self._ended: dict[tuple[ProcessId, ProcessId], bool] = {}  # and whose link has ended
        self._pushes: dict[TaskId, int] = {}
        self._pushed_to: dict[TaskId, ProcessId] = {}
        self._answers: dict[tuple[TaskId, int], bool] = {}

    def _pushed(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, PushTasks)
        self._note(effect.peer, effect.message.tasks)

    def _called(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, CallActor)
        self._note(effect.peer, effect.message.calls)

    def _note(self, peer: ProcessId, tasks: list[PushedTask]) -> None:
        for task in tasks:
            self._pushes[task.task_id] = task.attempt
            self._pushed_to[task.task_id] = peer

    def _renewed(self, home: SimulatedProcess, event: LinkRenewed, effects: list[Effect]) -> None:
        """What was under way on the old link is given up, though its answers may come on the new one."""
        for task_id, peer in self._pushed_to.items():
            if peer == event.peer and owner_of(task_id) == home.me:
                for attempt in range(self._pushes[task_id] + 1):
                    self._answers[task_id, attempt] = True

    def _died(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, ProcessDied)
        self._news[home.me, event.message.process] = True

    def _lost(self, home: SimulatedProcess, event: PeerLost, effects: list[Effect]) -> None:
        self._ended[home.me, event.peer] = True

    def _tells(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, ValueIs)
        value = effect.message.value
        if not isinstance(value, ActorAt):
            return
        key = home.me, value.process
        if key in self._news and key in self._ended:
            told = f"{home.name} gives the address of an actor whose process it has buried"
            raise BrokenInvariant(8, told, effect.message.object_id, value.process)

    def _runs(self, home: SimulatedProcess, effect: RunTask) -> None:
        task_id = effect.task.task_id
        if (home.me, owner_of(task_id)) in self._ended:
            raise BrokenInvariant(8, f"{home.name} runs {show(task_id)} for an owner whose link has ended", task_id)

    def _cancelled(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, CancelTask)
        for effect in effects:
            if type(effect) is InterruptTask and effect.task_id != event.message.task:
                told = f"the cancel of {show(event.message.task)} interrupts {show(effect.task_id)}"
                raise BrokenInvariant(8, told, effect.task_id)

    def _answered(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, TasksDone)
        ready = [one for effect in effects if type(effect) is Ready for one in effect.object_ids]
        told = {task_of(object_id) for object_id in ready}
        for result in event.message.results:  # two attempts of one task may come together
            if result.attempt == self._pushes.get(result.task_id):
                told.discard(result.task_id)
        for result in event.message.results:
            if result.task_id in told:
                raise BrokenInvariant(8, f"an old attempt decides {show(result.task_id)}", result.task_id)
            key = result.task_id, result.attempt
            if result.attempt < self._pushes.get(result.task_id, 0) and key not in self._answers:
                story = f"attempt {result.attempt} of {show(result.task_id)} was given up, and is answered"
                raise BrokenInvariant(8, story, result.task_id)
            self._answers[key] = True
