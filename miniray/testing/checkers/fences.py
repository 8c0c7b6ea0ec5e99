"""Invariant 8, of nodes: who is declared dead does nothing any more, so nothing that takes its place runs beside it.

It has ended itself, or stands still; all its processes have. A node that was cut off hears of it from nobody: it ends
when it sees that it cannot reach the control store, and before that is declared.
"""

from __future__ import annotations

from miniray.core.ids import ProcessId, node_of, show
from miniray.core.machine import Send
from miniray.core.messages import NodeDied
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class Fences(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.decided = {NodeDied: self._declared}

    def _declared(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, NodeDied)
        node = effect.message.node
        running = [show(one.me) for one in self._on(node) if not one.stands_still]
        if running:
            told = f"{show(node)} is declared dead, and {', '.join(running)} still runs"
            raise BrokenInvariant(8, told, node)

    def _on(self, node: ProcessId) -> list[SimulatedProcess]:
        return [one for one in self.cluster.processes.values() if one.alive and node_of(one.me) == node]

    def at_end(self) -> None:
        for node in self.cluster.left_behind:
            running = [show(one.me) for one in self._on(node) if one.may_act]
            if running:
                raise BrokenInvariant(8, f"{show(node)} was left behind, and {', '.join(running)} never ended", node)
