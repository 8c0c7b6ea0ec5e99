"""How a pool ends, and what it survives: real kills, initializers that fail, exits of the interpreter."""

from __future__ import annotations

import collections
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import miniray
from miniray.errors import TaskCancelledError, WorkerCrashedError, WorkerInitializerError
from miniray.pool import crew
from miniray.pool.call_queue import CallQueue
from miniray.pool.dispatch import Dispatcher
from miniray.pool.groups import Callee
from miniray.pool.results import LoneCall
from miniray.pool_worker.board import Board
from tests.integrations import pool_functions as functions
from tests.quiescence import eventually

pytestmark = pytest.mark.usefixtures("session")


def pids(pool: Any) -> list[int]:
    return [worker.pid for worker in pool._pool]


def wait_gone(numbers: list[int]) -> None:
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in numbers), f"all of {numbers} are gone")


def outcomes(results: Any) -> list[Any]:
    found: list[Any] = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            return found
        except WorkerCrashedError:
            found.append("lost")


def test_killed_in_mid_call(tmp_path: Path) -> None:
    with miniray.Pool(1, functions.set_shared, ("again",)) as pool:
        before = pids(pool)
        lost = pool.apply_async(functions.read_slowly, (tmp_path,))
        waiting = [pool.apply_async(functions.square, (x,)) for x in range(20)]
        eventually((tmp_path / "reads").exists, "it has started")
        os.kill(before[0], signal.SIGKILL)
        with pytest.raises(WorkerCrashedError, match=rf"read_slowly was lost: worker {before[0]} was ended by .*9"):
            lost.get(timeout=10)
        assert [result.get(timeout=10) for result in waiting] == [x * x for x in range(20)]
        assert pids(pool) != before
        assert pool.apply(functions.read_shared, (1,)) == ("again", 1)


def test_killed_while_idle() -> None:
    with miniray.Pool(2) as pool:
        assert pool.map(functions.square, range(10)) == [x * x for x in range(10)]
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        assert pool.map(functions.square, range(10)) == [x * x for x in range(10)]


def test_a_worker_that_is_still_starting_holds_up_no_call(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with miniray.Pool(2, functions.wait_while_there, (str(gate),)) as pool:
        first = pids(pool)[0]
        gate.touch()
        os.kill(first, signal.SIGKILL)
        wait_gone([first])
        for _ in range(5):
            assert pool.map_async(functions.square, range(200)).get(60) == [x * x for x in range(200)]
        gate.unlink()


def test_what_had_not_started_runs_once(tmp_path: Path) -> None:
    with miniray.Pool(2) as pool:
        pool.map(partial(functions.kill_on, victim=-1), range(100))
        call = partial(functions.note_and_kill_on_five, folder=str(tmp_path))
        found = outcomes(pool.imap(call, range(200)))
    assert len(found) == 200 and found[5] == "lost"
    assert all(value == "lost" or value == x for x, value in enumerate(found))
    starts = collections.Counter(name.partition("-")[0] for name in os.listdir(tmp_path))
    assert starts == {str(x): 1 for x in range(200)}


def test_a_map_with_a_killed_worker_raises() -> None:
    with miniray.Pool(2) as pool:
        with pytest.raises(WorkerCrashedError):
            pool.map(partial(functions.kill_on, victim=50), range(100))
        assert pool.map(functions.square, [3]) == [9]


def test_random_kills_lose_nothing() -> None:
    with miniray.Pool(2) as pool:
        results = pool.imap_unordered(functions.square, range(20_000))
        found = [next(results) for _ in range(100)]
        for _ in range(5):
            with suppress(ProcessLookupError):  # the pool has not seen yet that the last one is gone
                os.kill(pids(pool)[0], signal.SIGKILL)
            found += [_next_or_lost(results) for _ in range(500)]
        found += outcomes(results)
    assert len(found) == 20_000
    values = [value for value in found if value != "lost"]
    assert len(set(values)) == len(values)


def _next_or_lost(results: Any) -> Any:
    try:
        return next(results)
    except WorkerCrashedError:
        return "lost"


def _raise(text: str) -> None:
    raise LookupError(text)


def test_initializer_that_raises() -> None:
    with miniray.Pool(2, _raise, ("no licence",)) as pool:
        with pytest.raises(WorkerInitializerError, match="LookupError: no licence") as caught:
            pool.map(functions.square, range(4))
        assert type(caught.value.__cause__) is LookupError
        with pytest.raises(WorkerInitializerError):
            pool.apply(functions.square, (1,))


def raised(uses: list[Callable[[], Any]]) -> list[BaseException]:
    errors: list[BaseException] = []
    for use in uses:
        with pytest.raises(Exception) as caught:
            use()
        errors.append(caught.value)
    return errors


@pytest.mark.parametrize("reason", ["initializer", "terminate"])
def test_each_result_of_a_pool_that_was_given_up_has_an_exception_of_its_own(reason: str, tmp_path: Path) -> None:
    """One that two threads raise would collect the tracebacks and the contexts of both."""
    start = (_raise, ("no licence",)) if reason == "initializer" else ()
    with miniray.Pool(2, *start) as pool:
        if not start:
            list(pool.imap(functions.wait_for, [""] * 2000))  # known to be short: the next calls travel together
        uses: list[Callable[[], Any]] = [
            pool.apply_async(functions.wait_for, (str(tmp_path / "never"),)).get for _ in range(20)
        ]
        uses += [pool.map_async(functions.sleep, [60] * 3).get, pool.imap(functions.sleep, iter([60])).__next__]
        if start:
            uses += [lambda: pool.apply(functions.square, (1,))] * 2
            uses += [pool.map_async(functions.square, [1]).get, pool.imap(functions.square, [1]).__next__]
        else:
            pool.terminate()
        errors = raised(uses)
        assert len({*map(id, errors)}) == len(uses)
        kind, cause = (WorkerInitializerError, LookupError) if start else (TaskCancelledError, type(None))
        assert {(type(error), type(error.__cause__), error.__context__) for error in errors} == {(kind, cause, None)}
        assert len({*map(str, errors)}) == 1


def test_initializer_that_exits() -> None:
    with miniray.Pool(1, functions.exit_now) as pool:
        with pytest.raises(WorkerInitializerError, match="before the initializer has ended"):
            pool.apply(functions.square, (1,))


def test_calls_that_all_went_to_a_worker_are_not_there_to_be_abandoned() -> None:
    """One worker has died before it began, another has what it had: should it die as well, there is one outcome."""
    queue, call = CallQueue(1), LoneCall(_Nobody(), Callee(abs), (-3,), {})
    worker: Any = SimpleNamespace(quota=None)
    queue.append(call)
    group = queue.next_group(worker)
    assert group is not None
    queue.put_back(group, 0)
    assert queue.next_group(worker) is not None
    queue.abandon(LookupError("of nothing"))
    assert not call.is_done


class _Nobody(Dispatcher):
    def __init__(self) -> None:
        pass


def test_a_board_that_cannot_be_made_leaves_nothing() -> None:
    gc.collect()
    before = _boards()
    with pytest.raises(OSError, match=r"\[Errno"):
        Board(1 << 40)
    gc.collect()
    assert _boards() <= before, "those of earlier pools may still go"


def _boards() -> int:
    found = []
    for place in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the session's other threads open and close theirs
            if "miniray-pool" in os.readlink(place):
                found.append(place.name)
    return len(found)


def test_maxtasksperchild() -> None:
    with miniray.Pool(1, maxtasksperchild=3) as pool:
        used = [pool.apply(functions.pid) for _ in range(9)]
        assert [used.count(pid) for pid in dict.fromkeys(used)] == [3, 3, 3]
        used = pool.map(functions.pid, range(12), chunksize=2)
        assert max(used.count(pid) for pid in used) <= 6


def test_close_and_join() -> None:
    pool = miniray.Pool(2)
    numbers = pids(pool)
    result = pool.map_async(functions.sleep, [0.1] * 4)
    lazy = pool.imap(functions.square, (x for x in range(5000)))
    pool.close()
    for use in (pool.apply, pool.map, pool.imap, pool.apply_async):
        with pytest.raises(ValueError, match="Pool not running"):
            use(functions.square, [1])
    pool.join()
    assert result.ready() and result.get() == [0.1] * 4
    assert list(lazy) == [x * x for x in range(5000)]
    wait_gone(numbers)


def test_terminate_with_long_calls() -> None:
    pool = miniray.Pool(2)
    numbers = pids(pool)
    results = [pool.apply_async(functions.sleep, (60,)) for _ in range(6)]
    time.sleep(0.1)
    start = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - start < 30, "no call is waited for"
    wait_gone(numbers)
    with pytest.raises(TaskCancelledError):
        results[0].get(timeout=5)
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pass


def test_terminate_waits_for_a_worker_that_has_started_and_not_been_heard_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, kill, killed = tmp_path / "gate", miniray.kill, list[Any]()
    gate.touch()
    monkeypatch.setattr(miniray, "kill", killed.append)
    monkeypatch.setattr(crew, "END_SECONDS", 60)
    pool = miniray.Pool(1, functions.wait_while_there, (str(gate),))
    (member,) = pool._dispatcher.crew
    ending = threading.Thread(target=pool.terminate)
    ending.start()
    try:
        eventually(lambda: killed, "its end is asked for")
        gate.unlink()
        eventually(lambda: member.is_up, "it starts all the same")
        assert member.is_alive() and ending.is_alive()
    finally:
        kill(*killed)
        ending.join(60)
    assert not ending.is_alive() and not member.is_alive()


def test_a_pool_without_calls_is_collected_without_a_thread() -> None:
    """A finaliser begins none."""
    unused = miniray.Pool(2)
    before, begun = pids(unused), threading.active_count()
    with pytest.warns(ResourceWarning, match="unclosed running"):
        del unused
        gc.collect()
    assert threading.active_count() <= begun, "those of earlier pools may still end"
    wait_gone(before)


def test_collected_without_close() -> None:
    pool = miniray.Pool(2)
    numbers = pids(pool)
    pool.apply_async(functions.sleep, (0.01,)).get()
    with pytest.warns(ResourceWarning, match="unclosed running"):
        del pool
        gc.collect()
    wait_gone(numbers)


def test_collected_without_close_where_that_warning_is_an_error() -> None:
    pool = miniray.Pool(2)
    numbers = pids(pool)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error", ResourceWarning)
        patch.setattr(sys, "unraisablehook", lambda _: None)
        del pool
        gc.collect()
    wait_gone(numbers)


@pytest.mark.parametrize("begins_anew", [False, True])
def test_a_pool_whose_session_has_ended_says_so(begins_anew: bool) -> None:
    program = f"""
        import sys, time, warnings, miniray
        warnings.simplefilter("error")
        pools = [miniray.Pool(1) for _ in range(6)]
        under_way = [pools[0].apply_async(time.sleep, (60,)), pools[0].map_async(time.sleep, [60] * 9)]
        lazy = pools[0].imap(abs, iter(range(100_000)))
        assert pools[1].map(abs, [-1]) == [1]
        before = [[worker.pid for worker in pool._pool] for pool in pools]
        miniray.shutdown()
        {begins_anew} and miniray.init(num_cpus=1)
        assert [worker.pid for worker in pools[5]._pool] == before[5]
        for use in (
            under_way[0].get, under_way[1].get, lambda: list(lazy), lambda: pools[0].map(abs, [1]),
            lambda: pools[1].map(abs, [1]), lambda: pools[2].apply(abs, (1,)),
            lambda: pools[3].apply_async(abs, (1,)).get(), lambda: list(pools[4].imap(abs, [1])),
            lambda: list(pools[5].imap_unordered(abs, iter([1]))), lambda: pools[5].apply(abs, (1,)),
        ):
            try:
                print("no error", use())
            except miniray.errors.SessionError as error:
                assert "session has ended" in str(error) and "make a new Pool" in str(error), error
        for pool in pools:
            pool.close()
            pool.join()
        miniray.is_initialized() or miniray.init()
        with miniray.Pool(1) as pool:
            print(pool.map(abs, [-2]))
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[2]\n", ""), done.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"processes": 0}, ValueError),
        ({"initializer": 5}, TypeError),
        ({"maxtasksperchild": 0}, ValueError),
        ({"maxtasksperchild": 1.5}, ValueError),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as standard:
        multiprocessing.Pool(**{"processes": 1, **arguments})
    with pytest.raises(error) as ours:
        miniray.Pool(**{"processes": 1, **arguments})
    assert str(ours.value) == str(standard.value)
    with pytest.raises(TypeError, match="get_context"):
        miniray.Pool(1, context="fork")
    miniray.Pool(1, context=multiprocessing.get_context("spawn")).terminate()


@pytest.mark.parametrize("ending", ["", "raise KeyError(1)", "sys.exit(4)", "pool.close()"])
def test_exit_with_a_live_pool(ending: str) -> None:
    program = (
        "import sys, time, miniray\n"
        "def nap(s): time.sleep(s); return s\n"
        "pool = miniray.Pool(2)\n"
        "running = pool.apply_async(nap, (60,))\n"
        "print(pool.map(nap, [0.01]), *[w.pid for w in pool._pool], flush=True)\n"
        f"{ending}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == {"": 0, "raise KeyError(1)": 1, "sys.exit(4)": 4, "pool.close()": 0}[ending], done.stderr
    assert "Exception ignored" not in done.stderr and "Exception in thread" not in done.stderr
    wait_gone([int(word) for word in done.stdout.split()[1:]])


def test_workers_have_the_pools_code_from_the_start() -> None:
    """Where the driver had it when the session began. Where not they import what they need, not the driver's side."""
    program = (
        "import sys, miniray\n"
        "@miniray.remote\n"
        "def has_it(): return 'miniray.pool_worker.worker' in sys.modules\n"
        "def has_more(): return {'miniray.pool', 'multiprocessing.pool', 'subprocess'} & set(sys.modules)\n"
        "print(miniray.get(has_it.remote()))\n"
        "with miniray.Pool(1) as pool:\n"
        "    print(pool.apply(has_more) or 'no more')\n"
        "miniray.shutdown()\n"
        "import miniray.pool\n"
        "miniray.init()\n"
        "print(miniray.get(has_it.remote()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\nno more\nTrue\n", done.stderr


def test_workers_import_nothing_of_ours_that_the_zygote_has_not() -> None:
    """It would take each of them longer than the fork does. A process that imports what the zygote does has it all."""
    program = (
        "import importlib, sys, miniray.pool\n"
        "from miniray._runtime import driver\n"
        "plans = []\n"
        "begin = driver.start_session\n"
        "driver.start_session = lambda plan: (plans.append(plan), begin(plan))[1]\n"
        "def ours(): return {name for name in sys.modules if name.startswith('miniray')}\n"
        "with miniray.Pool(1) as pool: seen = pool.apply(ours)\n"
        "print(*sorted(seen))\n"
        "print('miniray._runtime.zygote', *plans[0].imports, *(main.partition(':')[0] for main in (\n"
        "    plans[0].node_main, plans[0].worker_main)))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    seen, imported = (line.split() for line in found.stdout.splitlines())
    again = f"import sys, importlib; [importlib.import_module(one) for one in {imported}]; print(*sys.modules)"
    zygote = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, timeout=60)
    assert len(seen) > 20 and {*seen} <= {*zygote.stdout.split()}, {*seen} - {*zygote.stdout.split()}
