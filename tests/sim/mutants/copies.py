"""Copies on other nodes, and what dies with a node: wrong in one point each (PROTOCOL.md section 6)."""

from __future__ import annotations

from typing import Any

from miniray.core.node.extents import Extents
from miniray.core.owner.copies import CopyTable
from miniray.core.owner.remaking import Remaking
from tests.sim.mutants import Wrong, mutant, nothing

NODES = 3


@mutant(Extents, "node_died", nodes=NODES)
def owners_on_a_dead_node_are_not_buried(right: Wrong) -> Wrong:
    """What they had in extents of other nodes stays."""
    return nothing(right)


@mutant(Remaking, "node_died", nodes=NODES)
def places_on_a_dead_node_are_lent(right: Wrong) -> Wrong:
    """Values that lay there are not lost with it."""
    return nothing(right)


@mutant(CopyTable, "freed", nodes=NODES)
def a_copy_outlives_its_value(right: Wrong) -> Wrong:
    """The node that made it is not told that it is free."""

    def wrong(self: CopyTable, object_id: Any, *, for_good: bool) -> list[Any]:
        right(self, object_id, for_good=for_good)
        return []

    return wrong


@mutant(CopyTable, "failed", nodes=NODES)
def a_copy_that_failed_is_waited_for(right: Wrong) -> Wrong:
    """Nobody tries again, and nobody is told."""
    return nothing(right)
