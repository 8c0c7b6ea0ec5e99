"""What the control store is told by its own process, and what it asks its own process to do."""

from __future__ import annotations

from miniray.core.messages import NodeAdded, NodeDied
from miniray.core.record import Effect, Event


class StoreStarted(Event, frozen=True):
    """This process has begun, with what its log says; perhaps not for the first time."""


class Logged(Event, frozen=True):
    """So many records are on disk, those of earlier lives among them: no crash takes them away."""

    upto: int


class Log(Effect, frozen=True):
    """Append this to the log. `Logged` comes back, perhaps much later; records reach the disk in their order."""

    record: NodeAdded | NodeDied
