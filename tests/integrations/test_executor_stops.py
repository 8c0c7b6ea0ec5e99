"""Stopping an executor's calls: those that run (`cancel_running`), and whatever there is when it is shut down."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import miniray
from miniray.executor import interrupts
from miniray.executor.sources import Submissions
from miniray.pool.crew import Crew
from tests.integrations import pool_functions as functions
from tests.quiescence import eventually

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(params=["spawn", "fork"])
def one(request: pytest.FixtureRequest) -> Iterator[miniray.Executor]:
    """Of either kind of workers: those that are forked run on top of the frames that forked them."""
    with miniray.Executor(1, multiprocessing.get_context(request.param), cancel_running=True) as made:
        yield made


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that listens is not ended because the machine is busy."""
    monkeypatch.setattr(interrupts, "GRACE_SECONDS", 30.0)


class Pausing:
    """Its pickling tells that it has begun, and waits until it may go on."""

    def __init__(self, result: Any = "") -> None:
        self.result = result
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def __reduce__(self) -> Any:
        self.has_begun.set()
        assert self.may_end.wait(30)
        return type(self.result), (self.result,)


def note_interrupt(mark: Path) -> None:
    try:
        mark.touch()  # here: whoever sees it may interrupt at once
        time.sleep(60)
    except KeyboardInterrupt:
        mark.write_text("interrupted")
        raise


def be_deaf(mark: Path) -> None:
    while True:
        try:
            mark.touch()
            time.sleep(60)
        except KeyboardInterrupt:
            pass


# ---- a future ----


@pytest.mark.usefixtures("patience")
def test_cancel_of_what_runs(one: miniray.Executor, tmp_path: Path) -> None:
    (pid,) = [one.submit(os.getpid).result()]
    asleep = one.submit(note_interrupt, tmp_path / "asleep")
    behind = [one.submit(functions.square, x) for x in range(20)]
    eventually((tmp_path / "asleep").exists, "the call has begun", 30)
    assert asleep.cancel() and asleep.cancelled()
    assert [future.result() for future in behind] == [x * x for x in range(20)]
    assert (tmp_path / "asleep").read_text() == "interrupted"
    assert one.submit(os.getpid).result() == pid, "the same worker goes on"


def test_cancel_of_what_does_not_listen(one: miniray.Executor, tmp_path: Path) -> None:
    pid = one.submit(os.getpid).result()
    deaf = one.submit(be_deaf, tmp_path / "deaf")
    eventually((tmp_path / "deaf").exists, "the call has begun", 30)
    behind = [one.submit(functions.square, x) for x in range(20)]
    assert deaf.cancel()
    assert [future.result() for future in behind] == [x * x for x in range(20)]
    assert one.submit(os.getpid).result() != pid, "one that does not listen is ended"


def test_a_deaf_call_that_begins_as_it_is_cancelled_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with miniray.Executor(1, cancel_running=True) as one:
        pid = one.submit(os.getpid).result()
        deaf = one.submit(be_deaf, tmp_path / "deaf")
        eventually((tmp_path / "deaf").exists, "the call has begun", 30)
        with monkeypatch.context() as not_yet:
            not_yet.setattr(Crew, "is_at", lambda crew, group: False)
            assert deaf.cancel()
        assert one.submit(os.getpid).result() != pid


def test_a_cancelled_call_costs_no_other_of_its_worker() -> None:
    """Short calls are sent before those ahead of them have ended; here they turn out to be long."""
    with miniray.Executor(1, cancel_running=True) as one:
        assert one.submit(time.sleep, 0).result() is None
        dispatcher: Any = one._dispatcher
        sleep = dispatcher.callees.find(time.sleep)
        sleep.seconds = 1e-6  # known to be short
        long, behind = one.submit(time.sleep, 1.6), one.submit(time.sleep, 0)
        eventually(behind.running, "it was sent to the same worker", 30)
        assert behind.cancel()
        assert long.result() is None

        sleep.seconds = 1e-6
        struck, long = one.submit(time.sleep, 30), one.submit(time.sleep, 1.6)
        eventually(long.running, "it was sent to the same worker", 30)
        time.sleep(0.2)
        assert struck.cancel()
        assert long.result() is None


@pytest.mark.usefixtures("patience")
def test_asyncio_cancels_what_runs(tmp_path: Path) -> None:
    async def main() -> None:
        call = asyncio.get_running_loop().run_in_executor(one, note_interrupt, tmp_path / "mark")
        while not (tmp_path / "mark").exists():
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with miniray.Executor(1, cancel_running=True) as one:
        asyncio.run(main())
        assert one.submit(functions.square, 3).result() == 9
        assert (tmp_path / "mark").read_text() == "interrupted"


# ---- a map ----


@pytest.mark.usefixtures("patience")
def test_a_map_that_is_closed_stops_what_runs(one: miniray.Executor, tmp_path: Path) -> None:
    pid = one.submit(functions.pid).result()
    marks = [tmp_path / str(number) for number in range(20)]
    results: Any = one.map(note_interrupt, marks, timeout=0.05)
    eventually(marks[0].exists, "the first call has begun", 30)
    with pytest.raises(TimeoutError):
        next(results)
    assert one.submit(functions.pid).result(timeout=30) == pid, "the same worker goes on"
    assert marks[0].read_text() == "interrupted" and not any(mark.exists() for mark in marks[1:])


def test_a_map_that_does_not_listen_is_ended(one: miniray.Executor, tmp_path: Path) -> None:
    pid = one.submit(functions.pid).result()
    results: Any = one.map(be_deaf, [tmp_path / "deaf", tmp_path / "next"], timeout=0.05)
    eventually((tmp_path / "deaf").exists, "the first call has begun", 30)
    with pytest.raises(TimeoutError):
        next(results)
    assert one.submit(functions.pid).result(timeout=30) != pid
    assert not (tmp_path / "next").exists()


@pytest.mark.usefixtures("patience")
def test_shutdown_stops_what_runs(one: miniray.Executor, tmp_path: Path) -> None:
    runs = one.submit(note_interrupt, tmp_path / "runs")
    behind = [one.submit(note_interrupt, tmp_path / str(number)) for number in range(5)]
    behind_map = one.map(note_interrupt, [tmp_path / "map"])
    eventually((tmp_path / "runs").exists, "the call has begun", 30)
    one.shutdown(cancel_futures=True)
    assert runs.cancelled() and all(future.cancelled() for future in behind)
    with pytest.raises(CancelledError):
        next(behind_map)
    assert (tmp_path / "runs").read_text() == "interrupted" and [*tmp_path.iterdir()] == [tmp_path / "runs"]


# ---- just when ----


def test_a_call_that_is_cancelled_while_it_is_pickled_is_not_sent(one: miniray.Executor, tmp_path: Path) -> None:
    one.submit(functions.square, 1).result()
    mark = Pausing(str(tmp_path / "mark"))
    thread = threading.Thread(target=one.submit, args=(note_interrupt_at, mark))
    thread.start()
    try:
        assert mark.has_begun.wait(30)
        (future,) = one._pending_work_items.values()
        assert future.cancel() and future.cancelled()
    finally:
        mark.may_end.set()
        thread.join()
    assert one.submit(functions.square, 3).result(timeout=30) == 9
    assert not (tmp_path / "mark").exists()


def note_interrupt_at(mark: str) -> None:
    note_interrupt(Path(mark))


def test_what_waits_is_looked_at_under_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other threads take from it, and Python refuses to go through what changes meanwhile."""
    seen: list[bool] = []
    waiting = Submissions.waiting

    def look(calls: Submissions) -> list[Any]:
        seen.append(calls._dispatcher.lock.is_mine())
        return waiting(calls)

    monkeypatch.setattr(Submissions, "waiting", look)
    made = miniray.Executor(1)
    first = made.submit(functions.wait_for_file, str(tmp_path / "gate"))
    rest = [made.submit(functions.wait_for_file, str(tmp_path / "gate")) for _ in range(20)]
    made.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "gate").touch()
    assert first.result() == "waited" and rest[-1].cancelled()
    made.shutdown()
    assert seen and all(seen)


def test_a_handler_ends_an_executor_that_is_starting() -> None:
    """It strikes where `initargs` are pickled."""
    argument = Pausing(1)
    made = miniray.Executor(1, initializer=functions.square, initargs=(argument,))

    def end(number: int, frame: Any) -> None:
        made.shutdown(wait=False)
        argument.may_end.set()

    def strike() -> None:
        assert argument.has_begun.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, end)
    thread = threading.Thread(target=strike)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            made.submit(functions.square, 2)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    made.shutdown()
    assert made._dispatcher is not None
    eventually(lambda: all(member.has_ended for member in made._dispatcher.crew), "its workers end", 30)


def test_an_executor_that_starts_is_not_started_by_its_own_initargs() -> None:
    told: list[str] = []

    class Submitting:
        def __reduce__(self) -> Any:
            with pytest.raises(RuntimeError, match="just starting its workers") as caught:
                made.submit(functions.square, 1)
            told.append(str(caught.value))
            return int, (2,)

    made = miniray.Executor(1, initializer=functions.square, initargs=(Submitting(),))
    with made:
        assert made.submit(functions.square, 3).result(timeout=30) == 9
    assert told
