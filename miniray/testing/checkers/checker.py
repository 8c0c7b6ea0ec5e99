"""What a checker is: one truth of PROTOCOL.md section 9 that no machine can see alone.

It says which events, messages and effects it wants to see, looks at the whole world now and then, and once more when
nothing is left to happen. It never changes anything, draws nothing, and its cost is the cost of every simulated run:
so what it sees is chosen by type, and nothing is called for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from miniray.core.ids import show
from miniray.core.record import Effect, Event, Message
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess

After = Callable[[SimulatedProcess, Any, list[Effect]], None]
Decided = Callable[[SimulatedProcess, Any], None]
Kind = type[Event] | type[Message] | type[Effect]


class BrokenInvariant(AssertionError):
    """An invariant of section 9 does not hold.

    Args:
        number: which one.
        about: an id, or ids, whose story explains it.
    """

    def __init__(self, number: int, message: str, *about: bytes) -> None:
        super().__init__(f"invariant {number} is broken: {message}")
        self.about = tuple(show(one) for one in about)


class Checker:
    """One invariant.

    `after` is called when a machine has reacted to an event (or to a message: it then gets the `Received`), with what
    it has decided; `decided` is called for each effect (for a message that is sent: with its `Send`).
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.after: dict[Kind, After] = {}
        self.decided: dict[Kind, Decided] = {}

    def started(self, home: SimulatedProcess, task: Any) -> None:
        """Users' code of a pushed task begins."""

    def look(self) -> None:
        """Between two events, once in so many steps."""

    def at_end(self) -> None:
        """Nothing is left to happen, and the driver holds nothing."""
