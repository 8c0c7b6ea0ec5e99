"""`SimulatedMachine`: a right program agrees with its oracle, a wrong one is found and shrunk, and nothing is left."""

from __future__ import annotations

import gc
import random
import time
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, initialize, invariant, rule, run_state_machine_as_test

import miniray
from miniray._runtime import context
from miniray.errors import SessionError
from miniray.testing import Faults, SimulatedMachine, simulate
from miniray.testing.cluster import running
from miniray.testing.levels import Level

FEW = settings(
    max_examples=25,
    stateful_step_count=8,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
UNSHRUNK = settings(FEW, phases=[Phase.generate])
MANY = settings(FEW, max_examples=300, phases=[Phase.generate, Phase.shrink])


@miniray.remote
class Cell:
    def __init__(self) -> None:
        self.value = 0

    def get(self) -> int:
        return self.value

    def set(self, value: int) -> None:
        self.value = value

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value


@miniray.remote
def gets_and_sets(cell: Any) -> None:
    miniray.get(cell.set.remote(miniray.get(cell.get.remote()) + 1))


@miniray.remote
def adds(cell: Any) -> int:
    return miniray.get(cell.add.remote(1))


class Right(SimulatedMachine):
    sums = Bundle("sums")
    slept: ClassVar[list[float]] = []

    @initialize()
    def begin(self) -> None:
        self.cell, self.total = Cell.remote(), 0

    @rule(target=sums, amount=st.integers(0, 9))
    def add(self, amount: int) -> Any:
        self.total += amount
        return self.cell.add.remote(amount), self.total

    @rule(sum=sums)
    def look(self, sum: Any) -> None:
        ref, expected = sum
        assert miniray.get(ref) == expected

    @rule(data=st.data())
    def draw(self, data: Any) -> None:
        assume(data.draw(st.integers(0, 9)) < 9)
        before = time.monotonic()
        time.sleep(500.0 * random.random())
        self.slept.append(time.monotonic() - before)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert miniray.get(self.cell.get.remote()) == self.total


class Loses(SimulatedMachine):
    @initialize()
    def begin(self) -> None:
        self.cell, self.total = Cell.remote(), 0

    @rule(count=st.integers(1, 5))
    def count(self, count: int) -> None:
        self.total += count
        miniray.get([gets_and_sets.remote(self.cell) for _ in range(count)])
        assert miniray.get(self.cell.get.remote()) == self.total

    @rule()
    def look(self) -> None:
        assert miniray.get(self.cell.get.remote()) == self.total


class CountsTwice(SimulatedMachine):
    faults: ClassVar[Level | Faults] = "crashes"

    @initialize()
    def begin(self) -> None:
        self.cell, self.total = Cell.remote(), 0

    @rule()
    def count(self) -> None:
        self.total += 1
        miniray.get(adds.remote(self.cell))
        assert miniray.get(self.cell.get.remote()) == self.total


class WaitsForEver(SimulatedMachine):
    @rule()
    def wait(self) -> None:
        @miniray.remote
        class Waits:
            def call(self, me: Any) -> Any:
                return miniray.get(me.call.remote(me))

        waits = Waits.remote()
        miniray.get(waits.call.remote(waits))


def outside() -> Any:
    names = (time.sleep, time.time, random.random, random.shuffle)
    return names, gc.isenabled(), context.get_current(), list(running)


def steps_of(error: BaseException) -> list[str]:
    told = [line for note in getattr(error, "__notes__", []) for line in note.splitlines()]
    return [line for line in told if line.startswith("state.") and "teardown" not in line]


def test_a_right_program_agrees_with_its_oracle() -> None:
    before = outside()
    Right.slept.clear()
    begin = time.monotonic()
    run_state_machine_as_test(Right, settings=FEW)
    assert outside() == before and sum(Right.slept) > 1000.0 > time.monotonic() - begin


@pytest.mark.parametrize("machine", [Loses, CountsTwice])
def test_a_wrong_one_is_found_and_shrunk_and_nothing_is_left(machine: type[SimulatedMachine]) -> None:
    before = outside()
    with pytest.raises(AssertionError) as failed:
        run_state_machine_as_test(machine, settings=MANY)
    steps = steps_of(failed.value)
    assert steps[0] == "state.begin()" and len(steps) == 2, steps
    if machine is Loses:
        assert steps[1] == "state.count(count=2)"
    assert outside() == before
    assert simulate(lambda: adds.remote(Cell.remote())).value == 1


def test_a_wait_without_an_end_is_a_failure_and_nothing_is_left() -> None:
    before = outside()
    with pytest.raises(AssertionError, match="waits, and nothing is left to happen"):
        run_state_machine_as_test(WaitsForEver, settings=UNSHRUNK)
    assert outside() == before
    assert simulate(lambda: adds.remote(Cell.remote())).value == 1


class TooEarly(SimulatedMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell.remote()

    @rule()
    def look(self) -> None:
        pass


def test_a_call_in_init_says_where_it_belongs_and_later_ones_are_free() -> None:
    with pytest.raises(SessionError, match="make actors and call tasks in an @initialize rule"):
        run_state_machine_as_test(TooEarly, settings=UNSHRUNK)
    assert context.get_current() is None and context.forbid_implicit_start("") == ""
