"""A control store that crashes and begins again, and links to it that break, in clusters of three: wrong in one point
each (PROTOCOL.md sections 2, 8 and 10)."""

from __future__ import annotations

from typing import Any

from miniray.core.control.membership import MemberState, Membership
from miniray.core.node.control_link import ControlLink
from miniray.core.record import replace
from tests.sim.mutants import Wrong, mutant, nothing

NODES = 3


@mutant(Membership, "register", nodes=NODES)
def a_node_is_told_of_before_it_is_on_disk(right: Wrong) -> Wrong:
    """A store that crashes then would not know whom to ask for."""

    def wrong(self: Membership, node: Any, message: Any) -> None:
        right(self, node, message)
        member = self.members.get(node)
        if member is not None and member.state is MemberState.JOINING:
            self._welcome(node, member)

    return wrong


@mutant(Membership, "register", nodes=NODES)
def deaths_that_nodes_tell_again_are_not_taken_back(right: Wrong) -> Wrong:
    """What the store had heard before it crashed, and had not told everybody, is lost."""

    def wrong(self: Membership, node: Any, message: Any) -> None:
        right(self, node, replace(message, dead=(), deaths=()))

    return wrong


@mutant(Membership, "register", nodes=NODES)
def who_registers_again_is_not_told_who_has_died(right: Wrong) -> Wrong:
    """News that was under way when its link broke is lost."""

    def wrong(self: Membership, node: Any, message: Any) -> None:
        known, self._deaths = self._deaths, {}
        right(self, node, message)
        self._deaths = {**known, **self._deaths}

    return wrong


@mutant(Membership, "begin", nodes=NODES)
def a_store_that_begins_again_asks_for_nobody(right: Wrong) -> Wrong:
    """It waits for nodes to come by themselves; those that have died meanwhile never do."""
    return nothing(right)


@mutant(Membership, "begin", nodes=NODES)
def who_has_not_come_back_yet_is_dead(right: Wrong) -> Wrong:
    """A store that has begun again declares dead at once all that its log names."""

    def wrong(self: Membership) -> None:
        for node in list(self.members):
            self._bury(node)

    return wrong


@mutant(ControlLink, "register", nodes=NODES)
def a_node_registers_only_once(right: Wrong) -> Wrong:
    """On a new link, or to a store that has begun again, it says nothing of itself."""

    def wrong(self: ControlLink, now: float) -> None:
        if self._unregistered_since is None and not self._there:
            right(self, now)
        self._ask_at = None

    return wrong
