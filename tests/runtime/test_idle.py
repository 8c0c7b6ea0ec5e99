"""An idle process costs nothing: its threads sleep in the kernel, and nothing wakes them by the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from miniray._runtime.driving import Driving
from miniray._runtime.loop import Loop
from miniray._runtime.waiters import Waiter
from miniray.core.ids import process_id
from miniray.transport import load
from tests.runtime.interleavings import fail_with

MEASURED_SECONDS = 0.5
MOST_SWITCHES = 5  # a look once a millisecond would be 500
DEADLINE_SECONDS = 10.0


@pytest.fixture
def driving() -> Iterator[Driving]:
    me = process_id(b"idle", 1)
    transport: Any = load("local")(me)
    loop = Loop(me, (), transport, monotonic, {}, lambda token: None, lambda peer, reason: None)
    made = Driving(loop, transport, monotonic, list, lambda: False, lambda: False, fail_with)
    made.start()
    yield made
    made.stop()
    transport.close()


def await_(condition: Callable[[], bool]) -> None:
    end = monotonic() + DEADLINE_SECONDS
    while not condition():
        assert monotonic() < end
        time.sleep(0.001)


def switches_and_cpu(*threads: threading.Thread | None) -> tuple[int, int]:
    """How often these threads have gone to sleep, and the ticks of CPU that they have used."""
    switches = ticks = 0
    for thread in threads:
        assert thread is not None
        folder = Path(f"/proc/self/task/{thread.native_id}")
        lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        switches += int(lines["voluntary_ctxt_switches"])
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return switches, ticks


def check_idle(*threads: threading.Thread | None) -> None:
    before = switches_and_cpu(*threads)
    time.sleep(MEASURED_SECONDS)
    switches, ticks = (now - then for now, then in zip(switches_and_cpu(*threads), before, strict=True))
    assert switches <= MOST_SWITCHES, f"woke {switches} times in {MEASURED_SECONDS} s"
    assert ticks <= 1


def test_nobody_waits(driving: Driving) -> None:
    await_(lambda: driving.asleep)
    check_idle(driving._background)


def test_somebody_waits_for_long(driving: Driving) -> None:
    waiter = Waiter()
    waits = threading.Thread(target=driving.wait, args=(waiter,))
    waits.start()
    await_(lambda: driving._background_parked and driving.asleep)
    check_idle(driving._background, waits)
    driving.locked(waiter.notify)
    driving.rouse()
    waits.join(DEADLINE_SECONDS)
    assert not waits.is_alive()
    await_(lambda: driving._background_drives and driving.asleep)
    check_idle(driving._background)


def test_a_thread_sleeps_while_another_drives(driving: Driving) -> None:
    waiters = [Waiter() for _ in range(3)]
    threads = [threading.Thread(target=driving.wait, args=(waiter,)) for waiter in waiters]
    for thread in threads:
        thread.start()
    await_(lambda: driving._background_parked and driving.asleep and len(driving._parked) == 2)
    check_idle(driving._background, *threads)
    for waiter in waiters:
        driving.locked(waiter.notify)
    driving.rouse()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()
