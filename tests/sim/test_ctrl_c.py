"""Ctrl-C ends a simulated run at once wherever it lands, and all is as before; so it is when a fiber never ends."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import miniray
from miniray._runtime import context
from miniray.testing import SimulationFailed, explore, fibers, simulate

REAL_SECONDS = 20.0

class Real:
    never, go_on = threading.Lock(), threading.Lock()  # waits for them are real


Real.never.acquire()
unwound: list[str] = []
gone = threading.Event()
went_on: list[str] = []


@miniray.remote
def same(x: int) -> int:
    return x


@miniray.remote
def stays() -> None:
    try:
        time.sleep(100.0)
    finally:
        try:
            Real.go_on.acquire(timeout=REAL_SECONDS)
            went_on.append("stays")
        finally:
            gone.set()


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def computes() -> None:
    interrupt()
    try:
        while True:
            pass
    finally:
        unwound.append("computes")


def blocks() -> None:
    interrupt()
    Real.never.acquire(timeout=REAL_SECONDS)


def sleeps() -> None:
    interrupt()
    while True:
        time.sleep(0.001)


def calls() -> None:
    interrupt()
    while True:
        miniray.get(same.remote(1))


PROGRAMS: list[Callable[[], None]] = [computes, blocks, sleeps, calls]


def outside() -> Any:
    names = (time.sleep, time.time, random.random, random.shuffle)
    return names, gc.isenabled(), gc.get_freeze_count() > 0, context.get_current(), signal.getsignal(signal.SIGINT)


@pytest.mark.parametrize("run", [simulate, lambda program: explore(program)()], ids=["simulate", "explore"])
@pytest.mark.parametrize("in_task", [False, True], ids=["program", "task"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_ends_at_once(
    program: Callable[[], None], in_task: bool, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fibers, "UNWIND_SECONDS", 0.2 if program is blocks else REAL_SECONDS)
    task = miniray.remote(program)
    before, begin = outside(), time.monotonic()
    unwound.clear()
    with pytest.raises(KeyboardInterrupt):
        run((lambda: miniray.get(task.remote())) if in_task else program)
    assert time.monotonic() - begin < REAL_SECONDS / 2 and outside() == before
    assert unwound == (["computes"] if program is computes else [])
    assert simulate(lambda: same.remote(3)).value == 3


def test_a_handler_that_does_not_raise_changes_nothing() -> None:
    heard: list[int] = []

    def program() -> Any:
        interrupt()
        return [same.remote(x) for x in range(3)]

    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        assert simulate(program).value == [0, 1, 2] and heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_never_unwinds_is_told_and_does_not_go_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fibers, "STUCK_SECONDS", 1.0)
    monkeypatch.setattr(fibers, "UNWIND_SECONDS", 0.2)

    def program() -> None:
        stays.remote()
        time.sleep(0.5)

    before = outside()
    Real.go_on.acquire()
    try:
        with pytest.raises(SimulationFailed, match="waits for what is outside of the simulation"):
            simulate(program)
        assert outside() == before
    finally:
        Real.go_on.release()
    assert gone.wait(REAL_SECONDS) and not went_on


def test_a_thread_that_was_about_to_start_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = threading._start_new_thread  # type: ignore[attr-defined]

    def program() -> None:
        starter: Any = fibers.this_fiber()

        def start(*args: Any) -> Any:
            interrupt()
            while not starter.killed:
                pass
            return real(*args)

        monkeypatch.setattr(threading, "_start_new_thread", start)
        threading.Thread(target=time.sleep, args=(1.0,), name="just started").start()

    with pytest.raises(KeyboardInterrupt):
        simulate(program)
    assert not [one for one in threading.enumerate() if one.name == "just started"]
