"""A process dies between two effects of one step: what was performed stands, the rest never happens."""

from __future__ import annotations

from typing import Any

import pytest

import miniray
from miniray.testing import simulate
from miniray.testing.cluster import running
from miniray.testing.faults import Crash, CrashMode, Faults
from miniray.testing.remote_code import add, array_of, box_of
from miniray.testing.seeds import run_checked

MOMENTS = range(40)


def refs_and_places() -> None:
    """Results with refs and places inside, of tasks that have tasks of their own."""
    boxes = [miniray.remote(max_retries=-1)(box_of).remote(True, 1, 2) for _ in range(2)]
    total = miniray.remote(max_retries=-1)(add).remote(0.001, *boxes)
    nested = miniray.remote(max_retries=-1)(opens).remote([boxes[0]])
    for wanted, right in ((total, 6), (nested, 3)):
        try:
            assert miniray.get(wanted) == right
        except miniray.errors.ObjectLostError:
            assert running[-1].disturbed, "a box's owner has died"


def opens(box: list[Any]) -> Any:
    return miniray.get(miniray.remote(max_retries=-1)(add).remote(0.0, *miniray.get(box[0]))) + array_of(0)[0]


def test_every_half_step_of_a_worker_leaves_nothing_behind() -> None:
    struck = 0
    for after in MOMENTS:
        for seed in range(2):
            struck += run_checked(refs_and_places, seed, faults=Faults((Crash(after, CrashMode.MID_STEP),))).deaths
    assert struck > len(MOMENTS), "the crash is to come while the program runs"


def test_what_is_told_of_the_step_is_what_was_done() -> None:
    """The run is the same up to its last step, of which some effects are missing."""
    whole = {step.number: step for step in simulate(refs_and_places, seed=1, record=True).trace}
    cut = 0
    for after in MOMENTS:
        faults = Faults((Crash(after, CrashMode.MID_STEP),))
        steps = simulate(refs_and_places, seed=1, faults=faults, record=True).trace
        died = next((step for step in steps if step.event["kind"] == "Crashed"), None)
        if died is not None:
            assert died.event["why"] == "fault mid-step"
            half = [step for step in steps if step.process == died.process and step.number < died.number][-1]
            right = whole[half.number]
            assert half.event == right.event and half.effects == right.effects[: len(half.effects)] != []
            cut += len(half.effects) < len(right.effects)
    assert cut, "no step had more than one effect"


@pytest.mark.parametrize("seed", range(3))
def test_one_seed_is_one_run(seed: int) -> None:
    faults = Faults((Crash(20 + seed, CrashMode.MID_STEP),), one_long_in=5)
    assert run_checked(refs_and_places, seed, faults=faults) == run_checked(refs_and_places, seed, faults=faults)
