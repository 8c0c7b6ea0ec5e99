"""Not a truth but a count: how far a run has spread over its nodes. What hardly happens is hardly checked."""

from __future__ import annotations

from miniray.core.ids import TaskId, node_of
from miniray.core.node.events import BytesFetched
from miniray.core.record import Effect, Row
from miniray.core.task_spec import PushedTask, Stored
from miniray.core.worker.events import TaskFinished
from miniray.testing.checkers.checker import Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class Spread(Row, eq=True):
    """Counts of one run; it is part of what two equal runs have in common."""

    nodes: int = 1
    tasks: int = 0  # starts of tasks; calls run where their actor is
    elsewhere: int = 0  # on other nodes than the driver's
    readers: int = 0  # of values that lie in the store
    copies: int = 0  # made on another node
    remakes: int = 0  # starts of what had ended before, after a node had died
    actors: int = 0
    actors_elsewhere: int = 0
    node_deaths: int = 0


_COUNTS = {
    "tasks": "tasks",
    "elsewhere": "on other nodes than the driver's",
    "readers": "that read stored values",
    "copies": "copies made",
    "remakes": "runs of what had ended before a node died",
    "actors": "actors",
    "actors_elsewhere": "of them elsewhere",
    "node_deaths": "deaths of nodes",
}


class Tally(Row):
    """Sums over runs of several nodes: of each count, and in how many runs it was not zero."""

    runs: int = 0
    sums: dict[str, int] = {}
    in_runs: dict[str, int] = {}

    def count(self, one: Spread) -> None:
        if one.nodes == 1:
            return
        self.runs += 1
        for name in _COUNTS:
            value = getattr(one, name)
            self.sums[name] = self.sums.get(name, 0) + value
            self.in_runs[name] = self.in_runs.get(name, 0) + (value > 0)

    def add(self, other: Tally) -> None:
        self.runs += other.runs
        for mine, others in ((self.sums, other.sums), (self.in_runs, other.in_runs)):
            for name, value in others.items():
                mine[name] = mine.get(name, 0) + value

    def __str__(self) -> str:
        told = [f"{self.sums[name]:,} {_COUNTS[name]} (in {self.in_runs[name]})" for name in self.sums]
        return ", ".join([f"{self.runs} of several nodes", *told])


class Spreading(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.counts = Spread(nodes=len(cluster.hosts))
        self._ended: dict[TaskId, None] = {}
        self._nodes = self.counts.nodes
        if self._nodes > 1:
            self.after = {BytesFetched: self._fetched, TaskFinished: self._finished}

    def started(self, home: SimulatedProcess, task: PushedTask) -> None:
        if self._nodes == 1 or task.method:
            return
        counts = self.counts
        counts.node_deaths = self._nodes - sum(host.node.alive for host in self.cluster.hosts.values())
        elsewhere = node_of(home.me) != self.cluster.head.me
        if task.creates_actor:
            counts.actors += 1
            counts.actors_elsewhere += elsewhere
            return
        counts.tasks += 1
        counts.elsewhere += elsewhere
        counts.readers += any(type(value) is Stored for value in task.values)
        counts.remakes += counts.node_deaths > 0 and task.task_id in self._ended

    def _finished(self, home: SimulatedProcess, event: TaskFinished, effects: list[Effect]) -> None:
        self._ended[event.task_id] = None

    def _fetched(self, home: SimulatedProcess, event: BytesFetched, effects: list[Effect]) -> None:
        self.counts.copies += event.done
