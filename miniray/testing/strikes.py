"""Strikes: nodes that die just when it matters (`faults.NodeStrike`). Other crashes come after so many steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from miniray.core.ids import ProcessId, TaskId, node_of
from miniray.core.task_spec import PushedTask, Stored
from miniray.testing.faults import StrikeMoment, NodeStrike

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster


class Strikes:
    def __init__(self, cluster: SimulatedCluster, strikes: tuple[NodeStrike, ...]) -> None:
        self._cluster = cluster
        self._left = list(strikes)
        self._passed = 0
        self._started: dict[TaskId, int] = {}  # the last attempt of each

    def task_starts(self, me: ProcessId, task: PushedTask) -> None:
        if not self._left:
            return
        node = node_of(me)
        self._happens(StrikeMoment.TASK, node)
        if task.creates_actor:
            self._happens(StrikeMoment.ACTOR, node)
        if any(type(value) is Stored for value in task.values):
            self._happens(StrikeMoment.READ, node)
        if self._started.get(task.task_id, task.attempt) != task.attempt:
            self._happens(StrikeMoment.REMAKE, node)
        self._started[task.task_id] = task.attempt

    def copy_begins(self, source: ProcessId, target: ProcessId) -> None:
        self._happens(StrikeMoment.COPY_TO, target)
        self._happens(StrikeMoment.COPY_FROM, node_of(source))

    def _happens(self, moment: StrikeMoment, node: ProcessId) -> None:
        if node == self._cluster.head.me or not self._left or self._left[0].moment is not moment:
            return
        self._passed += 1
        if self._passed > self._left[0].after:
            self._passed = 0
            strike = self._left.pop(0)
            self._cluster.timeline.after(strike.seconds, partial(self._strike, node, strike))

    def _strike(self, node: ProcessId, strike: NodeStrike) -> None:
        host = self._cluster.hosts.get(node)
        if host is None or not host.node.alive or self._cluster.healed_at is not None:
            return
        if strike.whole_host:
            self._cluster.crash_host(host)
        else:
            self._cluster.crash_node_process(host, "fault")

    def end(self) -> None:
        self._left.clear()
