"""`nodes=`: a user's program on several hosts that crash, found, shrunk, printed, recorded and run again as on one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

import miniray
from miniray.testing import (
    Faults,
    RecordedChoices,
    SeededChoices,
    SimulatedMachine,
    SimulationFailed,
    explore,
    fault_schedules,
    schedules,
    simulate,
)
from miniray.testing.faults import NO_FAULTS, draw
from miniray.testing.recording import read
from miniray.testing.rerun import rerun
from miniray.testing.shrinking import Failing, shrink

WRONG = [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError), ("2", TypeError)]


@miniray.remote
class Seat:
    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total


@miniray.remote
def work(counter: Any) -> Any:
    return miniray.get(counter.add.remote(1))


def counts_twice() -> None:
    counter = Seat.remote()
    miniray.get([work.remote(counter) for _ in range(6)])
    assert miniray.get(counter.add.remote(0)) == 6


def counts_once() -> int:
    return sum(miniray.get([work.remote(Seat.remote()) for _ in range(4)]))


@miniray.remote
def second(number: int) -> int:
    time.sleep(1.0)
    return number


def test_a_program_uses_all_nodes() -> None:
    def program() -> Any:
        return [second.remote(number) for number in range(6)]

    done = simulate(program, seed=3, num_cpus=1, nodes=3)
    assert done.value == list(range(6)) and done.nodes == 3
    assert done.statistics.virtual_seconds < 3.5 < simulate(program, seed=3, num_cpus=1).statistics.virtual_seconds


def test_one_seed_is_one_run() -> None:
    one, other = (simulate(counts_once, seed=5, nodes=3, faults="delays") for _ in range(2))
    assert one.trace_hash == other.trace_hash


@pytest.mark.parametrize(("nodes", "error"), WRONG)
def test_a_wrong_number_of_nodes_is_refused(nodes: Any, error: type[Exception]) -> None:
    wrong = pytest.raises(error, match="nodes must be a whole number, one or more, not ")
    with wrong:
        simulate(counts_once, nodes=nodes)
    with wrong:
        explore(nodes=nodes)


def test_the_drivers_node_never_crashes_so_more_are_needed() -> None:
    with pytest.raises(ValueError, match=r"give nodes=2, or more"):
        simulate(counts_once, faults=Faults(node_crashes=(3,)))


def test_what_one_node_draws_is_what_it_drew() -> None:
    """Seeds of programs on one node keep their meaning: what several nodes draw comes after that."""
    for seed in range(50):
        one, several = draw(SeededChoices(seed)), draw(SeededChoices(seed), 3)
        assert one.node_crashes == () and one.crashes == several.crashes and one.heal_after == several.heal_after
    assert any(draw(SeededChoices(seed), 3).node_crashes for seed in range(50))


def test_a_failure_is_printed_with_its_nodes() -> None:
    def program() -> None:
        raise KeyError("planned")

    with pytest.raises(SimulationFailed, match=r"seed=7, num_cpus=1, nodes=2, faults=Faults\(.*node_crashes=\(40,\)"):
        simulate(program, seed=7, num_cpus=1, nodes=2, faults=Faults(node_crashes=(40,)))
    with pytest.raises(SimulationFailed, match=r"nodes=2, faults=Faults\(.*choices=RecordedChoices\(") as failed:
        simulate(program, choices=RecordedChoices([1, 2, 3]), nodes=2, faults="all")
    assert failed.value.simulated.nodes == 2


def test_a_node_that_crashes_is_found_shrunk_told_and_run_again(tmp_path: Path) -> None:
    faults = Faults(node_crashes=(60, 90, 120))
    with pytest.raises(SimulationFailed) as failed:
        explore(folder=tmp_path, num_cpus=1, nodes=4, faults=faults)(counts_twice)()
    text = str(failed.value)
    assert "nodes: 2)" in text and "node n1.p0 was killed" in text and "in the middle of " in text, text
    assert "worker n1" not in text, "the node is told, and not each of its workers"
    (file,) = tmp_path.iterdir()
    recording = read(file)
    assert recording.cluster == {"num_cpus": 1, "nodes": 2} and len(recording.faults["node_crashes"]) == 1
    again = rerun(recording)
    assert again.trace_hash == recording.trace_hash and isinstance(again.error, AssertionError)


def test_nodes_that_do_not_matter_are_shrunk_away(tmp_path: Path) -> None:
    @explore(folder=tmp_path, nodes=3, faults="all")
    def program() -> None:
        assert miniray.get(Seat.options(num_cpus=0).remote().add.remote(1)) == 2

    with pytest.raises(SimulationFailed, match=r"tasks: 2, deaths: 0\)"):
        program()
    (file,) = tmp_path.iterdir()
    assert read(file).cluster["nodes"] == 1


def test_shrinking_leaves_one_early_crash_of_one_node_of_two() -> None:
    """The failure: two nodes and more, and one of them crashes at step 37 or later, after a pause."""

    def fails(one: Failing) -> bool:
        return one.nodes > 1 and any(moment >= 37 for moment in one.faults.node_crashes) and any(one.choices)

    faults = Faults(node_crashes=(500, 700, 900), one_pause_in=50, one_long_in=5)
    smallest = shrink(Failing(faults, (0, 0, 3, 9), 4), fails, max_seconds=600.0)
    assert smallest.nodes == 2 and smallest.faults == Faults(node_crashes=(37,))
    assert sum(map(bool, smallest.choices)) == 1


def test_a_wait_without_an_end_keeps_its_nodes(tmp_path: Path) -> None:
    """Three that take a node each wait for ever when one has crashed; on two nodes they would without any fault."""

    @explore(folder=tmp_path, num_cpus=1, nodes=3, allow=(), faults=Faults(node_crashes=(1,)), shrink_seconds=3.0)
    def program() -> None:
        seats = [Seat.options(num_cpus=1).remote() for _ in range(3)]
        assert miniray.get([seat.add.remote(1) for seat in seats]) == [1, 1, 1]

    told = "nothing is left to happen, on 3 nodes of 1 CPU, 1 of them gone: no CPU is free for 1 that waits for one"
    with pytest.raises(SimulationFailed, match=told):
        program()
    (file,) = tmp_path.iterdir()
    assert read(file).cluster["nodes"] == 3


FEW = settings(max_examples=15, deadline=None, database=None, derandomize=True)


@FEW
@given(schedule=schedules(), faults=fault_schedules(max_node_crashes=2))
def test_hypothesis_draws_crashes_of_nodes(schedule: Any, faults: Faults) -> None:
    def program() -> int:
        seat = Seat.options(max_restarts=-1, max_task_retries=-1).remote()
        return len(miniray.get([work.options(max_retries=-1).remote(seat) for _ in range(4)]))

    assert simulate(program, choices=schedule, faults=faults, nodes=3).value == 4


class OnTwoNodes(SimulatedMachine):
    num_cpus = 1
    nodes = 2
    faults = "all"

    @initialize()
    def begin(self) -> None:
        self.seat, self.total = Seat.remote(), 0

    @rule()
    def add(self) -> None:
        self.total += 1
        assert miniray.get(work.remote(self.seat)) >= self.total


def test_a_state_machine_on_two_nodes() -> None:
    run_state_machine_as_test(OnTwoNodes, settings=FEW)


def test_a_state_machine_on_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnTwoNodes, "nodes", 0)
    with pytest.raises(ValueError, match="nodes must be"):
        run_state_machine_as_test(OnTwoNodes, settings=settings(FEW, max_examples=1, phases=[Phase.generate]))


def test_no_faults_strike_on_several_nodes_unless_asked_for() -> None:
    assert simulate(counts_once, seed=1, nodes=3).faults == NO_FAULTS
