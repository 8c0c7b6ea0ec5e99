"""Nodes that die, in clusters of three: wrong in one point each (PROTOCOL.md sections 6 and 8)."""

from __future__ import annotations

from typing import Any

from miniray.core.control.membership import MemberState, Membership
from miniray.core.machine import PeerLost
from miniray.core.messages import NodeDied
from miniray.core.node.node_manager import NodeManager
from tests.sim.mutants import Wrong, mutant, nothing

NODES = 3


@mutant(Membership, "_tell_others", nodes=NODES)
def the_death_of_a_node_is_not_told(right: Wrong) -> Wrong:
    """The control store knows, and nobody else."""

    def wrong(self: Membership, node: Any, message: Any) -> None:
        if type(message) is not NodeDied:
            right(self, node, message)

    return wrong


@mutant(Membership, "process_died", nodes=NODES)
def a_death_is_heard_of_on_its_node_only(right: Wrong) -> Wrong:
    """The control store does not pass it on."""
    return nothing(right)


@mutant(NodeManager, "_on_node_died", nodes=NODES)
def a_node_keeps_to_itself_that_another_has_died(right: Wrong) -> Wrong:
    """It forgets that node, and its own processes are not told."""

    def wrong(self: NodeManager, now: float, message: Any, peer: Any) -> None:
        processes, self._processes = self._processes, {}
        right(self, now, message, peer)
        self._processes = processes

    return wrong


@mutant(NodeManager, "_on_peer_lost", nodes=NODES)
def a_node_that_is_cut_off_works_on(right: Wrong) -> Wrong:
    """It does not end itself when it cannot reach the control store any more."""

    def wrong(self: NodeManager, now: float, event: PeerLost, peer: Any) -> None:
        if event.peer != self._control:
            right(self, now, event, peer)

    return wrong


@mutant(Membership, "tick", nodes=NODES)
def who_is_unreachable_is_waited_for(right: Wrong) -> Wrong:
    """The control store sees that a node's link is lost, and never declares it dead."""

    def wrong(self: Membership, now: float) -> None:
        for member in self.members.values():
            if member.state is MemberState.FENCED:
                member.state = MemberState.AWAITED

    return wrong
