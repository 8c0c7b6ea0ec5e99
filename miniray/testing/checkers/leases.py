"""Invariant 5, from the messages alone: nothing is granted beyond what there is, and what those that wait have lent.

And the rules of leases that it stands on: a worker has one lease at a time, and none while it may run something of a
dead owner; a lease runs tasks only between the node's `LeaseStarted` and `LeaseEnded`; nothing is pushed to a revoked
one; who owes `LeaseStopped` says it.
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.core.ids import LeaseId, ProcessId, node_of
from miniray.core.machine import Received, Send
from miniray.core.messages import (
    Blocked,
    LeaseEnded,
    LeaseGranted,
    LeaseStarted,
    LeaseStopped,
    NodeDied,
    ProcessDied,
    PushTasks,
    RequestLease,
    ReturnLease,
    RevokeLease,
    Unblocked,
)
from miniray.core.node.events import ProcessEnded
from miniray.core.record import Effect, Row
from miniray.core.resources import Demand, cpu_part
from miniray.core.worker.events import RunTask, TaskFinished
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess

Key = tuple[ProcessId, LeaseId]  # leases are numbered by their node


class _Granted(Row):
    owner: ProcessId
    worker: ProcessId
    demand: Demand
    blocked: bool = False


class Leases(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {
            RequestLease: self._requested,
            ReturnLease: self._returned,
            ProcessEnded: self._ended,
            ProcessDied: self._died_elsewhere,
            NodeDied: self._node_died,
            Blocked: self._blocked,
            Unblocked: self._unblocked,
            LeaseStopped: self._stopped,
            LeaseStarted: self._starts,
            LeaseEnded: self._ends,
            RevokeLease: self._revoked,
            TaskFinished: self._finished,
        }
        self.decided = {LeaseGranted: self._grant, PushTasks: self._push, RunTask: self._run}
        self._demands: dict[tuple[ProcessId, int], Demand] = {}
        self._granted: dict[Key, _Granted] = {}
        self._given: dict[Key, bool] = {}
        self._stopping: dict[ProcessId, LeaseId] = {}  # workers that owe `LeaseStopped`
        self._known: dict[ProcessId, dict[LeaseId, bool]] = {}  # what each worker was told; False: it has ended
        self._taken_away: dict[Key, bool] = {}
        self._running: dict[ProcessId, LeaseId] = {}

    # ---- the node ----

    def _requested(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        message = event.message
        assert type(message) is RequestLease
        self._demands[event.peer, message.request] = message.demand

    def _grant(self, home: SimulatedProcess, effect: Send) -> None:
        message = effect.message
        assert type(message) is LeaseGranted
        worker = message.worker
        key = home.me, message.lease
        if key in self._given:
            raise BrokenInvariant(5, f"lease {message.lease} is granted twice", worker)
        if any(row.worker == worker for row in self._granted.values()):
            raise BrokenInvariant(12, f"lease {message.lease} is granted on a worker that has another", worker)
        if worker in self._stopping or worker in self._running:
            told = f"lease {message.lease} is granted on a worker that may still run something of another"
            raise BrokenInvariant(12, told, worker)
        self._given[key] = True
        self._granted[key] = _Granted(effect.peer, worker, self._demands[effect.peer, message.request])
        wanted = dict(self._granted[key].demand)
        for name, total in self.cluster.hosts[home.me].resources:
            if not wanted.get(name):  # it may start while others, called back, use more than there is
                continue
            mine = [row for (node, _), row in self._granted.items() if node == home.me]
            used = sum(dict(row.demand).get(name, 0) for row in mine)
            lent = sum(dict(cpu_part(row.demand)).get(name, 0) for row in mine if row.blocked)
            if used > total + lent:
                told = f"{name}: {used} are granted, of {total} and {lent} lent by those that wait"
                raise BrokenInvariant(5, told, worker)

    def _returned(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        message = event.message
        assert type(message) is ReturnLease
        row = self._granted.get((home.me, message.lease))
        if row is not None and row.owner == event.peer:
            del self._granted[home.me, message.lease]

    def _ended(self, home: SimulatedProcess, event: ProcessEnded, effects: list[Effect]) -> None:
        died = event.process
        self._running.pop(died, None)
        self._stopping.pop(died, None)
        self._orphan(home, lambda process: process == died)

    def _died_elsewhere(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, ProcessDied)
        died = event.message.process
        self._orphan(home, lambda process: process == died)

    def _node_died(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, NodeDied)
        node = event.message.node
        self._orphan(home, lambda process: node_of(process) == node)

    def _orphan(self, home: SimulatedProcess, is_dead: Callable[[ProcessId], bool]) -> None:
        for key, row in list(self._granted.items()):
            if key[0] == home.me and (is_dead(row.owner) or is_dead(row.worker)):
                del self._granted[key]
                if not is_dead(row.worker):
                    self._stopping[row.worker] = key[1]

    def _blocked(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, Blocked)
        row = self._granted.get((home.me, event.message.lease))
        if row is not None and row.worker == event.peer:
            row.blocked = True

    def _unblocked(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, Unblocked)
        row = self._granted.get((home.me, event.message.lease))
        if row is not None and row.worker == event.peer:
            row.blocked = False

    def _stopped(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        self._stopping.pop(event.peer, None)

    # ---- workers ----

    def _starts(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, LeaseStarted)
        self._known.setdefault(home.me, {})[event.message.lease] = True

    def _ends(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, LeaseEnded)
        self._known.setdefault(home.me, {})[event.message.lease] = False

    def _run(self, home: SimulatedProcess, effect: RunTask) -> None:
        self._running[home.me] = effect.lease
        if effect.lease and not self._known.get(home.me, {}).get(effect.lease):
            told = f"{home.name} runs a task of lease {effect.lease}, which it was not told, or which has ended"
            raise BrokenInvariant(8, told, effect.task.task_id)

    def _finished(self, home: SimulatedProcess, event: TaskFinished, effects: list[Effect]) -> None:
        if not any(type(effect) is RunTask for effect in effects):
            self._running.pop(home.me, None)

    # ---- owners ----

    def _revoked(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, RevokeLease)
        self._taken_away[event.peer, event.message.lease] = True

    def _push(self, home: SimulatedProcess, effect: Send) -> None:
        message = effect.message
        assert type(message) is PushTasks
        if (node_of(effect.peer), message.lease) in self._taken_away:
            told = f"{home.name} pushes to lease {message.lease}, which was revoked"
            raise BrokenInvariant(8, told, message.tasks[0].task_id)

    def at_end(self) -> None:
        for worker, lease in self._stopping.items():
            home = self.cluster.processes.get(worker)
            if home is not None and home.may_act:
                told = f"{home.name} has not said that lease {lease} of a dead owner has stopped: it serves nobody"
                raise BrokenInvariant(2, told, worker)
