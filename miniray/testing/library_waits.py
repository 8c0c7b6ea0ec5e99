"""Waits of the standard library in simulated code: it parks, and virtual time passes.

What may end such a wait is time, or another fiber of the simulated process (one that fulfils a `ref.future()`, say). As
long as a thread of the user's lives, that one may, too:

- First the wait is a real one for a while, if the thread does anything: what it computes takes no virtual time, and the
  same program has the same run.
- When that was in vain it parks, as always. It looks again now and then while others go on, since a thread tells no
  fiber; and when nothing else is left to happen, the thread is waited for.

What is virtual, and how:

- `Condition.wait` makes a lock for each wait, and `Event`, `Queue`, `Semaphore`, `Barrier` and futures stand on it.
- asyncio waits in a selector, until a timer of its loop is due.
- Locks, `SimpleQueue`, `Thread.join` and `select` itself are not written in Python: their waits are real.
"""

from __future__ import annotations

import selectors
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from miniray.testing import fibers
from miniray.testing.fibers import Fiber, FiberKilled, inside_fiber

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster
    from miniray.testing.simulated import SimulatedProcess


# Real seconds:
_SLICE_SECONDS = 0.01
_HOLD_SECONDS = 1.0  # of a thread that computes; a run that waits so for another thing each time is slow, but ends
_IDLE_SECONDS = 0.03  # one that is idle may just have been given something
_MOMENT_SECONDS = 0.000_1  # virtual, until the first look of those that are parked; then twice as long, and so on


class LibraryWaits:
    """Those of one run."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._parked: dict[Fiber, tuple[SimulatedProcess, bool]] = {}  # and whether it looks at sockets
        self._looks_again = False
        self._moment = self._left = 0.0

    def allocate_lock(self, real: Any) -> Callable[[], Any]:
        """Instead of that of `threading`, which makes its conditions' locks."""
        return lambda: _WaitersLock(real(), self)

    def acquire(self, lock: Any, seconds: float | None) -> bool:
        return bool(self._until(lambda real: lock.acquire(real > 0, real or -1), seconds, sockets=False))

    def released(self) -> None:
        for fiber, (home, _) in self._parked.items():
            home.wake(fiber, self._cluster.draw_lag())

    def select(self, real: Any) -> Callable[..., Any]:
        """Instead of a selector's."""

        def select(selector: selectors.BaseSelector, timeout: float | None = None) -> Any:
            if timeout is not None and timeout <= 0:
                return real(selector, timeout)
            return self._until(lambda real_seconds: real(selector, real_seconds), timeout, _looks_at_others(selector))

        return select

    def _until(self, look: Callable[[float], Any], seconds: float | None, sockets: bool) -> Any:
        """Park until it finds something, or for so long; what it has found. `look` may be given real seconds."""
        fiber, home, timeline = self._cluster.awake, self._cluster.awake_home(), self._cluster.timeline
        found = look(0)
        if found:
            return found
        if fiber is None or home is None:
            raise FiberKilled  # a `finally` of what is unwound
        deadline = None if seconds is None else timeline.now + seconds
        found = self._hold(look, seconds, sockets)
        self._moment, self._left = _MOMENT_SECONDS, fibers.STUCK_SECONDS
        while not found and (deadline is None or timeline.now < deadline):
            if deadline is not None:
                home.wake(fiber, deadline - timeline.now)
            self._parked[fiber] = home, sockets
            self._look_later()
            try:
                fiber.park()
            finally:
                del self._parked[fiber]
                fiber.spin.begin_anew()
            home.raise_interrupt()
            found = look(0)
        return found

    def _hold(self, look: Callable[[float], Any], seconds: float | None, sockets: bool) -> Any:
        """Nobody else goes on meanwhile, and no virtual time passes."""
        strangers, held = self._cluster.strangers, 0.0
        most = _HOLD_SECONDS if seconds is None else min(seconds, _HOLD_SECONDS)
        found = None
        while not found and held < most:
            if not (sockets or (strangers.live if held < _IDLE_SECONDS else strangers.busy)):
                return None
            found = look(min(_SLICE_SECONDS, most - held))
            held += _SLICE_SECONDS
        return found

    def _look_later(self) -> None:
        if not self._looks_again and (self._cluster.strangers.live or any(one for _, one in self._parked.values())):
            self._looks_again = True
            self._cluster.timeline.after(self._moment, self._look_again)

    def _look_again(self) -> None:
        """Called by the timeline, of which it is the only one: so what else is planned is something else."""
        self._looks_again = False
        if self._cluster.timeline.next_time() is not None:
            self._moment *= 2
        else:
            if not (self._cluster.strangers.busy or any(one for _, one in self._parked.values())):
                self._left = min(self._left, _IDLE_SECONDS)
            if self._left <= 0:
                return  # nothing is left to happen
            time.sleep(_SLICE_SECONDS)
            self._left -= _SLICE_SECONDS
        for fiber, (home, _) in self._parked.items():
            home.wake(fiber, 0.0)
        if self._parked:
            self._look_later()


class _WaitersLock:
    """The lock of one `Condition.wait`: acquired, and then again by the one that waits."""

    def __init__(self, lock: Any, waits: LibraryWaits) -> None:
        self._lock = lock
        self._waits = waits

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking and inside_fiber():
            return self._waits.acquire(self._lock, None if timeout < 0 else timeout)
        return bool(self._lock.acquire(blocking, timeout))

    def release(self) -> None:
        self._lock.release()
        if inside_fiber():
            self._waits.released()


def selectors_classes() -> list[type]:
    """Those with a `select` of their own."""
    found = [one for one in vars(selectors).values() if isinstance(one, type) and "select" in vars(one)]
    return [one for one in found if one is not selectors.BaseSelector]


def _looks_at_others(selector: selectors.BaseSelector) -> bool:
    """Whether it looks at more than the pair of sockets by which threads wake the loop of asyncio."""
    asyncio: Any = sys.modules.get("asyncio")
    loop = asyncio._get_running_loop() if asyncio is not None else None
    own = getattr(loop, "_ssock", None)
    return any(own is None or file != own.fileno() for file in selector.get_map())
