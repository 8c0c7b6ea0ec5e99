"""Waits of the standard library in simulated code: what is virtual of them, and what is told of those that are real."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import pytest

import miniray
from miniray.testing import SimulationFailed, fibers, simulate

lock = threading.Lock()


@miniray.remote
class Locks:
    def sleep(self) -> None:
        with lock:
            time.sleep(1.0)


def test_a_lock_that_a_sleeper_holds_is_told_with_both_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fibers, "STUCK_SECONDS", 0.2)

    def program() -> None:
        actors: list[Any] = [Locks.remote(), Locks.remote()]
        miniray.get([actor.sleep.remote() for actor in actors])

    with pytest.raises(SimulationFailed) as failed:
        simulate(program)
    told = str(failed.value.__cause__)
    assert re.match(
        r"task p1.t\d waits for what is outside of the simulation, for 0.2 real seconds, at .*of_users.py:\d+ "
        r"in sleep \(with lock:\)\. .* a lock, one of those below may hold it\n",
        told,
    ), told
    assert re.search(r"\n  meanwhile task p1.t\d is parked at .*:\d+ in sleep \(time.sleep\(1.0\)\)\n", told), told
    assert told.count("SimulationError") == 0 and r"\n" not in told and "_bootstrap" not in told
    assert not lock.locked()
