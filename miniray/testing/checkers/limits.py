"""Invariant 11: queues, tables and messages stay under their named limits."""

from __future__ import annotations

from miniray.core.ids import ProcessId
from miniray.core.machine import Received, Send
from miniray.core.messages import (
    CallActor,
    CancelRequest,
    LeaseGranted,
    LeaseRefused,
    PushTasks,
    RequestLease,
    TasksDone,
)
from miniray.core.owner.leases import BATCH_TASKS, MAX_DEPTH_TASKS, MAX_REQUESTS
from miniray.core.record import Effect
from miniray.core.resources import Demand
from miniray.core.worker.run_queue import BATCH_RESULTS
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class Limits(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {LeaseGranted: self._answered, LeaseRefused: self._answered}
        self.decided = {
            RequestLease: self._requests,
            CancelRequest: self._cancels,
            PushTasks: self._pushes,
            CallActor: self._calls,
            TasksDone: self._answers,
        }
        self._requested: dict[ProcessId, dict[int, Demand]] = {}

    def _requests(self, home: SimulatedProcess, effect: Send) -> None:
        message = effect.message
        assert isinstance(message, RequestLease)
        if not message.for_actor:
            mine = self._requested.setdefault(home.me, {})
            mine[message.request] = message.demand
            of_class = sum(1 for one in mine.values() if one == message.demand)
            self._hold(home, of_class, MAX_REQUESTS, "requests of a class")

    def _cancels(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, CancelRequest)
        self._requested.get(home.me, {}).pop(effect.message.request, None)

    def _answered(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, LeaseGranted | LeaseRefused)
        self._requested.get(home.me, {}).pop(event.message.request, None)

    def _pushes(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, PushTasks)
        self._hold(home, len(effect.message.tasks), BATCH_TASKS, "tasks in a push")

    def _calls(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, CallActor)
        self._hold(home, len(effect.message.calls), BATCH_TASKS, "calls in a message")

    def _answers(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, TasksDone)
        self._hold(home, len(effect.message.results), BATCH_RESULTS, "results in a message")

    def look(self) -> None:
        callers = len(self.cluster.processes)  # each may have so many calls at one actor
        for home in self.cluster.processes.values():
            waiting = home.loop.statistics().get("run_queue", 0)
            self._hold(home, waiting, MAX_DEPTH_TASKS * callers, "tasks in its queue")

    def _hold(self, home: SimulatedProcess, count: int, limit: int, what: str) -> None:
        if count > limit:
            raise BrokenInvariant(11, f"{home.name} has {count} {what}, and the limit is {limit}", home.me)
