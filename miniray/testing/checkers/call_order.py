"""Invariant 6: calls of one caller to one actor start in the order in which they were made.

Those that a dead actor had not answered are sent again in that order, before the others: so it holds in each of its
processes by itself. So are those of a session that ended with its link: it holds in each session, and none of an old
one starts after one of the next (50814). A call that failed or was cancelled leaves a gap; one that is retried by
`retry_exceptions` has had its turn.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, ProcessId, TaskId, owner_of, show
from miniray.core.machine import LinkRenewed, Send
from miniray.core.messages import CallActor, TasksDone
from miniray.core.owner.events import Submitted
from miniray.core.record import Effect
from miniray.core.task_spec import PushedTask
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class CallOrder(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {Submitted: self._submitted, LinkRenewed: self._renewed}
        self.decided = {TasksDone: self._answered, CallActor: self._called}
        self._submissions = 0
        self._calls: dict[TaskId, tuple[ObjectId, int]] = {}  # which actor, and the number of the call
        self._sessions: dict[tuple[ProcessId, ProcessId], int] = {}  # how many a caller has had with a process
        self._session_of: dict[tuple[TaskId, int], int] = {}  # of each attempt
        # Of caller, actor, its process: the session and the number of the call that started last.
        self._last: dict[tuple[ProcessId, ObjectId, ProcessId], tuple[int, int]] = {}

    def _submitted(self, home: SimulatedProcess, event: Submitted, effects: list[Effect]) -> None:
        if event.spec.actor is not None:
            self._submissions += 1
            self._calls[event.spec.task_id] = event.spec.actor, self._submissions

    def _renewed(self, home: SimulatedProcess, event: LinkRenewed, effects: list[Effect]) -> None:
        """A new session with that actor begins at this caller."""
        self._sessions[home.me, event.peer] = self._sessions.get((home.me, event.peer), 0) + 1

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
