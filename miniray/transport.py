"""The interface that moves frames, and what every implementation of it promises.

A `Transport` joins this process to others by links. The guarantees (the conformance suite holds every
implementation to them, `miniray.testing.conformance`):

- **Whole, in order, at most once.** Frames of one link arrive as they were sent; none overtakes another.
- **Named.** A link leads to the process with this id, or breaks; it never leads to another one.
- **Broken once.** When a link breaks (or could not be made) `poll` reports one `LinkLost` for it, after every
  frame that had arrived, and nothing of that link afterwards. Sending on it is then silently nothing.
- **Made again.** A process that was told `LinkLost` may `connect` to that peer again. Whether or not it asked, each
  side is told of the loss first, then `LinkUp`, then what the other has sent on the new link.
- **No silence without end.** When the other end cannot be reached any more (its host is down or stands still, or the
  network is cut) `LinkLost` comes within `UNREACHABLE_SECONDS`, also for a link that is still to be made, and at both
  ends within `UNREACHABLE_SPREAD_SECONDS` of one another where both live. Keeping a link alive is the transport's work:
  machines send nothing for it. (On one host a link cannot be cut.)
- **No order across links.**
- **Never blocking but in `poll`.** `connect` and `send` return at once. What the kernel does not take is kept;
  a link that keeps more than `LINK_BUFFER_BYTES` reports `LinkFull`, and `LinkDrained` when it has room again.
- **Wakeable.** `wake` makes the current or next `poll` return; it may be called from any thread and from a
  signal handler. All other methods are called by one thread at a time; `send` and `poll` may overlap.

Frames handed out by `poll` are valid until the next `poll` (they lie in a kept receive buffer).
Clocks and choices are passed in the same way, for the same reason: a simulated world replaces all three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from miniray.core.ids import ProcessId
from miniray.core.record import Record

LINK_BUFFER_BYTES = 64 << 20
MAX_FRAME_BYTES = 1 << 30
UNREACHABLE_SECONDS = 5.0
UNREACHABLE_SPREAD_SECONDS = 0.3


class Frame(Record, frozen=True):
    """One frame from `peer`."""

    peer: ProcessId
    data: Any  # bytes or memoryview


class LinkUp(Record, frozen=True):
    """A link that another process asked for is there; or one that this process has asked for again after a loss."""

    peer: ProcessId


class LinkLost(Record, frozen=True):
    """`refused`: there is no such process (any more), or no way to ask for it; another try would end so, too.
    `unreachable`: nothing was heard of the other end for `UNREACHABLE_SECONDS`."""

    peer: ProcessId
    reason: str
    refused: bool = False
    unreachable: bool = False


class LinkFull(Record, frozen=True):
    peer: ProcessId


class LinkDrained(Record, frozen=True):
    peer: ProcessId


class Readable(Record, frozen=True):
    """A descriptor given to `watch` is readable (a pidfd: that process has ended)."""

    token: Any


Arrival = Frame | LinkUp | LinkLost | LinkFull | LinkDrained | Readable


class Transport(Protocol):
    def connect(self, peer: ProcessId) -> None:
        """Start to make a link to `peer`, unless there is one. Frames may be sent at once; `LinkLost` if it fails,
        `refused` if nobody is there."""

    def send(self, peer: ProcessId, frame: bytes) -> None:
        """Queue one frame for `peer`, to which `connect` was called or which was reported by `LinkUp`."""

    def disconnect(self, peer: ProcessId) -> None:
        """Close the link to `peer`; no `LinkLost` is reported here, one is at the other end."""

    def poll(self, timeout_seconds: float | None) -> list[Arrival]:
        """Wait until something arrives, `wake` is called or the time has passed; None waits without end."""

    def wake(self) -> None:
        """Make the current or next `poll` return."""

    def watch(self, descriptor: int, token: Any) -> None:
        """Report `Readable(token)` once, when the descriptor becomes readable."""

    def close(self) -> None:
        """Break every link and release every descriptor. Idempotent."""


class Clock(Protocol):
    def __call__(self) -> float:
        """Seconds that never go back (monotonic); only differences mean anything."""


class Choices(Protocol):
    def choose(self, count: int, why: str) -> int:
        """A number in range(count), from a seed, a recorded list, Hypothesis, or an enumeration."""


_OURS: dict[str, tuple[str, str]] = {
    "local": ("miniray_transports.local", "LocalTransport"),
    "simulated": ("miniray_transports.sim.network", "SimulatedTransport"),
}


def load(scheme: str) -> Callable[..., Transport]:
    """The transport class of this name: ours by a literal table, others by the entry points "miniray.transports".

    Raises:
        ValueError: no transport has this name; the message lists those that there are.
    """
    from importlib import import_module

    if scheme in _OURS:
        module, name = _OURS[scheme]
        found: Callable[..., Transport] = getattr(import_module(module), name)
        return found
    from importlib.metadata import entry_points  # 33 ms: only for a scheme that we do not know

    others = {point.name: point for point in entry_points(group="miniray.transports")}
    if scheme not in others:
        raise ValueError(f"no transport {scheme!r}; there are: {', '.join(sorted({*_OURS, *others}))}")
    loaded: Callable[..., Transport] = others[scheme].load()
    return loaded
