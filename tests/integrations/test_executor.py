"""`miniray.Executor` is `ProcessPoolExecutor` to the letter where that works, and better where that stops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import miniray
from miniray.executor import Future
from tests.integrations import pool_functions as functions
from tests.quiescence import eventually

pytestmark = pytest.mark.usefixtures("session")


# ---- calls and futures ----


def test_lambdas_closures_and_keywords(executor: miniray.Executor) -> None:
    plus = 3
    futures = [executor.submit(lambda x: x + plus, x) for x in range(100)]
    assert [future.result() for future in futures] == list(range(3, 103))
    assert executor.submit(functions.keyword, 1, plus=4).result() == 5
    assert executor.submit(lambda self, fn: (self, fn), self=1, fn=2).result() == (1, 2)


def test_futures_are_the_standard_ones(executor: miniray.Executor) -> None:
    futures = [executor.submit(functions.square, x) for x in range(500)]
    assert isinstance(futures[0], concurrent.futures.Future)
    done = [future.result() for future in concurrent.futures.as_completed(futures, timeout=60)]
    assert sorted(done) == [x * x for x in range(500)]
    finished, left = concurrent.futures.wait(futures + [executor.submit(functions.square, 1)], timeout=60)
    assert len(finished) == 501 and not left


def test_in_asyncio(executor: miniray.Executor) -> None:
    async def squares() -> list[int]:
        loop = asyncio.get_running_loop()
        first = await asyncio.gather(*[loop.run_in_executor(executor, functions.square, x) for x in range(200)])
        second = await asyncio.wrap_future(executor.submit(functions.square, 200))
        with pytest.raises(ValueError, match="bad 3"):
            await loop.run_in_executor(executor, functions.fail_on_three, 3)
        return [*first, second]

    assert asyncio.run(squares()) == [x * x for x in range(201)]


def test_an_event_loop_drives_at_most_one_call_of_those_that_it_gathers(
    executor: miniray.Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did each to its end before it asked for the next, so that none travelled with others."""
    helped: list[Any] = []
    monkeypatch.setattr(Future, "_help_out", lambda future: helped.append(future))

    async def gathered(calls: int) -> int:
        before = len(helped)
        run = asyncio.get_running_loop().run_in_executor
        assert await asyncio.gather(*[run(executor, functions.square, x) for x in range(calls)])
        return len(helped) - before

    async def one_after_another() -> list[int]:
        return [await gathered(1) for _ in range(3)]

    assert asyncio.run(gathered(50)) == 1
    assert asyncio.run(one_after_another()) == [1, 1, 1]

    helped.clear()
    called = threading.Event()
    executor.submit(functions.square, 3).add_done_callback(lambda _: called.set())
    assert not helped, "who gives a callback goes on"
    assert called.wait(30)
    concurrent.futures.wait([executor.submit(functions.square, 3)])
    assert len(helped) == 1


def test_callbacks(executor: miniray.Executor) -> None:
    seen: list[Any] = []
    both = threading.Semaphore(0)

    def note(future: Any) -> None:
        again = executor.submit(functions.square, 7).result()  # the standard executor would wait for itself
        seen.append((future.result(), again, threading.current_thread() is threading.main_thread()))
        both.release()

    futures = [executor.submit(functions.square, x) for x in (2, 3)]
    for future in futures:
        future.add_done_callback(note)
    assert both.acquire(timeout=30) and both.acquire(timeout=30)
    assert sorted(one[:2] for one in seen) == [(4, 49), (9, 49)]
    futures[0].add_done_callback(note)
    assert seen[-1] == (4, 49, True), "a future that has ended calls back at once"


def test_errors_are_as_they_were_raised(executor: miniray.Executor) -> None:
    future = executor.submit(functions.fail_on_three, 3)
    with pytest.raises(ValueError) as caught:
        future.result()
    assert type(caught.value) is ValueError and caught.value.args == ("bad 3", 3)
    assert 'raise ValueError(f"bad {x}", x)' in str(caught.value.__cause__)
    assert future.exception() is caught.value and future.done() and not future.cancelled()
    two = executor.submit(functions.raise_two, 0).exception()
    assert isinstance(two, functions.TwoArgumentsError) and two.second == 2
    assert isinstance(executor.submit(functions.raise_exit, 0).exception(), SystemExit)


def test_what_cannot_be_pickled_spoils_nothing_else(executor: miniray.Executor) -> None:
    def lock(x: int) -> Any:
        return threading.Lock() if x == 3 else x

    outcomes = [executor.submit(lock, x) for x in range(6)]
    assert [future.result() for future in outcomes if future.exception() is None] == [0, 1, 2, 4, 5]
    assert isinstance(outcomes[3].exception(), TypeError)
    arguments = [executor.submit(functions.square, x) for x in (1, threading.Lock(), 3)]
    assert isinstance(arguments[1].exception(), TypeError)
    assert arguments[0].result() == 1 and arguments[2].result() == 9


class Unreadable:
    """Its pickle cannot be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_what_cannot_be_unpickled_is_that_calls_error(executor: miniray.Executor) -> None:
    futures = [executor.submit(lambda x: Unreadable() if x == 2 else x, x) for x in range(4)]
    assert isinstance(futures[2].exception(), ValueError)
    assert [futures[x].result() for x in (0, 1, 3)] == [0, 1, 3]
    assert isinstance(executor.submit(functions.square, Unreadable()).exception(), ValueError)


def test_whose_children_workers_are(executor: miniray.Executor) -> None:
    assert executor.submit(os.getppid).result() != os.getpid()
    assert not {child.pid for child in multiprocessing.active_children()} & {*executor._processes}
    with miniray.Executor(1, multiprocessing.get_context("fork")) as forked:
        assert forked.submit(os.getppid).result() == os.getpid()


def test_default_number_of_workers() -> None:
    with miniray.Pool() as pool:
        assert miniray.Executor()._max_workers == pool._processes == len(os.sched_getaffinity(0))


def test_large_arrays_go_both_ways(executor: miniray.Executor) -> None:
    import numpy

    array = numpy.arange(1e6)
    was_writable, changed = executor.submit(functions.write_zero, array).result()
    assert was_writable and changed[0] == -1 and array[0] == 0
    changed[1] = 5.0


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that calls wait for; it is there at the end, whatever has failed."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def test_time_out_and_what_a_waiting_call_says(executor: miniray.Executor, gate: Path) -> None:
    blockers = [executor.submit(functions.wait_for_file, str(gate)) for _ in range(2)]
    waiting = executor.submit(functions.square, 3)
    with pytest.raises(TimeoutError):
        waiting.result(timeout=0.01)
    assert blockers[0].running() and not waiting.running() and not waiting.done()
    gate.touch()
    assert waiting.result() == 9
    assert [blocker.result() for blocker in blockers] == ["waited"] * 2


# ---- cancel ----


def test_cancel_of_what_waits(executor: miniray.Executor, gate: Path) -> None:
    blockers = [executor.submit(functions.wait_for_file, str(gate)) for _ in range(2)]
    waiting = [executor.submit(functions.square, x) for x in range(10)]
    told: list[Any] = []
    waiting[3].add_done_callback(told.append)
    assert waiting[3].cancel() and waiting[3].cancel() and told == [waiting[3]]
    assert not blockers[0].cancel() and blockers[0].running()
    done, _ = concurrent.futures.wait([waiting[3], waiting[9]], return_when="FIRST_COMPLETED")
    assert waiting[3] in done, "known at once: no worker has to take notice"
    with pytest.raises(CancelledError):
        waiting[3].result()
    gate.touch()
    assert [future.result() for future in waiting if not future.cancelled()] == [0, 1, 4, 16, 25, 36, 49, 64, 81]
    assert not waiting[0].cancel() and waiting[0].result() == 0


def test_cancel_wakes_another_thread_that_waits(executor: miniray.Executor, gate: Path) -> None:
    blockers = [executor.submit(functions.wait_for_file, str(gate)) for _ in range(2)]
    waiting = executor.submit(functions.square, 3)
    found: list[Any] = []

    def wait() -> None:
        with pytest.raises(CancelledError):
            waiting.result()
        found.append(blockers[0].done())

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.cancel()
    thread.join()
    assert found == [False], "it does not wait until the calls before it have ended"
    gate.touch()
    concurrent.futures.wait(blockers)


def test_what_comes_back_from_behind_a_slow_call_can_be_cancelled(tmp_path: Path) -> None:
    with miniray.Executor(1) as one:
        for _ in range(3):  # it is known as quick now, so many travel together
            concurrent.futures.wait([one.submit(functions.square, x) for x in range(1000)])
        slow = one.submit(functions.square, _Slow(tmp_path))
        behind = [one.submit(functions.square, x) for x in range(1000)]
        eventually((tmp_path / "started").exists, "the slow one has begun", 30)
        eventually(behind[-1].cancel, "a call that waits behind a slow one does not count as running", 30)
        (tmp_path / "end").touch()
        assert slow.result() == "slow"
        assert [future.result() for future in behind[:-1]] == [x * x for x in range(999)]


class _Slow:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __mul__(self, other: Any) -> str:
        (self.folder / "started").touch()
        deadline = time.monotonic() + 60
        while not (self.folder / "end").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return "slow"


# ---- map ----


def test_map_runs_whether_anybody_asks_or_not(executor: miniray.Executor, tmp_path: Path) -> None:
    results = executor.map(lambda x: (tmp_path / str(x)).touch(), range(100))
    eventually(lambda: len(os.listdir(tmp_path)) == 100, "all calls have run", 30)
    assert list(results) == [None] * 100


@pytest.mark.parametrize("chunksize", [1, 7])
def test_map_reads_a_buffer_ahead_and_no_more(executor: miniray.Executor, chunksize: int) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for x in itertools.count():
            read.append(x)
            yield x

    results = executor.map(functions.square, numbers(), chunksize=chunksize, buffersize=4)
    assert len(read) == 4 * chunksize
    assert [next(results) for _ in range(50)] == [x * x for x in range(50)]
    assert len(read) <= 50 + 5 * chunksize
    results.close()  # type: ignore[attr-defined]


def test_map_of_several_inputs_errors_and_time_out(executor: miniray.Executor) -> None:
    assert list(executor.map(pow, range(10), itertools.repeat(2))) == [x * x for x in range(10)]
    assert list(executor.map(functions.square, [])) == list(executor.map(functions.square)) == []
    results = executor.map(functions.fail_on_three, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="bad 3"):
        next(results)
    assert list(results) == [], "as the standard one: the first error ends it"


def test_map_times_out_as_long_after_its_call_as_was_asked(executor: miniray.Executor, gate: Path) -> None:
    for timeout in (0.4, 4, 40):  # the first may take long where the machine is busy
        results = executor.map(functions.wait_for, ["", str(gate)], timeout=timeout)
        with suppress(TimeoutError):
            assert next(results) == ""
            break
    with pytest.raises(TimeoutError):
        next(results)


def test_map_that_is_closed_runs_no_further(executor: miniray.Executor, tmp_path: Path) -> None:
    results = executor.map(lambda x: (time.sleep(0.02), (tmp_path / str(x)).touch()), range(400))
    next(results)
    del results
    gc.collect()
    assert executor.submit(functions.square, 2).result() == 4, "what comes after it does not wait for it"
    assert len(os.listdir(tmp_path)) < 300


def test_no_result_is_held_by_the_thread_that_has_read_it(
    executor: miniray.Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attendant has read it, and is about to send what comes next, which may take long."""
    executor.submit(functions.square, 1).result()
    dispatcher = executor._dispatcher
    assert dispatcher is not None
    exchange, is_held_up, go_on = dispatcher._exchange, threading.Event(), threading.Event()
    pump = exchange.pump

    def hold_up() -> None:
        if threading.current_thread().name == "miniray-pool" and dispatcher.has_finished:
            is_held_up.set()
            go_on.wait(20)
        pump()

    monkeypatch.setattr(exchange, "pump", hold_up)
    results = executor.map(set, [[1]])
    try:
        assert is_held_up.wait(20)
        result = next(results)
        assert result == {1}
        held = weakref.ref(result)
        del result
        assert held() is None
    finally:
        go_on.set()
