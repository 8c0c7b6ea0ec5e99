"""Programs that poll: a look at a clock, or at what is ready, takes a little virtual time, so that every loop ends."""

from __future__ import annotations

import os
import random
import tempfile
import time
from typing import Any

import pytest

import miniray
from miniray.errors import GetTimeoutError, TaskCancelledError
from miniray.testing import SimulationFailed, explore, simulate

DEADLINE_SECONDS = 60.0
SAID: list[float] = []  # all simulated processes are one


@miniray.remote
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@miniray.remote
def says(seconds: float) -> None:
    time.sleep(seconds)
    SAID.append(seconds)


def wait_of_no_time() -> float:
    begin = time.monotonic()
    rest = [slow.remote(1.0), slow.remote(2.0)]
    while miniray.wait(rest, num_returns=2, timeout=0)[1]:
        pass
    return time.monotonic() - begin


def get_of_no_time() -> float:
    begin, ref = time.monotonic(), slow.remote(2.0)
    while True:
        try:
            assert miniray.get(ref, timeout=0) == "done"
            return time.monotonic() - begin
        except GetTimeoutError:
            pass


def until_a_deadline() -> float:
    begin, ref = time.monotonic(), slow.remote(2.0)
    while time.monotonic() < begin + DEADLINE_SECONDS:
        if miniray.wait([ref], timeout=0)[0]:
            break
    return time.monotonic() - begin


def sleeps_of_no_time() -> float:
    begin, ref, said = time.monotonic(), says.remote(2.0), len(SAID)
    while len(SAID) == said:
        time.sleep(0)
    miniray.get(ref)
    return time.monotonic() - begin


def sleeps_of_nearly_no_time() -> float:
    begin, ref, said = time.monotonic(), says.remote(2.0), len(SAID)
    while len(SAID) == said:
        time.sleep(1e-6)
    miniray.get(ref)
    return time.monotonic() - begin


def wait_of_nearly_no_time() -> float:
    begin, rest = time.monotonic(), [slow.remote(2.0)]
    while miniray.wait(rest, timeout=1e-9)[1]:
        assert time.monotonic() < begin + DEADLINE_SECONDS
    return time.monotonic() - begin


def only_the_clock() -> float:
    begin = time.time()
    while time.time() < begin + 2.0:
        pass
    return time.time() - begin


SHORT = [sleeps_of_nearly_no_time, wait_of_nearly_no_time]
LOOPS = [wait_of_no_time, get_of_no_time, until_a_deadline, sleeps_of_no_time, *SHORT, only_the_clock]


@pytest.mark.parametrize("in_task", [False, True], ids=["in the program", "in a task"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_ends_when_what_it_looks_for_is_there(loop: Any, in_task: bool) -> None:
    def program() -> Any:
        return miniray.remote(loop).remote() if in_task else loop()

    done = simulate(program, num_cpus=4)
    assert 2.0 <= done.value < 2.2
    assert done.trace_hash == simulate(program, num_cpus=4).trace_hash
    assert done.statistics.steps < 5_000


def test_a_loop_for_what_never_comes_ends_at_its_deadline() -> None:
    def program() -> Any:
        begin, never = time.monotonic(), slow.remote(3_000.0)
        while time.monotonic() < begin + DEADLINE_SECONDS:
            if miniray.wait([never], timeout=0)[0]:
                return "it came"
        miniray.cancel(never)
        return time.monotonic() - begin

    assert DEADLINE_SECONDS <= simulate(program).value < 1.1 * DEADLINE_SECONDS


def test_a_loop_without_an_end_is_told_as_one() -> None:
    def program() -> None:
        while time.monotonic() >= 0:
            pass

    with pytest.raises(SimulationFailed, match="no end"):
        simulate(program)


def test_a_task_that_spins_can_be_cancelled() -> None:
    @miniray.remote
    def spins() -> None:
        while time.monotonic() >= 0:
            pass

    def program() -> None:
        ref = spins.remote()
        time.sleep(1.0)
        miniray.cancel(ref)
        with pytest.raises(TaskCancelledError):
            miniray.get(ref)

    simulate(program)


def test_a_few_looks_take_microseconds() -> None:
    def program() -> list[float]:
        return [time.perf_counter() for _ in range(50)]

    looks = simulate(program).value
    steps = [after - before for before, after in zip(looks, looks[1:], strict=False)]
    assert all(0 < step < 10e-6 for step in steps)


def test_a_wait_begins_the_count_anew() -> None:
    def program() -> float:
        for _ in range(500):
            time.monotonic()
            time.sleep(0.001)
        return time.monotonic() - time.monotonic()

    assert 0 > simulate(program).value > -10e-6


def test_short_sleeps_take_what_they_say() -> None:
    def program() -> float:
        begin = time.monotonic()
        for _ in range(500):
            time.sleep(50e-6)
        return time.monotonic() - begin

    assert simulate(program).value == pytest.approx(500 * 50e-6, rel=0.1)


@miniray.remote
class Looks:
    def looks(self) -> float:
        begin = time.monotonic()
        for _ in range(10):
            time.monotonic()
        return time.monotonic() - begin


def test_each_task_of_a_batch_begins_the_count_anew() -> None:
    def program() -> Any:
        looks = Looks.remote()
        return [looks.looks.remote() for _ in range(100)]

    assert max(simulate(program).value) < 20e-6


def test_a_program_that_polls_ends_whatever_dies() -> None:
    ended: list[float] = []

    @explore(seeds=3, faults="crashes")
    def polls() -> None:
        ended.append(until_a_deadline())

    polls()
    assert len(ended) == 3 and all(2.0 <= seconds < 50.0 for seconds in ended)


def test_the_other_clocks_are_virtual() -> None:
    def program() -> Any:
        cpu = time.process_time(), time.thread_time_ns()
        time.sleep(1_000.0)
        cpu = time.process_time() - cpu[0], (time.thread_time_ns() - cpu[1]) / 1e9
        told = time.strftime("%Y"), str(time.localtime().tm_year), time.ctime()[-4:], time.asctime()[-4:]
        return cpu, told, time.gmtime()[:5], time.gmtime(0).tm_year

    cpu, told, moment, first = simulate(program).value
    assert all(0 < seconds < 0.001 for seconds in cpu)
    assert told == ("2023",) * 4 and moment == (2023, 11, 14, 22, 30) and first == 1970


def test_an_unseeded_source_of_chance_is_of_the_seed() -> None:
    def program() -> list[float]:
        return [random.Random().random(), random.Random().random(), random.Random(5).random()]

    one, again, other = (simulate(program, seed=seed).value for seed in (1, 1, 2))
    assert one == again and one[0] != one[1] and one[:2] != other[:2]
    assert one[2] == other[2] == random.Random(5).random()


def test_what_the_operating_system_draws_leaves_the_state_of_random_as_it_is() -> None:
    """Hypothesis fails a test whose `data.draw` has changed it, and makes temporary files within."""

    def program() -> bool:
        state = random.getstate()
        drawn = random.Random().random(), os.urandom(4), tempfile.mktemp()
        return bool(drawn) and random.getstate() == state

    assert simulate(program).value


def test_a_task_that_burns_time_of_its_cpu_ends() -> None:
    def program() -> float:
        begin = time.process_time()
        while time.process_time() < begin + 0.5:
            pass
        return time.monotonic()

    assert simulate(program).value >= 0.5
