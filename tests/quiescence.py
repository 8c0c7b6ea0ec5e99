"""At quiescence nothing is left in any table of the driver, and nothing lives in its part of the store."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Any

from miniray._runtime.context import get_current

SETTLE_SECONDS = 20.0  # a busy machine starts a few processes in five
KEPT = ("functions",)  # by the remote functions themselves, which tests have at module level


def eventually(condition: Callable[[], Any], what: str, seconds: float = SETTLE_SECONDS) -> Any:
    """Poll until `condition` gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)


def leftovers(kept: tuple[str, ...] = KEPT) -> dict[str, int]:
    """What the driver's tables hold now, as its machines tell it."""
    process = get_current()
    assert process is not None
    process.post()  # takes in what finalisers have left
    figures = dict(process.drives.locked(process.loop.statistics))
    figures["live_places"] = process.store.statistics()["live_places"]
    return {name: figure for name, figure in figures.items() if figure and name not in kept}


def assert_quiet(seconds: float = SETTLE_SECONDS, kept: tuple[str, ...] = KEPT) -> None:
    """Every invariant holds, and the tables become empty."""
    process = get_current()
    assert process is not None
    deadline = time.monotonic() + seconds
    collected = False
    while True:
        process.drives.locked(process.loop.check)
        left = leftovers(kept)
        if not left:
            return
        if not collected:
            gc.collect()
            collected = True
            deadline = time.monotonic() + seconds  # that may have taken long, where other tests keep many objects
        assert time.monotonic() < deadline, f"left at quiescence: {left}"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether that process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def await_end(pid: int, seconds: float = SETTLE_SECONDS) -> None:
    assert pid != os.getpid()
    eventually(lambda: not is_alive(pid), f"the end of process {pid}", seconds)
