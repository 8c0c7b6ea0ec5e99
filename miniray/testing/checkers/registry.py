"""Invariant 8, of the control store's own word, over all its lives: who was declared dead is never told as alive again,
and that a node lives is on disk before anybody hears of it (else a store that has crashed would not ask for it)."""

from __future__ import annotations

from miniray.core.ids import ProcessId, show
from miniray.core.messages import LoadOf, NodeAdded, NodeDied, NodeRegistered
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster


class Registry(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self._dead: dict[ProcessId, None] = {}
        self.decided = {
            NodeDied: lambda home, effect: self._dead.setdefault(effect.message.node),
            NodeRegistered: lambda home, effect: self._alive(effect.peer),
            NodeAdded: lambda home, effect: self._alive(effect.message.node),
            LoadOf: lambda home, effect: self._alive(effect.message.node),
        }

    def _alive(self, node: ProcessId) -> None:
        assert self.cluster.control is not None
        if node in self._dead:
            raise BrokenInvariant(8, f"{show(node)} was declared dead, and is told as alive", node)
        if not any(isinstance(one, NodeAdded) and one.node == node for one in self.cluster.control.log):
            raise BrokenInvariant(8, f"{show(node)} is told as alive, and that is not on disk", node)
