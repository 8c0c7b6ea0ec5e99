"""Random programs under random faults: every get ends, every result is right, no invariant breaks, nothing is left."""

from __future__ import annotations

import pytest

from miniray.testing.checkers.spread import Tally
from miniray.testing.choices import SeededChoices
from miniray.testing.drawing import count_tasks, draw_program
from miniray.testing.seeds import FailedSeed, run_seed

LARGE_TASKS = 50
LARGE_SEEDS = 60


def test_seeds(seeds: range) -> None:
    failed = []
    for seed in seeds:
        try:
            run_seed(seed)
        except FailedSeed as error:
            failed.append(str(error))
    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)


def test_large_programs() -> None:
    """The whole of it: python -m miniray.testing 0 10000 --tasks 50 --jobs 2."""
    for seed in range(LARGE_SEEDS):
        run_seed(seed, tasks=LARGE_TASKS)


@pytest.mark.parametrize("seed", [8487, 8640])
def test_what_was_the_simulators_own_fault(seed: int) -> None:
    """A worker that stands still for ever owes nothing; a node that is cut off may be told twice to end."""
    run_seed(seed, tasks=LARGE_TASKS)


def test_a_large_program_is_as_large_as_was_asked() -> None:
    for seed in range(LARGE_SEEDS):
        assert count_tasks(draw_program(SeededChoices(seed), LARGE_TASKS)) >= LARGE_TASKS


def test_programs_run_on_one_to_three_nodes() -> None:
    assert {run_seed(seed).nodes for seed in range(20)} == {1, 2, 3}


def test_programs_use_the_nodes_that_they_have() -> None:
    tally = Tally()
    for seed in range(30):
        tally.count(run_seed(seed, nodes=3).spread)
    assert tally.sums["elsewhere"] * 3 > tally.sums["tasks"]
    assert tally.in_runs["copies"] > tally.runs // 2 and tally.in_runs["remakes"] > tally.runs // 10
