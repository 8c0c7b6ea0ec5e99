"""Calls travel in groups, and nobody may notice: not by a result that waits for another, nor by a chunk.

Where one call has to be slow it waits until the test has seen what it must not hide.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import miniray
from miniray.pool import MaybeEncodingError
from miniray.pool.call_queue import NUMBER_STEP
from tests.integrations import pool_functions as functions

pytestmark = pytest.mark.usefixtures("session")


def learn(pool: Any, function: Any) -> None:
    """Its calls are known to be short from here on: the next ones travel many at once."""
    for _ in range(5):
        list(pool.imap(function, [""] * 500))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("use", ["imap", "imap_unordered"])
@pytest.mark.parametrize("fail", ["fail", "fail hard"])  # the second cannot be told early: its group ends with it
def test_a_slow_call_keeps_back_no_result_of_those_before_it(
    fail: str, use: str, processes: int, tmp_path: Path
) -> None:
    file = str(tmp_path / "go on")
    with miniray.Pool(processes) as pool:
        learn(pool, functions.wait_or_fail)
        results = getattr(pool, use)(functions.wait_or_fail, ["", "", fail, "", file, *[""] * 20])
        first: list[Any] = []
        for _ in range(4 if processes == 1 or use == "imap" else 24):  # another worker has run those behind it, too
            try:
                first.append(results.next(timeout=20))
            except (LookupError, functions.TwoArgumentsError) as error:
                first.append(str(error))
        assert sorted(first) == [*[""] * (len(first) - 1), "fail" if fail == "fail" else "fail 2"]
        Path(file).touch()
        assert sorted(results) == [*[""] * (24 - len(first)), file]


def test_a_slow_call_keeps_back_no_error_that_plain_pickle_cannot_carry(tmp_path: Path) -> None:
    class LocalError(Exception):
        pass

    def work(path: str) -> str:
        if path == "local":
            raise LocalError(path)
        if path == "two":
            functions.raise_two(0)
        return functions.wait_for(path)

    file = str(tmp_path / "go on")
    with miniray.Pool(1) as pool:
        learn(pool, work)
        results = [pool.apply_async(work, (path,)) for path in ["", "local", "", "two", file]]
        with pytest.raises(LocalError, match="local"):
            results[1].get(20)
        with pytest.raises(functions.TwoArgumentsError):
            results[3].get(20)
        assert not results[4].ready()
        Path(file).touch()
        assert results[4].get(20) == file


def test_results_that_cannot_travel_together_hold_up_no_other_worker(tmp_path: Path) -> None:
    """One that cannot be pickled has its group read result by result, behind what its worker does meanwhile."""
    file = str(tmp_path / "go on")
    with miniray.Pool(2) as pool:
        learn(pool, functions.wait_or_give)
        paths = ["", "lock", "", file, *[""] * 200]
        results = [pool.apply_async(functions.wait_or_give, (path,)) for path in paths]
        assert [result.get(20) for result in results[4:]] == [""] * 200
        Path(file).touch()
        assert [results[index].get(20) for index in (0, 2, 3)] == ["", "", file]
        with pytest.raises(MaybeEncodingError, match="cannot pickle '_thread.lock' object"):
            results[1].get(20)


def test_refs_in_errors_and_results_are_counted_by_whichever_way_they_come(tmp_path: Path) -> None:
    file = str(tmp_path / "go on")
    with miniray.Pool(1, functions.collect_warnings) as pool:
        with pytest.raises(ValueError, match="ObjectRef") as caught:
            pool.apply(functions.raise_with_ref, ([5],))
        assert miniray.get(caught.value.args[0]) == [5]
        learn(pool, functions.give_ref_or_wait)
        results = [pool.apply_async(functions.give_ref_or_wait, (path,)) for path in ["", "", file]]
        Path(file).touch()
        assert miniray.get([result.get(20) for result in results[:2]]) == ["there"] * 2
        assert pool.apply(functions.read_shared, (0,)) == ([], 0), "pickled outside of miniray"


def test_an_early_result_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    file = str(tmp_path / "go on")
    with miniray.Executor(1) as executor:
        list(executor.map(functions.wait_or_unreadable, [""] * 2000))
        results = executor.map(functions.wait_or_unreadable, ["unreadable", "", file], timeout=60)
        threading.Timer(0.1, Path(file).touch).start()
        with pytest.raises(LookupError, match="cannot be read"):
            next(results)


def test_an_early_result_that_cannot_be_read_keeps_back_none_behind_it(tmp_path: Path) -> None:
    file = str(tmp_path / "go on")
    with miniray.Pool(1) as pool:
        learn(pool, functions.wait_or_unreadable)
        with pytest.raises(MaybeEncodingError) as late:
            pool.map(functions.wait_or_unreadable, ["", "unreadable"], chunksize=1)
        results = pool.imap(functions.wait_or_unreadable, ["", "unreadable", "unreadable", "", file, ""])
        assert results.next(timeout=20) == ""
        for _ in range(2):
            with pytest.raises(MaybeEncodingError, match="cannot be read") as early:
                results.next(timeout=20)
            assert (early.value.args, repr(early.value.__cause__)) == (late.value.args, repr(late.value.__cause__))
        assert results.next(timeout=20) == ""
        Path(file).touch()
        assert list(results) == [file, ""]


def test_a_slow_call_keeps_back_no_apply_async(tmp_path: Path) -> None:
    file = str(tmp_path / "go on")
    with miniray.Pool(1) as pool:
        learn(pool, functions.wait_for)
        pool.map(functions.sleep, [0.01])
        results = [pool.apply_async(functions.wait_for, (path,)) for path in ["", "", "", file, ""]]
        assert [result.get(20) for result in results[:3]] == ["", "", ""]
        assert not results[3].ready()
        Path(file).touch()
        assert [result.get(20) for result in results[3:]] == [file, ""]


def test_what_came_early_comes_once_when_the_worker_dies(tmp_path: Path) -> None:
    for retries in (0, 2):
        file = str(tmp_path / f"go on {retries}")
        with miniray.Pool(1, retries=retries) as pool:
            learn(pool, functions.wait_for)
            results = pool.imap_unordered(functions.wait_for, ["", "", "", file, "", ""])
            assert [results.next(timeout=20) for _ in range(3)] == [""] * 3
            pool._pool[0].kill()
            Path(file).touch()
            if not retries:
                with pytest.raises(miniray.errors.WorkerCrashedError):
                    results.next(timeout=20)
            assert sorted(results) == ["", "", file][: 3 if retries else 2]


@pytest.mark.parametrize("use", ["imap", "imap_unordered"])
@pytest.mark.parametrize("kind", [list, iter])
def test_calls_whose_results_nobody_asks_for_are_run(use: str, kind: Any, tmp_path: Path) -> None:
    """The iterator is dropped at once: there is nothing to be had from it, but the calls do something."""
    pool = miniray.Pool(2)
    getattr(pool, use)(functions.touch, kind([str(tmp_path / str(number)) for number in range(2000)]))
    while len(made := os.listdir(tmp_path)) < 8 or made != os.listdir(tmp_path):
        time.sleep(0.2)  # it has read as far as is useful, and rests
    gc.collect()
    assert len(made) < 2000
    pool.close()
    pool.join()
    assert len(os.listdir(tmp_path)) == 2000


def test_a_fault_of_the_pool_in_a_worker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not hidden by running each call by itself."""
    crew_member = sys.modules["miniray.pool.crew_member"]
    with miniray.Pool(2) as pool:
        pool.map(functions.square, range(10))
        monkeypatch.setattr(crew_member, "LONGEST", _Nonsense())
        with pytest.raises(miniray.errors.TaskError, match="a fault of miniray's pool"):
            list(pool.imap_unordered(functions.square, range(5000)))
        monkeypatch.undo()
        assert pool.map(functions.square, range(10)) == [x * x for x in range(10)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_pool_whose_thread_has_failed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody waits that thread alone drives: without it nothing would ever be ready."""

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with miniray.Pool(1) as pool:
        pool.map(functions.square, range(10))
        monkeypatch.setattr(sys.modules["miniray.pool.exchange"].Exchange, "collect", fail)
        result = pool.apply_async(functions.square, (2,))
        deadline = time.monotonic() + 30
        while not result.ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert result.ready()
        with pytest.raises(RuntimeError, match=r"ended by ZeroDivisionError.*make a new one"):
            result.get(timeout=1)
        pool._dispatcher.attendant._thread.join(30)  # its traceback belongs to this test


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_executor_whose_thread_has_failed_calls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    executor = miniray.Executor(1)
    assert executor.submit(functions.square, 2).result(30) == 4
    monkeypatch.setattr(sys.modules["miniray.pool.exchange"].Exchange, "collect", fail)
    told = threading.Event()
    future = executor.submit(functions.sleep, 0.01)  # not known to be short: its caller does not drive for it
    future.add_done_callback(lambda _: told.set())
    assert told.wait(30)
    for ask in (lambda: future.result(1), lambda: executor.submit(functions.square, 2)):
        with pytest.raises(RuntimeError, match=r"ended by ZeroDivisionError.*make a new one"):
            ask()
    executor.shutdown()
    executor._dispatcher.attendant._thread.join(30)  # its traceback belongs to this test


def test_a_submission_that_is_interrupted_is_not_made_later() -> None:
    with miniray.Executor(1) as executor:
        assert executor.submit(functions.square, 2).result(30) == 4
        for begin in (executor.submit, lambda f, x: executor.map(f, [x])):
            with pytest.raises(KeyboardInterrupt):
                begin(functions.same, functions.Interrupting())
            assert executor.submit(functions.square, 3).result(30) == 9


@pytest.mark.parametrize("words", ["interrupt", "exit"])
def test_a_result_that_ends_its_worker_where_it_is_pickled_is_an_error(words: str, pool: Any) -> None:
    """And the call is not run again and again."""
    with pytest.raises(miniray.errors.MinirayError, match="KeyboardInterrupt|SystemExit"):
        pool.apply(functions.ending, (words,))
    with pytest.raises(miniray.errors.MinirayError, match="KeyboardInterrupt|SystemExit"):
        pool.map(functions.ending, ["", words, ""])
    assert pool.apply(functions.square, (3,)) == 9


class _Nonsense:
    """A number of seconds that is none."""

    def __mul__(self, other: float) -> str:
        return "long"


class Heavy:
    """Does not say how heavy it is."""

    @property
    def nbytes(self) -> int:
        raise RuntimeError("nobody knows")


def test_what_cannot_be_weighed_travels(pool: Any) -> None:
    assert [type(one) for one in pool.map(functions.same, [Heavy() for _ in range(30)])] == [Heavy] * 30


def test_a_map_of_short_calls_travels_in_few_groups() -> None:
    """A worker that cannot read a group has each call sent by itself: all is right, and a hundred times as slow."""
    with miniray.Pool(2) as pool:
        pool.map(functions.square, range(20_000))
        number = pool._dispatcher._queue.next_number
        before = number()
        assert pool.map(functions.square, range(100_000)) == [x * x for x in range(100_000)]
        assert number() - before < 5_000 * NUMBER_STEP
