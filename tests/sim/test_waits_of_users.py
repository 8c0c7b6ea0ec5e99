"""Waits of the standard library in simulated code: what is virtual of them, and what is told of those that are real."""

from __future__ import annotations

import asyncio
import queue
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any

import pytest

import miniray
from miniray.errors import TaskCancelledError
from miniray.testing import Faults, SimulationFailed, explore, fibers, simulate
from miniray.testing.faults import Crash, CrashMode

class Real:
    lock = threading.Lock()  # not a global of this module: it is one for all, and a wait for it is real


@miniray.remote
class Locks:
    def sleep(self) -> None:
        with Real.lock:
            time.sleep(1.0)


def test_a_lock_that_a_sleeper_holds_is_told_with_both_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fibers, "STUCK_SECONDS", 1.0)

    def program() -> None:
        actors: list[Any] = [Locks.remote(), Locks.remote()]
        miniray.get([actor.sleep.remote() for actor in actors])

    with pytest.raises(SimulationFailed) as failed:
        simulate(program)
    told = str(failed.value.__cause__)
    assert re.match(
        r"task p1.t\d waits for what is outside of the simulation, for 1 real seconds, at .*of_users.py:\d+ "
        r"in sleep \(with Real.lock:\)\. .* a lock, one of those below may hold it\n",
        told,
    ), told
    assert re.search(r"\n  meanwhile task p1.t\d is parked at .*:\d+ in sleep \(time.sleep\(1.0\)\)\n", told), told
    assert told.count("SimulationError") == 0 and r"\n" not in told and "_bootstrap" not in told
    assert not Real.lock.locked()


def test_what_blocks_is_not_explored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of it takes 30 seconds."""
    monkeypatch.setattr(fibers, "STUCK_SECONDS", 1.0)
    runs: list[int] = []

    def program() -> None:
        runs.append(1)
        with Real.lock:
            Real.lock.acquire(timeout=REAL_SECONDS)

    with pytest.raises(SimulationFailed, match="the program waits for what is outside of the simulation"):
        explore(seeds=3)(program)()
    assert len(runs) == 1


# ---- waits that are virtual ----

REAL_SECONDS = 20.0
SECONDS = 1_000.0


def waits_for_a_queue() -> None:
    with pytest.raises(queue.Empty):
        queue.Queue[int]().get(timeout=SECONDS)


def waits_for_a_condition() -> None:
    condition = threading.Condition()
    with condition:
        assert not condition.wait_for(lambda: False, timeout=SECONDS)


def waits_for_a_future() -> None:
    with pytest.raises(FutureTimeoutError):
        Future[int]().result(timeout=SECONDS)


def waits_in_asyncio() -> None:
    async def main() -> None:
        await asyncio.gather(asyncio.sleep(SECONDS / 2), asyncio.sleep(SECONDS / 4))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), SECONDS / 2)

    asyncio.run(main())


WAITS: dict[str, Callable[[], Any]] = {
    "event": lambda: threading.Event().wait(SECONDS),
    "queue": waits_for_a_queue,
    "condition": waits_for_a_condition,
    "semaphore": lambda: threading.Semaphore(0).acquire(timeout=SECONDS),
    "future": waits_for_a_future,
    "asyncio": waits_in_asyncio,
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_timed_wait_takes_virtual_time(wait: str) -> None:
    @miniray.remote
    def task() -> float:
        before = time.monotonic()
        WAITS[wait]()
        return time.monotonic() - before

    before = time.monotonic()
    done, again = (simulate(lambda: task.remote(), seed=3) for _ in range(2))
    assert done.value == pytest.approx(SECONDS, abs=0.1) and done.trace_hash == again.trace_hash
    assert time.monotonic() - before < REAL_SECONDS and not done.statistics.real
    assert not threading.Event().wait(0.001), "a real one outside"


def test_others_go_on_while_one_waits() -> None:
    @miniray.remote
    def task() -> tuple[float, float]:
        before = time.monotonic()
        threading.Event().wait(1.0)
        return before, time.monotonic()

    one, other = simulate(lambda: [task.remote(), task.remote()]).value
    assert one[0] < other[1] and other[0] < one[1]


def test_a_wait_is_cancelled() -> None:
    @miniray.remote
    def task() -> None:
        threading.Event().wait(SECONDS)

    def program() -> None:
        ref = task.remote()
        time.sleep(1.0)
        miniray.cancel(ref)
        with pytest.raises(TaskCancelledError):
            miniray.get(ref)

    assert simulate(program).statistics.virtual_seconds < SECONDS / 2


ended: list[str] = []


def sleeps_in_a_callback(done: Any) -> None:
    time.sleep(20.0)
    ended.append("callback")


@miniray.remote
def task_with_a_callback() -> None:
    miniray.put(1).future().add_done_callback(sleeps_in_a_callback)
    try:
        time.sleep(SECONDS)
    except KeyboardInterrupt:
        ended.append("task")
        raise


def test_a_cancelled_task_is_struck_itself_and_not_its_callback() -> None:
    def program() -> None:
        ref = task_with_a_callback.remote()
        time.sleep(10.0)
        miniray.cancel(ref)
        with pytest.raises(TaskCancelledError):
            miniray.get(ref)
        time.sleep(SECONDS)

    for seed in range(4):
        ended.clear()
        simulate(program, seed=seed, faults="delays")
        assert ended == ["task", "callback"]


def test_what_a_callback_raises_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: shown.append(told.exc_type))

    @miniray.remote
    def task() -> int:
        def raises(done: Any) -> None:
            raise GeneratorExit

        miniray.put(1).future().add_done_callback(raises)
        time.sleep(1.0)
        return 3

    assert simulate(lambda: task.remote()).value == 3 and shown == [GeneratorExit]


@miniray.remote
def slow(x: int) -> int:
    time.sleep(SECONDS)
    return x


@miniray.remote
def awaits(x: int) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(3 * SECONDS):
            return await asyncio.gather(slow.remote(x), slow.remote(x + 1))

    return asyncio.run(main())


def test_refs_are_awaited_and_have_futures() -> None:
    called: list[Any] = []

    def chance_of_a_callback(done: Any) -> None:
        called.append((miniray.get(slow.remote(done.result())), random.random()))

    def program() -> Any:
        future = slow.remote(7).future()
        future.add_done_callback(chance_of_a_callback)
        return awaits.remote(1), future.result(), future.result(1.0), slow.remote(8).future().result(2 * SECONDS)

    done, again = (simulate(program, seed=3, num_cpus=4) for _ in range(2))
    assert done.value == ([1, 2], 7, 7, 8) and done.trace_hash == again.trace_hash
    assert called[0] == called[1] and called[0][0] == 7 and not done.statistics.real


def test_a_process_may_die_when_what_it_awaits_is_there() -> None:
    @miniray.remote
    def soon(x: int) -> int:
        return x

    @miniray.remote
    def waits() -> Any:
        async def main() -> Any:
            return await asyncio.gather(*map(soon.remote, range(3)))

        return asyncio.run(main())

    for mode in (CrashMode.AT_STEP, CrashMode.MID_STEP):
        for after in range(40):
            faults = Faults(crashes=(Crash(after, mode),))
            assert simulate(waits.remote, faults=faults).value == [0, 1, 2], (mode, after)


def test_a_wait_that_nothing_ends_is_told_with_its_line() -> None:
    with pytest.raises(SimulationFailed, match="waits, and nothing is left to happen") as failed:
        simulate(lambda: threading.Event().wait())
    assert re.search(r"\n  the program waits at .*:\d+ in <lambda> \(", str(failed.value.__cause__))


# ---- waits for what is real ----


def test_a_socket_may_end_a_wait_of_asyncio() -> None:
    one, other = socket.socketpair()

    async def main() -> bytes:
        reader, writer = await asyncio.open_connection(sock=one)
        asyncio.get_running_loop().call_later(0.05, other.sendall, b"x")
        try:
            return await asyncio.wait_for(reader.read(1), REAL_SECONDS)
        finally:
            writer.close()

    with other:
        assert simulate(lambda: asyncio.run(main())).value == b"x"


@miniray.remote
def sleeps(x: int) -> int:
    time.sleep(SECONDS)
    return x


def uses_a_pool_and_a_ref() -> Any:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(abs, -1).result()
        return sleeps.remote(3).future().result()


def awaits_a_thread_and_a_ref() -> Any:
    async def main() -> Any:
        await asyncio.to_thread(abs, -1)
        return await sleeps.remote(3)

    return asyncio.run(main())


def awaits_beside_a_socket() -> Any:
    async def main() -> Any:
        one, other = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=one)
        with other:
            await asyncio.sleep(SECONDS)
            writer.close()
        return 3

    return asyncio.run(main())


@pytest.mark.parametrize("program", [uses_a_pool_and_a_ref, awaits_a_thread_and_a_ref, awaits_beside_a_socket])
def test_what_is_idle_beside_a_wait_holds_nothing_up(program: Callable[[], Any]) -> None:
    done, again = simulate(program), simulate(program)
    assert done.value == 3 and done.statistics.virtual_seconds >= SECONDS and done.trace_hash == again.trace_hash
