"""The one shape of deciding: a machine takes `(now, event)` and returns effects (DESIGN.md, law 1).

Duties of whoever steps a machine (only `_runtime/loop.py` does):

1. One step at a time, under the state lock, with a `now` that never goes back.
2. Perform the returned effects in list order. Performing never steps a machine: what comes of it is a
   later event.
3. Step `Tick` no later than `deadline()`; None means "nothing to wait for".
4. A `Send` to the machine's own process goes to the other roles there, as the same record, in this turn.
5. When a link breaks: `LinkRenewed` if there is another one at once, which means that the peer lives; else one
   `PeerLost`, and nothing of that peer afterwards.

A machine keeps its handlers in one literal dict from event or message type to method. It owns no clock,
socket, thread, log or dice, and it never iterates a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from miniray.core.ids import ObjectId, ProcessId
from miniray.core.record import Effect, Event, Message


class Received(Event, frozen=True):
    """A message has arrived from `peer` (or from another role of this process)."""

    peer: ProcessId
    message: Message


class PeerLost(Event, frozen=True):
    """The link to `peer` has broken, or could not be made; nothing more comes from it. (Only between a node and the
    control store another one may come.) `gone`: there is no such process any more; else it cannot be reached, or talked
    nonsense."""

    peer: ProcessId
    reason: str
    gone: bool = False


class LinkRenewed(Event, frozen=True):
    """The link to `peer` broke, both live, and there is a new one, on which nothing was sent yet. Of what was sent
    before this event nobody knows what has arrived; nothing of it arrives after."""

    peer: ProcessId


class Tick(Event, frozen=True):
    """A machine's deadline has come."""


class Awaited(Event, frozen=True):
    """A thread is about to block until some of these are ready (in a worker: its CPU may serve others)."""

    object_ids: list[ObjectId]


class AwaitEnded(Event, frozen=True):
    """That thread goes on."""


class Send(Effect, frozen=True):
    """Put `message` on the link to `peer`. Sends to one peer leave in the order in which they were decided."""

    peer: ProcessId
    message: Message


class Machine(Protocol):
    """Each machine writes its `step` and `handles` itself, ten lines: what follows a handler differs (an owner settles
    what its parts have found, a node of several reports its load), and a base that called it would cost every step of
    the hot path one call more."""

    def step(self, now: float, event: Event) -> list[Effect]: ...

    def deadline(self) -> float | None:
        """When this machine wants a `Tick`, in the clock of `now`; None for never."""

    def handles(self) -> tuple[type[Event] | type[Message], ...]:
        """The types of events and messages that it wants."""

    def check(self) -> None:
        """Assert every invariant (PROTOCOL.md section 9) that this machine can see alone."""

    def statistics(self) -> Mapping[str, Any]:
        """Sizes of its tables, by name: all zero at quiescence, but for what the name says is a total."""


class InvariantError(AssertionError):
    """A machine found its own table wrong. It stops with the story rather than go on (STYLE.md, habits)."""
