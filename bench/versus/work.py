"""What the workers do: next to nothing, so that only the system is measured."""

from __future__ import annotations

import os
import signal
import time
from functools import cache
from typing import Any

from bench.measure import pin_threads


def nothing(value: int) -> int:
    return value


def same(value: Any) -> Any:
    return value


def ends(array: Any) -> float:
    return float(array[0] + array[-1])


def pin(core: int) -> None:
    pin_threads(core)


def make_array(nbytes: int) -> Any:
    import numpy

    return numpy.ones(nbytes // 8)


@cache
def _kept(nbytes: int) -> Any:
    return make_array(nbytes)


def held(nbytes: int) -> Any:
    """An array that this process has kept."""
    return _kept(nbytes)


def hold(nbytes: int) -> None:
    """So long that the other workers get their share of such calls."""
    _kept(nbytes)
    time.sleep(0.05)


def record(number: int) -> dict[str, Any]:
    """A small object as programs have them."""
    return {"id": number, "name": f"item {number}", "score": number / 7, "tags": ("a", "b")}


def spin(seconds: float) -> float:
    """Keep a core busy; what it took in truth."""
    began = time.perf_counter()
    end = began + seconds
    while (now := time.perf_counter()) < end:
        pass
    return now - began


def spin_and_tell(seconds: float) -> float:
    """When its result was there, by the clock that all processes of a host share."""
    spin(seconds)
    return time.monotonic()


def doze(seconds: float) -> None:
    time.sleep(seconds)


def die(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
