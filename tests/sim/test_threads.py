"""Threads of simulated code are fibers: a run with them is deterministic, and they end with it."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
import thread_programs
from thread_programs import PROGRAMS, everywhere, in_threads, same

import miniray
from miniray.errors import TaskCancelledError
from miniray.testing import SimulationFailed, explore, fibers, simulate

SECONDS = 1_000.0
HERE = str(Path(__file__).parent)


@pytest.fixture
def left() -> Callable[[], list[str]]:
    """Threads that were not there before the test, but for those that fibers use again."""
    before = set(threading.enumerate())
    return lambda: [one.name for one in {*threading.enumerate()} - before if not one.name.startswith("miniray-fiber")]


# ---- what they compute ----


@pytest.mark.parametrize("name", PROGRAMS)
def test_threads_in_the_driver_a_task_and_an_actor(name: str, left: Callable[[], list[str]]) -> None:
    program = functools.partial(everywhere, name)
    for seed in range(6):
        done, again = (simulate(program, seed=seed, num_cpus=3, faults="delays") for _ in range(2))
        assert done.value == [PROGRAMS[name][1]] * 3 and not done.statistics.real
        assert done.trace_hash == again.trace_hash and done.choices == again.choices
    assert not left()


def test_real_processes_give_the_same() -> None:
    code = (
        f"import sys; sys.path.insert(0, {HERE!r}); import miniray, thread_programs, json; miniray.init(num_cpus=2);"
        "print(json.dumps(thread_programs.all_everywhere()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps([[expected] * 3 for _, expected in PROGRAMS.values()]))


def test_each_interpreter_has_the_same_run() -> None:
    code = (
        f"import sys; sys.path.insert(0, {HERE!r}); import thread_programs; from miniray.testing import simulate;"
        "print(simulate(thread_programs.all_everywhere, seed=5, faults='delays').trace_hash)"
    )
    hashes = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        hashes.add(done.stdout)
    assert len(hashes) == 1


def test_when_processes_die_threads_die_with_them_and_results_are_right(left: Callable[[], list[str]]) -> None:
    ended: list[int] = []

    @explore(seeds=40, faults="crashes")
    def program() -> None:
        names = ["maps", "produces", "fires_timers"]
        refs = [thread_programs.task.remote(name) for name in names]
        assert miniray.get(refs) == [PROGRAMS[name][1] for name in names]
        ended.append(1)

    program()
    assert ended and not left()


beats: list[float] = []


@miniray.remote
class Beating:
    def __init__(self) -> None:
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self) -> None:
        try:
            while True:
                beats.append(time.monotonic())
                time.sleep(1.0)
        finally:
            beats.append(-1.0)

    def die(self) -> None:
        os._exit(3)


@pytest.mark.parametrize("how", ["dies", "is dropped", "is left"])
def test_a_thread_ends_with_its_process(how: str, left: Callable[[], list[str]]) -> None:
    def program() -> Any:
        beats.clear()
        actor: Any = Beating.remote()
        time.sleep(10.0)
        if how == "is left":
            return None
        if how == "dies":
            with pytest.raises(miniray.errors.ActorDiedError):
                miniray.get(actor.die.remote())
        del actor
        time.sleep(SECONDS)
        return list(beats)

    done = simulate(program)
    assert beats[-1] == -1.0 and beats.count(-1.0) == 1 and 9 <= len(beats) <= 13
    assert how == "is left" or done.value == beats
    assert not left()


def test_what_a_program_leaves_behind_is_gone_and_disturbs_no_later_run(
    capfd: pytest.CaptureFixture[str], left: Callable[[], list[str]]
) -> None:
    kept: list[Any] = []

    def leaves() -> None:
        pool = ThreadPoolExecutor(2)
        kept.extend([pool, pool.submit(time.sleep, SECONDS), threading.Thread(target=threading.Event().wait)])
        kept[-1].start()
        waits = threading.Thread(target=lambda: miniray.get(same.remote(1).future().result() and same.remote(2)))
        waits.start()

        def for_ever() -> None:
            while True:
                time.sleep(1.0)
                same.remote(1)

        threading.Thread(target=for_ever, name="for ever", daemon=True).start()

    def plain() -> int:
        return miniray.get(same.remote(3))

    before = simulate(plain)
    threads = threading.active_count()
    simulate(leaves)
    assert not left() and not kept[-1].is_alive() and threading.active_count() <= threads + 3
    assert simulate(plain).trace_hash == before.trace_hash and not miniray.is_initialized()
    assert simulate(leaves).trace_hash == simulate(leaves).trace_hash
    captured = capfd.readouterr()
    assert not captured.out and not captured.err


said: list[str] = []


@miniray.remote
def begins() -> None:
    threading.Thread(target=lambda: (time.sleep(20.0), said.append("thread"))).start()
    try:
        time.sleep(SECONDS)
    except KeyboardInterrupt:
        said.append("task")
        raise


def test_threads_go_on_between_two_tasks_and_after_a_cancelled_one() -> None:
    """As in a real worker, whose main thread alone is struck."""

    def program() -> None:
        said.clear()
        ref = begins.remote()
        time.sleep(10.0)
        miniray.cancel(ref)
        with pytest.raises(TaskCancelledError):
            miniray.get(ref)
        time.sleep(20.0)

    simulate(program)
    assert said == ["task", "thread"]


# ---- how they end ----


def test_what_a_thread_raises_is_shown_and_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: shown.append((told.exc_type, told.thread.name)))

    def program() -> bool:
        thread = threading.Thread(target=divmod, args=(1, 0), name="divides")
        leaves = threading.Thread(target=sys.exit, name="leaves")
        for one in (thread, leaves):
            one.start()
            one.join()
        return thread.is_alive() or leaves.is_alive()

    assert simulate(program).value is False
    assert shown == [(ZeroDivisionError, "divides"), (SystemExit, "leaves")]


def test_os_exit_in_a_thread_ends_the_program() -> None:
    def program() -> None:
        threading.Thread(target=os._exit, args=(3,)).start()
        time.sleep(SECONDS)

    with pytest.raises(SimulationFailed, match="SystemExit"):
        simulate(program)


def test_threads_can_be_started_once_and_joined_when_started() -> None:
    def program() -> None:
        thread = threading.Thread(target=time.sleep, args=(1.0,))
        with pytest.raises(RuntimeError, match="cannot join thread before it is started"):
            thread.join()
        thread.start()
        with pytest.raises(RuntimeError, match="threads can only be started once"):
            thread.start()
        with pytest.raises(RuntimeError, match="cannot join current thread"):
            threading.current_thread().join()
        thread.join(0)
        assert thread.is_alive() and "started" in repr(thread)
        thread.join()
        assert not thread.is_alive() and "stopped" in repr(thread)

    simulate(program)


def test_a_thread_that_has_ended_is_held_by_nobody() -> None:
    def program() -> bool:
        class Holds(threading.Thread):
            def run(self) -> None:
                self.ref = same.remote(1)

        thread = Holds()
        thread.start()
        thread.join()
        seen = weakref.ref(thread)
        del thread
        return seen() is None

    assert simulate(program).value


def test_a_thread_that_does_not_unwind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fibers, "STUCK_SECONDS", 1.0)
    monkeypatch.setattr(fibers, "UNWIND_SECONDS", 0.2)
    stop: list[int] = []

    def stays() -> None:
        while not stop:
            try:
                time.sleep(1.0)
            except BaseException:
                pass

    def program() -> None:
        threading.Thread(target=stays, name="stays").start()

    try:
        with pytest.raises(SimulationFailed, match=r"thread stays of the program waits .*test_threads.py:\d+ in stays"):
            simulate(program)
    finally:
        stop.append(1)


# ---- time ----


def test_joins_and_timers_take_virtual_time() -> None:
    def program() -> list[float]:
        begin = time.monotonic()
        thread = threading.Thread(target=time.sleep, args=(SECONDS,))
        timer = threading.Timer(2 * SECONDS, lambda: None)
        looks = []
        thread.start()
        timer.start()
        for join in (lambda: thread.join(10.0), thread.join, timer.join):
            join()
            looks.append(time.monotonic() - begin)
        return looks

    assert simulate(program).value == pytest.approx([10.0, SECONDS, 2 * SECONDS], abs=0.01)


# ---- order ----


def test_seeds_have_other_orders_and_one_seed_has_one() -> None:
    def program() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        lock = threading.Lock()

        def go(x: int) -> None:
            for y in range(3):
                with lock:
                    seen.append((x, y))

        in_threads(lambda: go(0), lambda: go(1))
        return seen

    orders = [simulate(program, seed=seed).value for seed in range(20)]
    assert orders == [simulate(program, seed=seed).value for seed in range(20)]
    assert len({str(order) for order in orders}) > 3


def test_a_lost_update_of_two_threads_is_found_and_told() -> None:
    @explore(faults="none")
    def program() -> None:
        lock, count = threading.Lock(), [0]

        def add() -> None:
            with lock:
                before = count[0]
            with lock:
                count[0] = before + 1

        in_threads(add, add)
        assert count[0] == 2

    with pytest.raises(SimulationFailed, match=r"assert 1 == 2\n  at .*test_threads.py:\d+"):
        program()


# ---- what is virtual, and what of it stays ----


def test_each_thread_has_chances_of_its_own_and_names_as_in_every_run() -> None:
    def program() -> list[Any]:
        drawn: list[Any] = []
        in_threads(*[lambda: drawn.append((threading.current_thread().name, random.random()))] * 3)
        with ThreadPoolExecutor(1) as pool:
            name = pool.submit(lambda: threading.current_thread().name).result()
        return [*sorted(drawn), name]

    one, again, other = (simulate(program, seed=seed).value for seed in (1, 1, 2))
    assert one == again and one[-1] == other[-1] == "ThreadPoolExecutor-0_0"
    assert [name for name, _ in one[:3]] == [f"Thread-{number} (<lambda>)" for number in (1, 2, 3)]
    assert len({chance for _, chance in one[:3] + other[:3]}) == 6


def test_other_ways_to_start_threads() -> None:
    def program() -> Any:
        import _thread

        done = threading.Lock()
        done.acquire()
        _thread.start_new_thread(done.release, ())
        assert done.acquire(timeout=60)

        class Subclass(threading.Thread):
            def run(self) -> None:
                time.sleep(1.0)
                self.result = 5

        thread = Subclass()
        thread.start()
        assert "run" not in vars(thread)
        thread.join()
        with ThreadPool(3) as pool:
            return thread.result, pool.map(abs, range(-5, 0))

    assert simulate(program).value == (5, [5, 4, 3, 2, 1])
