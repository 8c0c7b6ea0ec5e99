"""Graphs of tasks, as drawn, give in a simulated cluster what their oracle says; the smallest is one task."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import find, given, settings

from miniray.testing import DrawnChoices, Faults, fault_schedules, schedules, simulate, task_graphs
from miniray.testing.graphs import PLANNED, GraphStep, TaskGraph


@settings(max_examples=20, deadline=None)
@given(graph=task_graphs(), schedule=schedules(), faults=fault_schedules(max_crashes=0))
def test_they_give_what_is_expected(graph: TaskGraph, schedule: DrawnChoices, faults: Faults) -> None:
    assert simulate(graph.run, choices=schedule, faults=faults).value == graph.expected()


@settings(max_examples=20, deadline=None)
@given(graph=task_graphs(), schedule=schedules(), faults=fault_schedules(max_crashes=3))
def test_they_give_it_when_workers_die_less_often_than_tasks_are_retried(
    graph: TaskGraph, schedule: DrawnChoices, faults: Faults
) -> None:
    assert simulate(graph.run, choices=schedule, faults=faults).value == graph.expected()


def test_a_step_that_raises_fails_those_that_take_its_result() -> None:
    steps = GraphStep(fails=True), GraphStep((0,)), GraphStep((), (1,)), GraphStep(), GraphStep((1, 0), (2,), 1, True)
    graph = TaskGraph(steps)
    assert graph.expected() == [PLANNED, PLANNED, PLANNED, ("value", 3), PLANNED]
    assert simulate(graph.run).value == graph.expected()


def test_with_a_function_of_ones_own() -> None:
    def most(place: int, taken: Sequence[int]) -> int:
        return max([10 * place, *taken])

    graph = TaskGraph((GraphStep(), GraphStep(children=2), GraphStep((0, 1)), GraphStep((0,), (2,))))
    assert graph.expected(most) == [("value", 0), ("value", 10), ("value", 20), ("value", 30)]
    assert simulate(lambda: graph.run(most)).value == graph.expected(most)


def test_the_oracle_tells_orders_and_children_apart() -> None:
    two = GraphStep(), GraphStep()
    last = [GraphStep((0, 1)), GraphStep((1, 0)), GraphStep((0, 1), (), 2), GraphStep((0, 0))]
    assert len({TaskGraph((*two, step)).expected()[-1] for step in last}) == len(last)


def test_they_shrink_to_one_task() -> None:
    assert find(task_graphs(), lambda graph: True) == TaskGraph((GraphStep(),))


def test_they_shrink_to_what_matters() -> None:
    assert find(task_graphs(), lambda graph: any(s.nested for s in graph.steps)).steps[1:] == (GraphStep((), (0,)),)
    assert find(task_graphs(), lambda graph: PLANNED in graph.expected()) == TaskGraph((GraphStep(fails=True),))
