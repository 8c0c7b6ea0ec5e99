"""Invariant 7: `max_retries=0` is started at most once; and a crash is charged to what had started, to nothing else.

Each attempt of any task starts once, and none while another attempt of it runs. (One that stands still with its node
does not run. The node was declared dead meanwhile, and ends when it wakes; nobody can keep what was running there from
doing a little in that moment, but it reaches nobody.) What has ended in a worker is sent
before a task that may not run twice starts there, or a crash would cost it. A death whose cause was told is not called
unknown. An actor that was killed for good has no further life.
"""

from __future__ import annotations

from miniray.core.failures import NODE_DIED_STATUS, UNKNOWN_STATUS, Failure, FailureKind
from miniray.core.ids import ProcessId, TaskId, owner_of, show, task_of
from miniray.core.machine import LinkRenewed, PeerLost, Received, Send
from miniray.core.messages import ExecutionEnded, ProcessDied, PushTasks, RequestKill, TasksDone
from miniray.core.node.events import ProcessEnded
from miniray.core.owner.events import KillRequested, Ready, Submitted
from miniray.core.record import Effect
from miniray.core.task_spec import Failed, PushedTask
from miniray.core.worker.events import RunTask, TaskFinished
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class Starts(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {
            Submitted: self._submitted,
            TaskFinished: self._finished,
            ProcessDied: self._heard,
            ProcessEnded: self._ended,
            PeerLost: self._lost,
            KillRequested: self._killed_here,
            RequestKill: self._asked_to_kill,
            LinkRenewed: self._lost,
        }
        self.decided = {
            Ready: self._told,
            RunTask: self._run,
            TasksDone: self._sent,
            ExecutionEnded: self._handed_over,
            PushTasks: self._pushed,
        }
        self._sequences: dict[ProcessId, int] = {}  # of the task that each process started last
        self._unsent: dict[ProcessId, dict[TaskId, bool]] = {}
        self._deaths: dict[tuple[ProcessId, ProcessId], bool] = {}  # who has heard of whose
        self._attempts: dict[TaskId, list[int]] = {}  # that have started
        self._running: dict[TaskId, SimulatedProcess] = {}
        self._retries: dict[TaskId, int] = {}
        self._killed: dict[TaskId, None] = {}  # creations of actors, of whose end their owner has been told
        self._failures: dict[Failure, TaskId] = {}  # each with the first task that had it; others inherit it

    def _submitted(self, home: SimulatedProcess, event: Submitted, effects: list[Effect]) -> None:
        self._retries[event.spec.task_id] = event.spec.options.max_retries

    def started(self, home: SimulatedProcess, task: PushedTask) -> None:
        task_id = task.task_id
        self._sequences[home.me] = task.sequence
        attempts = self._attempts.setdefault(task_id, [])
        if task.attempt in attempts:
            raise BrokenInvariant(7, f"attempt {task.attempt} of {show(task_id)} starts twice", task_id)
        attempts.append(task.attempt)
        other = self._running.get(task_id)
        if other is not None and other.alive and not other.stands_still:
            raise BrokenInvariant(7, f"{show(task_id)} starts while {other.name} runs it", task_id)
        self._running[task_id] = home
        retries = self._retries.get(task_id, -1)
        if 0 <= retries < len(attempts) - 1:
            told = f"{show(task_id)} has max_retries={retries} and starts for the {len(attempts)}th time"
            raise BrokenInvariant(7, told, task_id)

    def _finished(self, home: SimulatedProcess, event: TaskFinished, effects: list[Effect]) -> None:
        self._running.pop(event.task_id, None)

    def _heard(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, ProcessDied)
        self._deaths[home.me, event.message.process] = True

    def _lost(self, home: SimulatedProcess, event: PeerLost | LinkRenewed, effects: list[Effect]) -> None:
        """Results for the dead are not sent, nor those of a session that is over."""
        unsent = self._unsent.get(home.me, {})
        for task_id in [one for one in unsent if one.startswith(event.peer)]:
            del unsent[task_id]

    def _ended(self, home: SimulatedProcess, event: ProcessEnded, effects: list[Effect]) -> None:
        last = self._sequences.get(event.process, 0)
        if event.started != last:
            told = f"{show(event.process)} had started number {last}, and its status word says {event.started}"
            raise BrokenInvariant(7, told, event.process)

    # ---- actors that are killed ----

    def _killed_here(self, home: SimulatedProcess, event: KillRequested, effects: list[Effect]) -> None:
        if not event.restart and owner_of(event.actor) == home.me:
            self._killed[task_of(event.actor)] = None

    def _asked_to_kill(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, RequestKill)
        if not event.message.restart and owner_of(event.message.actor) == home.me:
            self._killed[task_of(event.message.actor)] = None

    def _pushed(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, PushTasks)
        for task in effect.message.tasks:
            if task.creates_actor and task.task_id in self._killed:
                told = f"actor {show(task.task_id)} was killed for good, and its owner begins another life of it"
                raise BrokenInvariant(8, told, task.task_id)

    # ---- results ----

    def _sent(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, TasksDone)
        for result in effect.message.results:
            self._unsent.get(home.me, {}).pop(result.task_id, None)

    def _handed_over(self, home: SimulatedProcess, effect: Send) -> None:
        """To the owner role of the same process, which sends it in this turn."""
        assert isinstance(effect.message, ExecutionEnded)
        self._unsent.get(home.me, {}).pop(effect.message.result.task_id, None)

    def _run(self, home: SimulatedProcess, effect: RunTask) -> None:
        unsent = self._unsent.setdefault(home.me, {})
        if effect.task.at_most_once and unsent:
            held_back = next(iter(unsent))
            told = f"the result of {show(held_back)} waits behind {show(effect.task.task_id)}, which may not run twice"
            raise BrokenInvariant(7, told, held_back, effect.task.task_id)
        unsent[effect.task.task_id] = True

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
                if (home.me, value.failure.process) in self._deaths:
                    told = f"{show(task_id)} fails by a death of unknown cause, and {home.name} was told the cause"
                    raise BrokenInvariant(8, told, task_id)
                continue
            if death.status == NODE_DIED_STATUS:
                continue  # nobody has seen how far its workers had come: all that was pushed there counts
            if len(self._attempts.get(task_id, ())) <= self._retries.get(task_id, 0):
                told = f"{show(task_id)} fails by crashes of others: it had not started when they died"
                raise BrokenInvariant(7, told, task_id)
