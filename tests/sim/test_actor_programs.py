"""Programs of actors, as drawn, give in a simulated cluster what their oracle says; `allows` tells right from wrong."""

from __future__ import annotations

import pytest
from hypothesis import find, given, settings

from miniray.testing import DrawnChoices, Faults, actor_programs, fault_schedules, schedules, simulate
from miniray.testing.strategies import _actor_program
from miniray.testing.tallies import DIED, NONE, NOTHING_KEPT, ActorProgram, ActorStep, Do, Outcome
from miniray.testing.graphs import PLANNED

CREATE = ActorStep(Do.CREATE)


@settings(max_examples=25, deadline=None)
@given(program=actor_programs(), schedule=schedules(), faults=fault_schedules(max_crashes=0))
def test_they_give_what_is_expected(program: ActorProgram, schedule: DrawnChoices, faults: Faults) -> None:
    assert simulate(program.run, choices=schedule, faults=faults).value == program.expected()


@settings(max_examples=25, deadline=None)
@given(program=actor_programs(), schedule=schedules(), faults=fault_schedules())
def test_when_processes_die_they_give_what_may_be(
    program: ActorProgram, schedule: DrawnChoices, faults: Faults
) -> None:
    done = simulate(program.run, choices=schedule, faults=faults)
    assert done.value == program.expected() or (done.statistics.deaths and program.allows(done.value))


EVERYTHING = ActorProgram(
    (
        CREATE,
        CREATE,
        ActorStep(Do.RELAY, 1, 1),
        ActorStep(Do.GIVE, 1, 0, 0),
        ActorStep(Do.RELAY, 1, 2),
        ActorStep(Do.FAIL, 0, 4),
        ActorStep(Do.TASK, 0, 8),
        ActorStep(Do.DROP, 0),
        ActorStep(Do.RELAY, 1, 16),
        ActorStep(Do.KILL, 1),
        ActorStep(Do.RELAY, 1, 32),
    )
)  # fmt: skip
TOLD: list[Outcome] = [
    NONE, NONE, NOTHING_KEPT, NONE, ("value", 2), PLANNED, ("value", 14), NONE, ("value", 30), NONE, DIED,
]  # fmt: skip


def test_what_each_step_does() -> None:
    assert EVERYTHING.expected() == TOLD
    for seed in range(20):
        assert simulate(EVERYTHING.run, seed=seed, faults="delays").value == TOLD


@pytest.mark.parametrize(
    ("steps", "outcomes", "allowed"),
    [
        ([(Do.CALL, 1), (Do.CALL, 2)], [("value", 1), DIED], True),
        ([(Do.CALL, 1), (Do.CALL, 2)], [DIED, ("value", 3)], False),  # an actor that has died answers nothing
        ([(Do.CALL, 1), (Do.CALL, 2)], [("value", 1), ("value", 2)], False),
        ([(Do.CALL, 1), (Do.FAIL, 2)], [("value", 1), ("value", 3)], False),
        ([(Do.TASK, 1), (Do.CALL, 2)], [("value", 1), ("value", 4)], True),  # the task has run twice
        ([(Do.TASK, 1), (Do.CALL, 2)], [("error", "WorkerCrashedError"), ("value", 2)], True),
        ([(Do.TASK, 1), (Do.FAIL, 2)], [("value", 1), ("error", "KeyError: 1")], False),
    ],
)
def test_what_may_be(steps: list[tuple[Do, int]], outcomes: list[Outcome], allowed: bool) -> None:
    program = ActorProgram((CREATE, *(ActorStep(do, 0, amount) for do, amount in steps)))
    assert program.allows([NONE, *outcomes]) is allowed


def test_a_step_left_out_leaves_the_others_what_they_are() -> None:
    """Else shrinking would have to change two at once, and ends before that."""
    steps = [(Do.CREATE, 0), (Do.CREATE, 0), (Do.DROP, 0), (Do.KILL, 1), (Do.CALL, 1)]
    for left_out in (2, 0):
        del steps[left_out]
        assert _actor_program([(do, which, 0, 0) for do, which in steps]).expected()[-1] == DIED


def test_they_shrink_to_what_matters() -> None:
    assert find(actor_programs(), lambda program: True) == ActorProgram((CREATE,))
    killed = find(actor_programs(), lambda program: DIED in program.expected())
    assert killed.steps == (CREATE, ActorStep(Do.KILL), ActorStep(Do.CALL))
    relayed = find(actor_programs(), lambda program: any(s.do is Do.RELAY and s.amount == 7 for s in program.steps))
    assert relayed.steps == (CREATE, ActorStep(Do.RELAY, 0, 7))
