"""Locks of simulated code, and what stands on them: who would block parks, and loops that poll come to their end."""

from __future__ import annotations

import functools
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from thread_programs import in_threads

import miniray
from miniray.testing import SimulationFailed, fibers, simulate

SECONDS = 1_000.0


def test_locks_are_like_real_ones() -> None:
    def program() -> list[Any]:
        lock, again = threading.Lock(), threading.RLock()
        for made in (lock, again, lock_of_this_module):
            with pytest.raises(TypeError, match="cannot pickle"):
                pickle.dumps(made)
            assert made.acquire(timeout=1) and (made is again or not made.acquire(blocking=False))
            made.release()
            with pytest.raises(RuntimeError):
                made.release()
            with pytest.raises(ValueError, match="timeout"):
                made.acquire(False, 1)
            with pytest.raises(ValueError, match="timeout"):
                made.acquire(True, -5)
        begin = time.monotonic()
        with lock:
            assert lock.locked() and not lock.acquire(timeout=SECONDS)
        assert SECONDS <= time.monotonic() - begin < SECONDS + 1
        return [lock, again]

    for lock in simulate(program).value:  # now they are ordinary ones
        with lock:
            thread = threading.Thread(target=lock.acquire)
            thread.start()
            thread.join(0.05)
            assert thread.is_alive()
        thread.join()


@miniray.remote
def holds() -> None:
    with lock_of_this_module:
        time.sleep(1.0)


lock_of_this_module = threading.Lock()


def test_each_process_has_a_lock_of_the_programs_module_to_itself() -> None:
    def program() -> tuple[Any, float]:
        begin = time.monotonic()
        in_threads(*[lambda: miniray.get(holds.remote())] * 2)
        apart = time.monotonic() - begin

        def hold() -> None:
            with lock_of_this_module:
                time.sleep(1.0)

        in_threads(hold, hold)
        return apart, time.monotonic() - begin - apart

    apart, together = simulate(program).value
    assert apart < 1.5 and together >= 2.0
    assert type(lock_of_this_module) is type(threading.Lock()) and not lock_of_this_module.locked()


condition_of_this_module = threading.Condition()


def test_threads_meet_nowhere_under_a_condition_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fibers, "STUCK_SECONDS", 2.0)

    def program() -> int:
        ready: list[int] = []

        def waits() -> None:
            with condition_of_this_module:
                while not ready:
                    condition_of_this_module.wait()

        def tells() -> None:
            time.sleep(1.0)
            with condition_of_this_module:
                ready.append(1)
                condition_of_this_module.notify_all()

        in_threads(*[waits] * 4, tells)
        return len(ready)

    for seed in range(30):
        assert simulate(program, seed=seed, faults="delays").value == 1


def test_a_class_of_users_own_gets_its_locks_anew_in_each_process() -> None:
    def program() -> Any:
        class Guarded:
            lock = threading.Lock()

            def go(self) -> int:
                in_threads(self.hold, self.hold)
                return 3

            def hold(self) -> None:
                with self.lock:
                    time.sleep(1.0)

        return miniray.remote(Guarded).remote().go.remote()

    assert simulate(program).value == 3


def test_a_deadlock_is_told_with_its_lines() -> None:
    def program() -> None:
        one, other = threading.Lock(), threading.RLock()

        def go(first: Any, second: Any) -> None:
            with first:
                time.sleep(1.0)
                with second:
                    pass

        in_threads(lambda: go(one, other), lambda: go(other, one))

    with pytest.raises(SimulationFailed, match="the program waits, and nothing is left to happen") as failed:
        simulate(program)
    told = str(failed.value.__cause__)
    for number in (1, 2):
        assert f"thread Thread-{number} (<lambda>) of the program waits at {__file__}:" in told, told
    assert told.count("in go (with second:)") == 2 and "the program waits at" in told, told


# ---- polling ----


def wakes(event: threading.Event) -> None:
    time.sleep(2.0)
    event.set()


def until_an_event_is_set() -> None:
    event = threading.Event()
    threading.Thread(target=wakes, args=(event,)).start()
    while not event.is_set():
        pass


def until_a_wait_of_no_time_succeeds(seconds: float) -> None:
    event = threading.Event()
    threading.Thread(target=wakes, args=(event,)).start()
    while not event.wait(seconds):
        pass


def until_a_future_is_done() -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(time.sleep, 2.0)
        while not future.done():
            pass


def until_a_lock_is_free(*how: Any) -> None:
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(2.0, lock.release).start()
    while not lock.acquire(*how):
        pass


def until_a_thread_has_ended() -> None:
    thread = threading.Thread(target=time.sleep, args=(2.0,))
    thread.start()
    while thread.is_alive():
        thread.join(0)


def until_something_stands_under_a_lock() -> None:
    lock, found = threading.Lock(), []
    threading.Timer(2.0, lambda: found.append(1)).start()
    while True:
        with lock:
            if found:
                break


POLLS = {
    "is_set": until_an_event_is_set,
    "wait(0)": functools.partial(until_a_wait_of_no_time_succeeds, 0),
    "wait(1e-9)": functools.partial(until_a_wait_of_no_time_succeeds, 1e-9),
    "done": until_a_future_is_done,
    "acquire(False)": functools.partial(until_a_lock_is_free, False),
    "acquire(True, 1e-9)": functools.partial(until_a_lock_is_free, True, 1e-9),
    "is_alive": until_a_thread_has_ended,
    "with lock": until_something_stands_under_a_lock,
}


@pytest.mark.parametrize("name", POLLS)
def test_loops_that_poll_end_in_virtual_time(name: str) -> None:
    def program() -> float:
        begin = time.monotonic()
        POLLS[name]()
        return time.monotonic() - begin

    assert 2.0 <= simulate(program).value < 3.0
