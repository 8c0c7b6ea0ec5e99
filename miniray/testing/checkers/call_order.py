"""Invariant 6: calls of one caller to one actor start in the order in which they were made.

Those that a dead actor had not answered are sent again in that order, before the others: so it holds in each of its
processes by itself. So are those of a session that ended with its link: it holds in each session, and none of an old
one starts after one of the next (50814). A call that failed or was cancelled leaves a gap; one that is retried by
`retry_exceptions` has had its turn.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, ProcessId, TaskId, owner_of, show
from miniray.core.machine import LinkRenewed, Received, Send
from miniray.core.messages import CallActor, TasksDone
from miniray.core.owner.events import Submitted
from miniray.core.record import Effect
from miniray.core.task_spec import PushedTask
from miniray.core.worker.events import RunTask
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class CallOrder(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {Submitted: self._submitted, LinkRenewed: self._renewed, CallActor: self._queued}
        self.decided = {TasksDone: self._answered, CallActor: self._called, RunTask: self._runs}
        self._submissions = 0
        self._calls: dict[TaskId, tuple[ObjectId, int]] = {}  # which actor, and the number of the call
        self._sessions: dict[tuple[ProcessId, ProcessId], int] = {}  # how many a caller has had with a process
        self._session_of: dict[tuple[TaskId, int], int] = {}  # of each attempt
        self._waiting: dict[ProcessId, dict[tuple[TaskId, int], ProcessId]] = {}  # at each process; their callers
        self._discarded: dict[tuple[TaskId, int], bool] = {}
        # Of caller, actor, its process: the session and the number of the call that started last.
        self._last: dict[tuple[ProcessId, ObjectId, ProcessId], tuple[int, int]] = {}

    def _submitted(self, home: SimulatedProcess, event: Submitted, effects: list[Effect]) -> None:
        if event.spec.actor is not None:
            self._submissions += 1
            self._calls[event.spec.task_id] = event.spec.actor, self._submissions

    def _renewed(self, home: SimulatedProcess, event: LinkRenewed, effects: list[Effect]) -> None:
        """A new session begins at this end, be it the caller's or the actor's."""
        self._sessions[home.me, event.peer] = self._sessions.get((home.me, event.peer), 0) + 1
        waiting = self._waiting.get(home.me, {})
        for call in [call for call, caller in waiting.items() if caller == event.peer]:
            del waiting[call]
            self._discarded[call] = True

    def _queued(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, CallActor)
        waiting = self._waiting.setdefault(home.me, {})
        waiting.update(((call.task_id, call.attempt), event.peer) for call in event.message.calls)

    def _runs(self, home: SimulatedProcess, effect: RunTask) -> None:
        call = effect.task.task_id, effect.task.attempt
        self._waiting.get(home.me, {}).pop(call, None)
        if call in self._discarded:
            told = f"{home.name} runs {show(call[0])}, which it had queued when the session with its caller ended"
            raise BrokenInvariant(6, told, call[0])

    def _called(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, CallActor)
        session = self._sessions.get((home.me, effect.peer), 0)
        for call in effect.message.calls:
            self._session_of[call.task_id, call.attempt] = session

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
        place = self._session_of.get((task.task_id, task.attempt), 0), call[1]
        if self._last.get(key, (-1, -1)) > place:
            raise BrokenInvariant(6, f"call {show(task.task_id)} starts after a later one", task.task_id)
        self._last[key] = place
