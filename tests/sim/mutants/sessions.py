"""Links that were made again between two that live: wrong in one point each (PROTOCOL.md sections 2, 4 and 7)."""

from __future__ import annotations

from miniray.core.owner.actors import Actors
from miniray.core.owner.handoffs import Handoffs
from miniray.core.owner.holding import Holding
from miniray.core.owner.sessions import Sessions
from tests.sim.mutants import Wrong, mutant, nothing


@mutant(Actors, "link_renewed")
def what_was_under_way_is_waited_for(right: Wrong) -> Wrong:
    """Calls that got lost with the link are neither made again nor fail."""
    return nothing(right)


@mutant(Holding, "tell_all")
def a_new_link_begins_with_nothing(right: Wrong) -> Wrong:
    """A holder does not say what it holds, and its owner believes that it holds nothing."""
    return lambda self, owner: []


@mutant(Holding, "ask_again")
def what_was_asked_is_not_asked_again(right: Wrong) -> Wrong:
    """A question that got lost with the link, or its answer, is waited for."""
    return nothing(right)


@mutant(Handoffs, "unpin_others")
def a_lost_end_of_a_transfer_pins_for_ever(right: Wrong) -> Wrong:
    """A sender keeps all its pins over a broken link, though the receiver says which it needs."""
    return lambda self, receiver, needed: []


@mutant(Sessions, "_pin_what_may_run")
def what_still_runs_loses_its_arguments(right: Wrong) -> Wrong:
    """A call that fails with its link lets its arguments go, though it may run there still."""
    return nothing(right)
