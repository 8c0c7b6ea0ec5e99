"""What users lean on in `concurrent.futures`: `ProcessPoolExecutor` and `miniray.Executor` give the same answers.

What later versions' documentation has added, and where ours is better, is asked of ours alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import logging
import multiprocessing
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import miniray
from tests.integrations import pool_functions as functions
from tests.quiescence import eventually

pytestmark = pytest.mark.usefixtures("session")
Make = Callable[..., concurrent.futures.Executor]


def _standard(workers: int) -> concurrent.futures.Executor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))  # this process has threads


@pytest.fixture(scope="module", params=[_standard, miniray.Executor], ids=["standard", "miniray"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


@pytest.fixture(scope="module")
def one(make: Make, session: None) -> Iterator[concurrent.futures.Executor]:
    """Of one worker; whoever uses it leaves it idle."""
    with make(1) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that calls wait for; it is there at the end, whatever has failed."""
    path = tmp_path / "gate"
    yield path
    path.touch()


# ---- waiting ----


def test_as_completed_times_out_with_what_is_left(one: concurrent.futures.Executor, gate: Path) -> None:
    first, second = one.submit(functions.square, 3), one.submit(functions.wait_for_file, str(gate))
    assert first.result() == 9
    seen = []
    with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        for future in concurrent.futures.as_completed([first, second, first], timeout=0.1):
            seen.append(future)
    assert seen == [first]
    gate.touch()
    assert {*concurrent.futures.as_completed([first, second])} == {first, second}
    assert first._waiters == second._waiters == []  # type: ignore[attr-defined]


def test_what_is_cancelled_is_done_at_once(gate: Path) -> None:
    """The standard one says so when a worker takes notice, behind all that was called before."""
    with miniray.Executor(1) as one:
        running, *waiting = [one.submit(functions.wait_for_file, str(gate)) for _ in range(8)]
        order = concurrent.futures.as_completed([running, waiting[-1]])
        assert waiting[-1].cancel()
        assert next(order) is waiting[-1]
        gate.touch()
        assert next(order) is running


def test_wait_returns_when_it_was_asked_to(one: concurrent.futures.Executor, gate: Path) -> None:
    ended, failed = one.submit(functions.square, 2), one.submit(functions.fail_on_three, 3)
    held = one.submit(functions.wait_for_file, str(gate))
    done, left = concurrent.futures.wait([ended, held], return_when=FIRST_COMPLETED)
    assert (done, left) == ({ended}, {held})
    done, left = concurrent.futures.wait([failed, held], return_when=FIRST_EXCEPTION)
    assert (done, left) == ({failed}, {held})
    done, left = concurrent.futures.wait([ended, held, held], timeout=0.05)
    assert (done, left) == ({ended}, {held})
    with pytest.raises(ValueError, match="Invalid return condition"):
        concurrent.futures.wait([held], return_when="soon")
    gate.touch()
    assert concurrent.futures.wait([ended, failed, held]).not_done == set()


def test_futures_of_two_executors_are_waited_for_together(make: Make) -> None:
    with make(1) as here, miniray.Executor(1) as there:
        futures = [executor.submit(functions.square, x) for x in range(5) for executor in (here, there)]
        done = [future.result() for future in concurrent.futures.as_completed(futures)]
        assert sorted(done) == [0, 0, 1, 1, 4, 4, 9, 9, 16, 16]


# ---- callbacks ----


def test_callbacks_run_in_order_and_one_that_raises_is_logged(
    one: concurrent.futures.Executor, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    called = threading.Event()

    def fails(future: Future[Any]) -> None:
        seen.append("fails")
        raise ValueError("of a callback")

    held = one.submit(functions.wait_for_file, str(gate))
    held.add_done_callback(lambda future: seen.append(future.result()))
    held.add_done_callback(fails)
    held.add_done_callback(lambda future: called.set())
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.touch()
        assert called.wait(30)
        held.add_done_callback(fails)  # it has ended: at once, here
    assert seen == ["waited", "fails", "fails"]
    told = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert [str(record.exc_info and record.exc_info[1]) for record in told] == ["of a callback"] * 2
    assert held.result() == "waited" and one.submit(functions.square, 3).result() == 9


def test_a_callback_of_what_is_cancelled_runs_in_cancel(one: concurrent.futures.Executor, gate: Path) -> None:
    held = [one.submit(functions.wait_for_file, str(gate)) for _ in range(8)]
    seen: list[Any] = []
    held[-1].add_done_callback(lambda future: seen.append((future.cancelled(), threading.current_thread())))
    assert held[-1].cancel() and seen == [(True, threading.current_thread())]
    gate.touch()
    assert held[0].result() == "waited"


# ---- errors ----


def test_an_exception_brings_its_notes_and_the_workers_traceback(one: concurrent.futures.Executor) -> None:
    error = one.submit(functions.raise_with_cause, 3).exception()
    assert type(error) is ValueError and error.__notes__ == ["and a note"]
    told = str(error.__cause__)
    assert "KeyError: 3" in told and "direct cause" in told and "raise_with_cause" in told
    group = one.submit(functions.raise_a_group, 3).exception()
    assert isinstance(group, ExceptionGroup)
    assert [repr(each) for each in group.exceptions] == ["ValueError(3)", "KeyError(3)"]


def test_a_with_block_left_by_an_exception_waits_for_its_calls(make: Make) -> None:
    futures: list[Future[Any]] = []
    with pytest.raises(KeyError, match="of the block"):
        with make(1) as two:
            futures.extend(two.submit(functions.sleep, 0.05) for _ in range(4))
            raise KeyError("of the block")
    assert [future.result(timeout=0) for future in futures] == [0.05] * 4


# ---- a future by hand ----


def test_what_only_executors_call_is_refused_when_it_is_too_late(one: concurrent.futures.Executor) -> None:
    future = one.submit(functions.square, 3)
    assert future.result() == 9
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_result(10)
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_exception(ValueError())
    with pytest.raises(RuntimeError, match="Future in unexpected state"):
        future.set_running_or_notify_cancel()
    assert future.result() == 9 and not future.cancel() and not future.running()


def test_the_repr_of_a_future(one: concurrent.futures.Executor) -> None:
    future, failed = one.submit(functions.square, 3), one.submit(functions.fail_on_three, 3)
    concurrent.futures.wait([future, failed])
    assert "state=finished returned int" in repr(future) and "state=finished raised ValueError" in repr(failed)


# ---- map ----


def test_map_ends_with_its_shortest_input_and_reads_it_at_once(one: concurrent.futures.Executor) -> None:
    read: list[int] = []
    results = one.map(pow, (read.append(x) or x for x in range(5)), itertools.repeat(2), chunksize=2)  # type: ignore[func-returns-value]
    assert read == [0, 1, 2, 3, 4] and list(results) == [0, 1, 4, 9, 16]


def test_an_input_that_raises_raises_in_map(one: concurrent.futures.Executor) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise OSError("of the input")

    with pytest.raises(OSError, match="of the input"):
        one.map(functions.square, numbers())
    assert one.submit(functions.square, 3).result() == 9


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_infinite_input_that_raises_ends_after_what_was_read(chunksize: int) -> None:
    """`buffersize` is of 3.14."""

    def numbers() -> Iterator[int]:
        yield from range(10)
        raise OSError("of the input")

    with miniray.Executor(2) as two:
        results = two.map(functions.square, numbers(), chunksize=chunksize, buffersize=2)
        seen = []
        with pytest.raises(OSError, match="of the input"):
            for result in results:
                seen.append(result)
        assert seen == [x * x for x in range(len(seen))] and len(seen) <= 10
        assert two.submit(functions.square, 3).result() == 9


def test_buffersize_is_checked_as_the_standard_library_does() -> None:
    with miniray.Executor(1) as one:
        for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)):
            with pytest.raises(error, match="buffersize must be"):
                one.map(functions.square, [1], buffersize=wrong)  # type: ignore[arg-type]


# ---- the end ----


def test_no_call_after_shutdown_but_those_that_were_there(make: Make, gate: Path) -> None:
    made = make(1)
    held = [made.submit(functions.wait_for_file, str(gate)) for _ in range(3)]
    made.shutdown(wait=False)
    for call in (lambda: made.submit(functions.square, 1), lambda: made.map(functions.square, [1])):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call()
    gate.touch()
    assert [future.result(30) for future in held] == ["waited"] * 3
    made.shutdown()


def test_a_result_is_not_kept_by_the_executor(one: concurrent.futures.Executor) -> None:
    future = one.submit(functions.Plain)
    result = weakref.ref(future.result())
    assert type(future.result()) is functions.Plain
    del future
    eventually(lambda: gc.collect() is not None and result() is None, "nobody holds it")


# ---- asyncio ----


def test_asyncio_waits_gathers_and_times_out(one: concurrent.futures.Executor, gate: Path) -> None:

    async def main() -> None:
        loop = asyncio.get_running_loop()
        held = loop.run_in_executor(one, functions.wait_for_file, str(gate))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(held), 0.05)
        later = [one.submit(functions.square, x) for x in range(20)]
        wrapped = [asyncio.wrap_future(future) for future in later]
        wrapped[-1].cancel()
        await asyncio.sleep(0)
        assert later[-1].cancelled(), "what waits is cancelled with the asyncio future"
        gate.touch()
        assert await held == "waited"
        assert await asyncio.gather(*wrapped[:-1]) == [x * x for x in range(19)]
        with pytest.raises(asyncio.CancelledError):
            await wrapped[-1]
        with pytest.raises(ValueError, match="bad 3"):
            await loop.run_in_executor(one, functions.fail_on_three, 3)

    asyncio.run(main())


def test_asyncio_is_told_of_a_cancel(one: concurrent.futures.Executor, gate: Path) -> None:

    async def main() -> None:
        held = [one.submit(functions.wait_for_file, str(gate)) for _ in range(8)]
        waits = asyncio.ensure_future(asyncio.wrap_future(held[-1]))
        await asyncio.sleep(0)
        held[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        gate.touch()

    asyncio.run(main())
