"""`maxtasksperchild`: a worker that nears its end has a successor, which has started when that one ends.

What the tests wait for is seen in a folder: each initializer leaves its pid there, and a call ends when a file appears.
"""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import psutil
import pytest

import miniray
from miniray.errors import WorkerInitializerError
from tests.integrations import pool_functions as functions
from tests.quiescence import eventually

pytestmark = pytest.mark.usefixtures("session")
STARTS = ["spawn", "fork"]


class Recycling:
    """A pool of one worker, which runs one call for each file of the gate, and then makes room."""

    def __init__(self, folder: Path, start: str = "spawn", initializer: Any = functions.note_start) -> None:
        self.started, self._gate = folder / "started", folder / "gate"
        self.started.mkdir()
        context = multiprocessing.get_context(start)
        self.pool = miniray.Pool(1, initializer, (str(self.started),), maxtasksperchild=1, context=context)

    def submit(self) -> Any:
        return self.pool.apply_async(functions.wait_for, (str(self._gate),))

    def open(self) -> None:
        self._gate.touch()

    def pids(self) -> set[int]:
        """Of workers whose initializers have begun."""
        return {int(name) for name in os.listdir(self.started) if name.isdigit()}

    def successor(self) -> int:
        """Of the worker that runs the first call, and has not been let go."""
        (first,) = self.pool._pool
        eventually(lambda: len(self.pids()) == 2, "a successor has started")
        (found,) = self.pids() - {first.pid}
        return found


def gone(pid: int) -> None:
    eventually(lambda: not psutil.pid_exists(pid), f"{pid} is gone")


@pytest.mark.parametrize("start", STARTS)
def test_a_successor_starts_while_the_last_call_runs(start: str, tmp_path: Path) -> None:
    one = Recycling(tmp_path, start)
    with one.pool as pool:
        calls = [one.submit() for _ in range(3)]
        first = pool._pool[0].pid
        successor = one.successor()
        assert not calls[0].ready() and [worker.pid for worker in pool._pool] == [first]
        one.open()
        assert [call.get(30) for call in calls] == [str(tmp_path / "gate")] * 3
        gone(first)
        assert successor in one.pids() and len(one.pids()) >= 3, "it has run the second call, and another one the third"


def test_an_executors_successor_starts_while_the_last_call_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "started").mkdir()
    begin = functions.note_start, (str(tmp_path / "started"),)
    with miniray.Executor(1, None, *begin, max_tasks_per_child=1) as executor:
        calls = [executor.submit(functions.wait_for, str(gate)) for _ in range(2)]
        eventually(lambda: len(os.listdir(tmp_path / "started")) == 2, "a successor has started")
        assert len(executor._processes) == 1 and not calls[0].done()
        gate.touch()
        assert [call.result(30) for call in calls] == [str(gate)] * 2


@pytest.mark.parametrize("start", STARTS)
def test_no_more_calls_run_at_once_than_there_are_processes(start: str, tmp_path: Path) -> None:
    running = tmp_path / "running"
    running.mkdir()
    context = multiprocessing.get_context(start)
    with miniray.Pool(2, functions.set_shared, ("begun",), 1, context) as pool:
        found = pool.map(functions.count_running, [str(running)] * 30, chunksize=1)
        assert len(pool._pool) == 2
    assert max(count for count, _, _ in found) <= 2
    assert len({pid for _, pid, _ in found}) == 30 and {shared for _, _, shared in found} == {"begun"}


def test_there_is_one_successor_for_all(tmp_path: Path) -> None:
    """Two workers run their last call."""
    gate = tmp_path / "gate"
    (tmp_path / "started").mkdir()
    with miniray.Pool(2, functions.note_start, (str(tmp_path / "started"),), 1) as pool:
        calls = [pool.apply_async(functions.wait_for, (str(gate),)) for _ in range(5)]
        eventually(lambda: len(os.listdir(tmp_path / "started")) == 3, "a successor has started")
        assert len(pool._pool) == 2 and len(pool._dispatcher.crew.everyone()) == 3
        gate.touch()
        assert [call.get(30) for call in calls] == [str(gate)] * 5


def test_a_worker_far_from_its_end_has_no_successor() -> None:
    with miniray.Pool(1, maxtasksperchild=50) as pool:
        assert pool.map(functions.sleep, [0.01] * 20, chunksize=1) == [0.01] * 20
        assert len(pool._dispatcher.crew.everyone()) == 1
        used = collections.Counter(pool.map(functions.pid_after, [0.001] * 80, chunksize=1))
    assert [*used.values()] == [30, 50]


@pytest.mark.parametrize("moment", ["idle", "in its initializer"])
def test_a_killed_successor_harms_nothing(moment: str, tmp_path: Path) -> None:
    one = Recycling(tmp_path, initializer=functions.note_start_and_wait)
    with one.pool as pool:
        first = pool._pool[0].pid
        if moment == "in its initializer":
            (one.started / "closed").touch()
        calls = [one.submit() for _ in range(4)]
        successor = one.successor()
        if moment == "idle":
            assert pool._dispatcher.crew.everyone()[1].pid == successor
        os.kill(successor, signal.SIGKILL)
        gone(successor)
        assert [worker.pid for worker in pool._pool] == [first]
        if moment == "in its initializer":
            (one.started / "closed").unlink()
        one.open()
        assert [call.get(30) for call in calls] == [str(tmp_path / "gate")] * 4


def test_an_initializer_that_fails_only_while_the_last_call_runs_breaks_nothing(tmp_path: Path) -> None:
    """It wants what the worker has whose place it is to take."""
    with miniray.Pool(1, functions.note_start_or_fail, (str(tmp_path),), 1) as pool:
        calls = [pool.apply_async(functions.hold_busy, (str(tmp_path),)), pool.apply_async(functions.pid)]
        first, second = [call.get(60) for call in calls]
    tried = {int(name) for name in os.listdir(tmp_path) if name.isdigit()}
    assert first != second and {first, second} < tried, "between the two is one that has failed"


def test_an_initializer_that_fails_from_some_time_on_ends_the_pool(tmp_path: Path) -> None:
    """Ahead of its time first, and then in its own."""
    with miniray.Pool(1, functions.note_start_or_fail, (str(tmp_path),), 1) as pool:
        assert pool.apply(functions.pid) > 0
        with pytest.raises(WorkerInitializerError, match="somebody else has it"):
            pool.map(functions.pid, range(4), chunksize=1)
        with pytest.raises(WorkerInitializerError, match="somebody else has it"):
            pool.apply(functions.pid)


def test_what_a_function_imports_is_there_before_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slowly_imported.py").write_text(
        "import os, pathlib\n"
        "from tests.integrations.pool_functions import wait_for\n"
        "(pathlib.Path(__file__).parent / 'imported' / str(os.getpid())).touch()\n"
        "def call(path): return wait_for(path)\n"
    )
    (tmp_path / "imported").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    import slowly_imported  # type: ignore[import-not-found]

    gate = tmp_path / "gate"
    with miniray.Pool(1, maxtasksperchild=1) as pool:
        calls = [pool.apply_async(slowly_imported.call, (str(gate),)) for _ in range(2)]
        eventually(lambda: len(os.listdir(tmp_path / "imported")) == 3, "this process, a worker and its successor")
        assert not calls[0].ready()
        gate.touch()
        assert [call.get(30) for call in calls] == [str(gate)] * 2


ENDS: dict[str, Callable[[Any], Any]] = {
    "terminate": lambda pool: pool.terminate(),
    "close and join": lambda pool: (pool.close(), pool.join()),
    "with": lambda pool: pool.__exit__(None, None, None),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("start", STARTS)
def test_a_successor_ends_with_its_pool(start: str, end: str, tmp_path: Path) -> None:
    one = Recycling(tmp_path, start)
    calls = [one.submit() for _ in range(2)]
    successor = one.successor()
    if end == "close and join":
        one.open()
    ENDS[end](one.pool)
    gone(successor)
    for pid in one.pids():
        gone(pid)
    assert all(call.ready() for call in calls)


@pytest.mark.parametrize("ending", ["", "sys.exit(4)", "del pool, running", "miniray.shutdown()"])
def test_a_successor_ends_with_its_program(ending: str, tmp_path: Path) -> None:
    program = f"""
        import gc, os, sys, time, warnings, miniray
        from tests.integrations.pool_functions import note_start, wait_for
        warnings.simplefilter("ignore")
        pool = miniray.Pool(1, note_start, ({str(tmp_path)!r},), maxtasksperchild=1)
        running = [pool.apply_async(wait_for, ("/no/such/file",)) for _ in range(2)]
        while len(os.listdir({str(tmp_path)!r})) < 2:
            time.sleep(0.01)
        {ending or "pass"}
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (4 if "4" in ending else 0, "")
    started = os.listdir(tmp_path)
    assert len(started) >= 2
    for pid in started:
        gone(int(pid))


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that the program changes, and that forked workers have inherited."""
    module: Any = ModuleType("setting_of_this_test")
    module.value = -1
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def read_setting(_: Any) -> Any:
    return sys.modules["setting_of_this_test"].value


def test_a_forked_worker_knows_what_was_set_before_its_call(setting: Any) -> None:
    """Under the standard pool it nearly always does: it is forked a moment after its predecessor has ended."""
    with miniray.Pool(1, maxtasksperchild=1, context=multiprocessing.get_context("fork")) as pool:
        pool.apply(read_setting, (0,))
        for setting.value in range(8):
            assert pool.apply(read_setting, (0,)) == setting.value
        for setting.value in range(8, 12):
            assert pool.map(read_setting, range(4), chunksize=1) == [setting.value] * 4


def test_a_successor_that_no_call_waits_for_any_more_is_of_no_use(setting: Any, tmp_path: Path) -> None:
    """It was forked before the program went on."""
    gates = [tmp_path / "first", tmp_path / "second"]
    with miniray.Pool(2, maxtasksperchild=2, context=multiprocessing.get_context("fork")) as pool:
        assert all(worker.pid for worker in pool._pool)
        crew = pool._dispatcher.crew
        assert pool.apply(read_setting, (0,)) == -1
        last, *others = [pool.apply_async(functions.wait_for, (path,)) for path in [*map(str, gates), ""]]
        assert len(crew.everyone()) == 3, "the first worker runs its last call, and another one waits"
        gates[1].touch()
        assert [call.get(30) for call in others] == [str(gates[1]), ""], "the second has run that"
        eventually(lambda: len(crew.everyone()) == 2, "the successor was let go")
        setting.value = 1
        gates[0].touch()
        assert last.get(30) == str(gates[0])
        assert pool.map(read_setting, range(2), chunksize=1) == [1] * 2


def test_a_place_that_is_vacant_is_filled_when_somebody_looks() -> None:
    with miniray.Pool(1, maxtasksperchild=1, context=multiprocessing.get_context("fork")) as pool:
        first = pool.apply(functions.pid)
        (worker,) = pool._pool
        assert worker.is_alive() and worker.pid != first
        assert pool.apply(functions.pid) == worker.pid
        crew = pool._dispatcher.crew
        eventually(lambda: not crew.has_vacancies, "it is filled where nothing is done for a while")
        (worker,) = crew
        assert worker.is_alive()
        gone(first)


def test_what_waits_behind_a_slow_call_has_a_vacant_place_filled(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with miniray.Pool(2, maxtasksperchild=2, context=multiprocessing.get_context("fork")) as pool:
        assert all(worker.pid for worker in pool._pool)
        pool._dispatcher.callees.find(functions.wait_for).measured(10_000, 0.001)
        with pool._dispatcher.lock:  # so that they go as two groups
            slow, *others = [pool.apply_async(functions.wait_for, (path,)) for path in (str(gate), "", "", "")]
        pool._dispatcher.pump()
        assert [call.get(30) for call in others] == [""] * 3 and not slow.ready()
        gate.touch()
        assert slow.get(30) == str(gate)


def test_none_is_forked_ahead_of_a_worker_that_may_run_what_waits(tmp_path: Path) -> None:
    """Short maps would have one forked each, for nothing."""
    gate = tmp_path / "gate"
    with miniray.Pool(1, maxtasksperchild=3, context=multiprocessing.get_context("fork")) as pool:
        assert pool._pool[0].pid
        pool._dispatcher.callees.find(functions.wait_for).measured(1, 0.01)
        calls = [pool.apply_async(functions.wait_for, (str(gate),)) for _ in range(3)]
        assert len(pool._dispatcher.crew.everyone()) == 1
        gate.touch()
        assert [call.get(30) for call in calls] == [str(gate)] * 3


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("quota", [None, 1])
def test_a_pool_grows(start: str, quota: int | None, tmp_path: Path) -> None:
    """As people do it with the standard pool: three calls, each of which waits for the others, take three workers."""
    with miniray.Pool(1, maxtasksperchild=quota, context=multiprocessing.get_context(start)) as pool:
        calls = [pool.apply_async(functions.note_and_await, (str(tmp_path), 3)) for _ in range(3)]
        pool._processes = 3
        pool._repopulate_pool()
        assert len({call.get(60) for call in calls}) == 3
        assert len(pool._pool) == 3 and "pool_size=3" in repr(pool)
        victim = pool._pool[2]
        victim.kill()
        victim.join(10)
        assert len({worker.pid for worker in pool._pool} - {victim.pid}) == 3
        pool._processes = 1
        pool._repopulate_pool()
        assert len(pool._pool) == 3, "it never shrinks, as there"
        assert pool.map(functions.square, range(100)) == [x * x for x in range(100)]


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_pool_at_its_end_does_not_grow(end: str) -> None:
    pool = miniray.Pool(1)
    getattr(pool, end)()
    pool.join()
    pool._processes = 3
    pool._repopulate_pool()
    assert len(pool._pool) == 1 and not pool._pool[0].is_alive()
