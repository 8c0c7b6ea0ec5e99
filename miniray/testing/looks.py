"""What a look costs: at a clock, or (a *poll*) at what is ready: `wait` and `get` with timeout=0, `time.sleep(0)`.

Virtual time passes while somebody waits. A program that polls waits for nothing: its time would stand still for ever.
So looks take time, as calls take microseconds in a real process:

- A few looks at a clock, as to log or to time something, take a microsecond each, and nobody goes on meanwhile: others
  need no turn, and a lock that is held here needs none either.
- Whoever looks more often in one task, without a sleep or a wait in between, *spins*. Each further look takes a
  microsecond more than the one before, and others go on meanwhile. So a loop sees a second pass in 1,500 looks, an hour
  in 85,000. Were it doubled instead, a task that writes a thousand lines to its log would take for ever.
- A poll is nothing but waiting: others always go on meanwhile, and it takes at least a sixteenth of the time that was
  spun by then. So a loop of polls sees a second pass in 200 of them, an hour in 330.
- A sleep that is no longer than one more look is such a look, and a timeout that is no longer is a poll. Only a longer
  one begins anew, or a loop of `time.sleep(1e-6)` would come to no end. A short sleep is not taken for a poll: some
  hundred of them, in a loop that does a little work each time, would take an hour.

Nothing of it is a choice, so one seed stays one run, and a schedule shrinks as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniray.testing.fibers import Fiber
    from miniray.testing.simulated import SimulatedProcess

LOOK_SECONDS = 0.000_001
FEW = 100
_PART = 16


class Spin:
    """The looks of one fiber since its task began, or it slept or waited."""

    __slots__ = ("looks", "seconds")

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        self.looks, self.seconds = 0, 0.0

    def cost(self, *, polls: bool) -> float:
        """Seconds of one more look."""
        self.looks += 1
        seconds = LOOK_SECONDS * max(1, self.looks - FEW)
        if polls:
            seconds = max(seconds, self.seconds / _PART)
        self.seconds += seconds
        return seconds

    def lasting(self, seconds: float, *, polls: bool) -> float:
        """How long a sleep takes, or a timeout (which polls), of so many seconds."""
        if seconds <= LOOK_SECONDS * max(1, self.looks + 1 - FEW):
            return self.cost(polls=polls)
        self.begin_anew()
        return seconds


def look(home: SimulatedProcess, fiber: Fiber, *, polls: bool) -> None:
    """The fiber that is awake looks, in its process.

    Raises:
        FiberKilled: its process is dead.
        KeyboardInterrupt: its task was cancelled meanwhile.
    """
    seconds = fiber.spin.cost(polls=polls)
    home.cpu_seconds += seconds
    if polls or fiber.spin.looks > FEW:
        home.sleep(fiber, seconds)
    else:
        home.cluster.timeline.spend(seconds)


def wait(fiber: Fiber, found: Callable[[], Any], seconds: float | None) -> Any:
    """Park, at least once, until something is found, or for so long; what was found last. Whoever makes it so wakes
    the fiber, in its process.

    Raises:
        FiberKilled, KeyboardInterrupt: as of `look`.
    """
    home, timeline = fiber.home, fiber.home.cluster.timeline
    deadline = None if seconds is None else timeline.now + fiber.spin.lasting(seconds, polls=True)
    while True:
        if deadline is not None:
            home.wake(fiber, max(0.0, deadline - timeline.now))
        try:
            fiber.park()
        finally:
            if seconds is None:
                fiber.spin.begin_anew()
        home.raise_interrupt()
        it = found()
        if it or (deadline is not None and timeline.now >= deadline):
            return it
