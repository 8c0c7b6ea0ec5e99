"""Waits of simulated code for what is real: in a selector (asyncio's, mostly), for a socket, for a child process.

Who waits parks, and others go on; after each it is looked again. What comes from outside takes next to no virtual time:
before much of that passes, the run waits really, for up to a second. Was it in vain, this fiber has half as long the
next time, so one that looks at an idle socket does not hold the run up. When nothing else is left to happen, the run
waits longer.

The loop of asyncio is woken over a pair of sockets of its own, by another fiber: where a selector looks at no more than
that, nothing comes from outside.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from miniray.testing import fibers
from miniray.testing.fibers import Fiber, FiberKilled, this_fiber
from miniray.testing.looks import look, wait

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster

HOLD_SECONDS = 1.0  # real ones, as all here
_SLICE_SECONDS = 0.001
_LITTLE_SECONDS = 0.05  # virtual ones: what is planned so soon is no timeout
_POLL_SECONDS = 2 * _LITTLE_SECONDS  # of who asks in vain whether a child has ended: the run waits for it, too
_READS = ("_accept", "recv", "recv_into", "recvfrom", "recvfrom_into")  # of sockets

_sleep = time.sleep


class _Wait:
    """`ready` says what is there now; `left`: how long virtual time stands still for it, at most, at `holds_at`."""

    def __init__(self, ready: Callable[[], Any], others: bool, left: float, holds_at: float) -> None:
        self._ready = ready
        self.others = others
        self.holds_at = holds_at
        self.left = left
        self.woken = False

    def found(self) -> Any:
        """Asked by the fiber itself."""
        self.woken = False
        return self._ready()

    def wake(self, fiber: Fiber) -> bool:
        """Whether there is something now."""
        if not self.woken and self._ready():
            self.woken = True
            fiber.home.wake(fiber, 0.0)
            return True
        return False


class RealWaits:
    """Those of one run."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._waits: dict[Fiber, _Wait] = {}
        self._patience: dict[Fiber, float] = {}
        self._left = 0.0  # when nothing else is left to happen

    def replaced(self) -> Iterator[tuple[Any, str, Callable[[Any], Any]]]:
        found = [one for one in vars(selectors).values() if isinstance(one, type) and "select" in vars(one)]
        for kind in dict.fromkeys(found):  # the default one has two names
            if kind is not selectors.BaseSelector:
                yield kind, "select", self._select
        for name in _READS:
            yield socket.socket, name, self._read
        yield os, "waitpid", self._waitpid
        yield subprocess.Popen, "poll", self._poll  # it has bound that

    # ---- what simulated code calls ----

    def _select(self, real: Any) -> Callable[..., Any]:
        def select_(selector: selectors.BaseSelector, timeout: float | None = None) -> Any:
            others = _looks_at_others(selector)
            return self._until(lambda: real(selector, 0), timeout, others)

        return select_

    def _read(self, real: Any) -> Callable[..., Any]:
        def read(one: socket.socket, *args: Any) -> Any:
            timeout = one.gettimeout()
            if timeout != 0 and not self._until(lambda: _is_readable(one), timeout, True):
                raise TimeoutError("timed out")
            return real(one, *args)

        return read

    def _waitpid(self, real: Any) -> Callable[[int, int], tuple[int, int]]:
        def waitpid(pid: int, options: int) -> tuple[int, int]:
            reaped: list[tuple[int, int]] = []  # it is told once

            def ended() -> bool:
                if not reaped:
                    found: tuple[int, int] = real(pid, options | os.WNOHANG)
                    reaped.extend([found] * bool(found[0]))
                return bool(reaped)

            self._until(ended, _POLL_SECONDS if options & os.WNOHANG else None, True)
            return reaped[0] if reaped else (0, 0)

        return waitpid

    def _poll(self, real: Any) -> Callable[..., int | None]:
        def poll(child: subprocess.Popen[Any]) -> int | None:
            self._until(lambda: real(child) is not None, _POLL_SECONDS, True)
            return child.returncode

        return poll

    def _until(self, ready: Callable[[], Any], seconds: float | None, others: bool) -> Any:
        """Park until it is ready, or for so long. `others`: something from outside may be what it waits for."""
        fiber = this_fiber()
        if fiber is None or fiber.killed:
            raise FiberKilled
        found = ready()
        if found:
            return found
        if seconds is not None and seconds <= 0:
            look(fiber.home, fiber, polls=False)
            return ready()
        patience = self._patience.get(fiber, HOLD_SECONDS)
        one = self._waits[fiber] = _Wait(ready, others, patience, self._cluster.timeline.now + _LITTLE_SECONDS)
        self._left = fibers.STUCK_SECONDS
        found = None
        try:
            found = wait(fiber, one.found, seconds)
            return found
        finally:
            del self._waits[fiber]
            if others:
                self._patience[fiber] = HOLD_SECONDS if found else patience / 2

    # ---- what the cluster does meanwhile ----

    def look_again(self) -> None:
        """Another fiber has gone on."""
        for fiber, one in self._waits.items():
            one.wake(fiber)

    def hold(self) -> bool:
        """Whether virtual time shall not pass yet: something has come from outside, or still may. It takes a moment."""
        if not self._waits:
            return False
        next_time = self._cluster.timeline.next_time()
        waits = [(fiber, one) for fiber, one in self._waits.items() if one.others and not one.woken]
        if next_time is None:
            if not waits or self._left <= 0:
                return False
        elif not any(one.left > 0 and next_time > one.holds_at for _, one in waits):
            return False
        _sleep(_SLICE_SECONDS)
        self._left -= _SLICE_SECONDS
        for fiber, one in waits:
            one.left -= _SLICE_SECONDS
            one.wake(fiber)
        return True


def _is_readable(one: socket.socket) -> bool:
    poll = select.poll()
    poll.register(one.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _looks_at_others(selector: selectors.BaseSelector) -> bool:
    """Whether it looks at more than the pair of sockets by which threads wake the loop of asyncio."""
    asyncio: Any = sys.modules.get("asyncio")
    loop = asyncio._get_running_loop() if asyncio is not None else None
    own = getattr(loop, "_ssock", None)
    return any(own is None or file != own.fileno() for file in selector.get_map())
