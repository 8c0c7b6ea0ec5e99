"""Waits of the standard library in simulated code: it parks, and virtual time passes.

What may end such a wait is time, or another fiber of the simulated process (one that fulfils a `ref.future()`, say). As
long as a thread lives that simulated code has started, that one may: then the wait is a real one, and when it was in
vain virtual time passes too.

- `Condition.wait` makes a lock for each wait, and `Event`, `Queue`, `Semaphore`, `Barrier` and futures stand on it.
- asyncio waits in a selector, until a timer of its loop is due.
- Locks, `SimpleQueue`, `Thread.join` and `select` itself are not written in Python: their waits are real.
"""

from __future__ import annotations

import selectors
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from miniray.testing.fibers import Fiber, FiberKilled, inside_fiber

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster
    from miniray.testing.simulated import SimulatedProcess


class LibraryWaits:
    """Those of one run."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._parked: dict[Fiber, SimulatedProcess] = {}

    def allocate_lock(self, real: Any) -> Callable[[], Any]:
        """Instead of that of `threading`, which makes its conditions' locks."""
        return lambda: _WaitersLock(real(), self)

    def acquire(self, lock: Any, seconds: float | None) -> bool:
        if lock.acquire(False):
            return True
        if self._cluster.strangers.live and lock.acquire(True, -1 if seconds is None else seconds):
            return True
        return bool(self._until(lambda: lock.acquire(False), seconds))

    def released(self) -> None:
        for fiber, home in self._parked.items():
            home.wake(fiber, self._cluster.draw_lag())

    def select(self, real: Any) -> Callable[..., Any]:
        """Instead of a selector's."""

        def select(selector: selectors.BaseSelector, timeout: float | None = None) -> Any:
            if timeout is not None and timeout <= 0:
                return real(selector, timeout)
            ready = real(selector, 0)
            if not ready and (self._cluster.strangers.live or _looks_at_others(selector)):
                ready = real(selector, timeout)
            return ready or self._until(lambda: real(selector, 0), timeout)

        return select

    def _until(self, look: Callable[[], Any], seconds: float | None) -> Any:
        """Park until it finds something, or for so long; what it has found."""
        fiber, home, timeline = self._cluster.awake, self._cluster.awake_home(), self._cluster.timeline
        if fiber is None or home is None:
            raise FiberKilled  # a `finally` of what is unwound
        deadline = None if seconds is None else timeline.now + seconds
        found = look()
        while not found and (deadline is None or timeline.now < deadline):
            if deadline is not None:
                home.wake(fiber, deadline - timeline.now)
            self._parked[fiber] = home
            try:
                fiber.park()
            finally:
                del self._parked[fiber]
                fiber.spin.begin_anew()
            home.raise_interrupt()
            found = look()
        return found


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
