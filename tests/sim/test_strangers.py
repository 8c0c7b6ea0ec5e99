"""Threads that users' code starts are real: one that calls miniray fails the run, and what it computes is welcome."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import miniray
from miniray.testing import SimulationFailed, explore, simulate

REAL_SECONDS = 20.0


@miniray.remote
def same(x: int) -> int:
    return x


@miniray.remote
class Gatherer:
    def __init__(self) -> None:
        self.got: list[int] = []

    def add(self, x: int) -> None:
        self.got.append(x)

    def get(self) -> list[int]:
        return self.got


def quietly(call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception:
        pass


@miniray.remote
def in_threads(gatherer: Any) -> None:
    def go(x: int) -> None:
        quietly(lambda: [miniray.get(gatherer.add.remote(x)) for _ in range(3)])

    threads = [threading.Thread(target=go, args=(x,)) for x in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def adds_in_threads() -> int:
    gatherer: Any = Gatherer.remote()
    miniray.get(in_threads.remote(gatherer))
    return len(miniray.get(gatherer.get.remote()))


def maps_in_threads() -> Any:
    with ThreadPoolExecutor(4) as executor:
        return list(executor.map(lambda x: miniray.get(same.remote(x)), range(6)))


def gets_in_threads_of_asyncio() -> Any:
    async def main() -> Any:
        refs = [same.remote(x) for x in range(3)]
        return await asyncio.gather(*[asyncio.to_thread(miniray.get, ref) for ref in refs])

    return asyncio.run(main())


def calls_while_the_program_sleeps() -> None:
    begun = threading.Event()

    def call() -> None:
        begun.wait(REAL_SECONDS)
        quietly(lambda: same.remote(1))

    thread = threading.Thread(target=call)
    thread.start()
    begun.set()
    while thread.is_alive():
        time.sleep(0.001)


def waits_for_a_thread_that_has_failed() -> None:
    done = threading.Event()
    threading.Thread(target=lambda: quietly(lambda: (miniray.get(same.remote(1)), done.set()))).start()
    done.wait()


PROGRAMS = (
    adds_in_threads,
    maps_in_threads,
    gets_in_threads_of_asyncio,
    calls_while_the_program_sleeps,
    waits_for_a_thread_that_has_failed,
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_thread_that_calls_miniray_fails_the_run(program: Callable[[], Any]) -> None:
    before = time.monotonic()
    with pytest.raises(SimulationFailed, match="a thread that is not simulated calls miniray") as failed:
        simulate(program)
    assert f"started at {__file__}:" in str(failed.value) and "call miniray there" in str(failed.value)
    assert time.monotonic() - before < REAL_SECONDS
    assert any("a thread started at" in one for one in failed.value.simulated.statistics.real)
    assert not miniray.is_initialized()
    assert simulate(lambda: same.remote(3)).value == 3


def test_explore_says_the_same_at_once() -> None:
    runs: list[int] = []

    def program() -> None:
        runs.append(1)
        adds_in_threads()

    told = r"program cannot be simulated, as seed 0 shows: a thread .* at .*test_strangers.py:\d+ in <l"
    with pytest.raises(SimulationFailed, match=told):
        explore(seeds=3)(program)()
    assert len(runs) == 1


def test_threads_that_compute_are_welcome() -> None:
    def program() -> Any:
        with ThreadPoolExecutor(2) as executor:
            return list(executor.map(abs, [-1, -2]))

    done, again = simulate(program), simulate(program)
    assert done.value == [1, 2] and done.trace_hash == again.trace_hash
    assert all("a thread started at" in one and "in program" in one for one in done.statistics.real)


def test_a_thread_may_drop_a_ref() -> None:
    def program() -> Any:
        boxes = [[same.remote(1)]]
        thread = threading.Thread(target=lambda: (boxes.clear(), gc.collect()))
        thread.start()
        thread.join()
        return same.remote(2)

    assert simulate(program).value == 2


# ---- forks ----


@miniray.remote
def forks(how: str) -> None:
    if how == "os.fork":
        if not os.fork():
            os._exit(3)
    else:
        process = get_context("fork").Process(target=abs, args=(1,))
        process.start()
        process.join()


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_fork_is_refused(how: str) -> None:
    with pytest.raises(SimulationFailed, match=r"os.fork cannot be simulated: .* Let tasks do it"):
        simulate(lambda: forks.remote(how))


def test_a_child_that_is_forked_all_the_same_is_real() -> None:
    def program() -> int:
        return subprocess.Popen([sys.executable, "-c", ""], preexec_fn=lambda: os._exit(7)).wait(REAL_SECONDS)

    assert simulate(program).value == 7
