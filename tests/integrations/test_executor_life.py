"""How an executor ends, and what it survives: real kills, initializers that fail, exits of the interpreter."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import miniray
from miniray.errors import MinirayError, WorkerCrashedError, WorkerInitializerError
from tests.integrations import pool_functions as functions
from tests.quiescence import await_end, eventually, is_alive

pytestmark = pytest.mark.usefixtures("session")


def attendants() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "miniray-pool"]


def test_workers_are_called_as_the_standard_ones() -> None:
    for kind in ("fork", "spawn"):
        context = multiprocessing.get_context(kind)
        theirs = ProcessPoolExecutor(1, context)
        with theirs, miniray.Executor(1, context) as ours:
            seen = [made.submit(functions.process_title).result(timeout=30) for made in (theirs, ours)]
            assert [one[:2] for one in seen] == [(f"{kind.title()}Process", f"{kind.title()}Process")] * 2
            assert [one[2] for one in seen] == [os.getpid()] * 2
            assert next(iter(ours._processes.values())).name == seen[1][3]


# ---- workers that die ----


def test_a_killed_worker_costs_its_call(tmp_path: Path) -> None:
    with miniray.Executor(1, initializer=functions.set_shared, initargs=("again",)) as one:
        lost = one.submit(_sleep_long, str(tmp_path / "started"))
        waiting = [one.submit(functions.square, x) for x in range(20)]
        (pid,) = one._processes
        eventually((tmp_path / "started").exists, "the call has begun", 30)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerCrashedError, match=rf"_sleep_long was lost: worker {pid} was ended by .*9"):
            lost.result(timeout=10)
        assert isinstance(lost.exception(), BrokenProcessPool), "what programs catch"
        assert [future.result(timeout=10) for future in waiting] == [x * x for x in range(20)]
        assert one.submit(functions.read_shared, 1).result() == ("again", 1)
        assert list(one._processes) != [pid]


def test_strict() -> None:
    with miniray.Executor(2, strict=True) as two:
        futures = [two.submit(functions.sleep, 30) for _ in range(3)]
        next(iter(two._processes.values())).terminate()
        for future in futures:
            assert isinstance(future.exception(timeout=10), BrokenProcessPool)
        with pytest.raises(BrokenProcessPool, match="not usable anymore"):
            two.submit(functions.square, 1)
        assert two._broken


def test_retries(tmp_path: Path) -> None:
    with miniray.Executor(2, retries=1) as two:
        once = two.submit(_die_once, str(tmp_path / "mark"))
        always = two.submit(functions.exit_now)
        assert once.result(timeout=30) == "second"
        with pytest.raises(WorkerCrashedError, match="retries=1"):
            always.result(timeout=30)
    with pytest.raises(ValueError, match="retries"):
        miniray.Executor(2, retries=1, strict=True)


def _sleep_long(mark: str) -> None:
    Path(mark).touch()
    time.sleep(30)


def _die_once(mark: str) -> str:
    if Path(mark).exists():
        return "second"
    Path(mark).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@pytest.mark.parametrize("strict", [False, True])
def test_initializer_that_raises(strict: bool) -> None:
    with miniray.Executor(2, initializer=functions.fail_on_three, initargs=(3,), strict=strict) as two:
        with pytest.raises(WorkerInitializerError, match="ValueError: ") as caught:
            two.submit(functions.square, 1).result(timeout=30)
        assert isinstance(caught.value, BrokenExecutor) and type(caught.value.__cause__) is ValueError
        with pytest.raises(BrokenProcessPool):
            two.submit(functions.square, 1)


@pytest.mark.parametrize("lost", [2, 9])
def test_each_future_that_was_given_up_has_an_exception_of_its_own(lost: int) -> None:
    with miniray.Executor(2) as two:
        futures = [two.submit(functions.sleep, 60) for _ in range(9)]
        eventually(lambda: all(future.running() for future in futures[:2]), "two are at a worker", 30)
        if lost == 2:
            two.kill_workers()
        else:
            two._dispatcher.terminate(MinirayError("of no use"))
        errors = [future.exception(10) for future in futures if not future.cancelled()]
        assert len({*map(id, errors)}) == len(errors) == lost
        assert len({*map(repr, errors)}) == 1


def test_a_call_that_cannot_be_made_any_more_raises_an_exception_of_its_own() -> None:
    with miniray.Executor(2) as two:
        two.submit(functions.square, 2).result(30)
        two._dispatcher.terminate(MinirayError("of no use"))
        errors = []
        for _ in range(2):
            with pytest.raises(MinirayError, match="of no use") as caught:
                two.submit(functions.square, 1)
            errors.append(caught.value)
        assert errors[0] is not errors[1]


def test_max_tasks_per_child() -> None:
    with miniray.Executor(1, max_tasks_per_child=3) as one:
        pids = [one.submit(os.getpid).result() for _ in range(9)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


# ---- the end ----


def test_nothing_starts_before_the_first_call() -> None:
    unused = miniray.Executor(2)
    assert unused._processes == {}
    unused.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        unused.submit(functions.square, 1)


def test_shutdown_waits_and_ends_the_processes() -> None:
    with miniray.Executor(2) as two:
        futures = [two.submit(functions.sleep, 0.05) for _ in range(6)]
        results = two.map(functions.square, range(1000))
        pids = list(two._processes)
    assert all(future.done() for future in futures)
    assert not any(map(is_alive, pids))
    assert list(results) == [x * x for x in range(1000)]
    two.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        two.map(functions.square, [1])


def test_shutdown_cancels(tmp_path: Path) -> None:
    two = miniray.Executor(2)
    futures = [two.submit(functions.wait_for_file, str(tmp_path / "gate")) for _ in range(50)]
    results = two.map(functions.square, range(50))
    two.shutdown(wait=False, cancel_futures=True)
    assert [future.cancelled() for future in futures] == [False] * 2 + [True] * 48
    (tmp_path / "gate").touch()
    two.shutdown(wait=True, cancel_futures=True)
    assert [future.done() for future in futures] == [True] * 50
    with pytest.raises(CancelledError):
        next(results)


def test_shutdown_from_a_callback() -> None:
    two = miniray.Executor(2)
    ended = threading.Event()

    def end(_: Any) -> None:
        two.shutdown(wait=True)
        ended.set()

    two.submit(functions.square, 2).add_done_callback(end)
    assert ended.wait(30)


@pytest.mark.parametrize("word", ["terminate_workers", "kill_workers"])
def test_workers_ended_at_once(word: str) -> None:
    two = miniray.Executor(2)
    futures = [two.submit(functions.sleep, 60) for _ in range(4)]
    pids = list(two._processes)
    getattr(two, word)()
    assert [isinstance(future.exception(timeout=10), BrokenProcessPool) for future in futures[:2]] == [True, True]
    assert futures[2].cancelled() and futures[3].cancelled()
    for pid in pids:
        await_end(pid)
    with pytest.raises(RuntimeError, match="after shutdown"):
        two.submit(functions.square, 2)


def test_one_that_is_dropped_finishes_and_ends() -> None:
    two = miniray.Executor(2)
    future = two.submit(functions.sleep, 0.2)
    pids, gone = list(two._processes), weakref.ref(two)
    del two
    gc.collect()
    assert gone() is None, "neither a future nor a thread holds it"
    assert future.result(timeout=10) == 0.2
    for pid in pids:
        await_end(pid)


def test_no_thread_is_left() -> None:
    before = attendants()
    for _ in range(3):
        with miniray.Executor(1) as one:
            one.submit(functions.square, 2).result()
    for thread in {*attendants()} - {*before}:
        thread.join(10)
        assert not thread.is_alive()


PROGRAM = """
import atexit, sys, time
from miniray import Executor
def nap(seconds, word):
    time.sleep(seconds)
    print(word, flush=True)
def late():
    try:
        executor.submit(nap, 0, "never")
    except RuntimeError as error:
        print(error)
atexit.register(late)
executor = Executor(2)
futures = [executor.submit(nap, 0.2, word) for word in ("one", "two", "three")]
futures[2].add_done_callback(lambda future: print("called back", flush=True))
"""


@pytest.mark.parametrize("ending", ["", "executor.shutdown(wait=False)", "sys.exit(3)", "raise KeyError(1)"])
def test_exit_of_the_interpreter(ending: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM + ending], capture_output=True, text=True, timeout=60)
    assert done.returncode == {"": 0, "sys.exit(3)": 3, "raise KeyError(1)": 1}.get(ending, 0), done.stderr
    said = done.stdout.splitlines()
    assert sorted(said[:4]) == ["called back", "one", "three", "two"], done.stdout + done.stderr
    assert len(said) == 5 and said[4].startswith("cannot schedule new futures after")
    assert "Traceback" not in done.stderr or ending == "raise KeyError(1)"


# ---- arguments ----


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_workers": 0},
        {"max_workers": -1},
        {"initializer": 5},
        {"max_tasks_per_child": 0},
        {"max_tasks_per_child": 1.5},
    ],
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as standard:
        ProcessPoolExecutor(**arguments)
    with pytest.raises(standard.type) as ours:
        miniray.Executor(**arguments)
    assert str(ours.value) == str(standard.value)


def test_other_wrong_uses(executor: miniray.Executor) -> None:
    wrong: Any = "fork"
    with pytest.raises(TypeError, match="get_context"):
        miniray.Executor(mp_context=wrong)
    wrong = 1.5
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        miniray.Executor(wrong)  # the standard one says so at its first call
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(functions.square, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize must be None or > 0"):
        executor.map(functions.square, [1], buffersize=0)
    with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
        pickle.dumps(executor)
