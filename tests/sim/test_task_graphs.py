"""Graphs of tasks, as drawn, give in a simulated cluster what their oracle says; the smallest is one task."""

from __future__ import annotations

from hypothesis import find, given, settings

from miniray.testing import DrawnChoices, Faults, fault_schedules, schedules, simulate, task_graphs
from miniray.testing.graphs import GraphStep, TaskGraph


@settings(max_examples=30, deadline=None)
@given(graph=task_graphs(), schedule=schedules(), faults=fault_schedules(max_crashes=0))
def test_they_give_what_is_expected(graph: TaskGraph, schedule: DrawnChoices, faults: Faults) -> None:
    assert simulate(graph.run, choices=schedule, faults=faults).value == graph.expected()


def test_the_oracle_tells_orders_and_children_apart() -> None:
    two = GraphStep(), GraphStep()
    last = [GraphStep((0, 1)), GraphStep((1, 0)), GraphStep((0, 1), (), 2), GraphStep((0, 0))]
    assert len({TaskGraph((*two, step)).expected()[-1] for step in last}) == len(last)


def test_they_shrink_to_one_task() -> None:
    assert find(task_graphs(), lambda graph: True) == TaskGraph((GraphStep(),))


def test_they_shrink_to_what_matters() -> None:
    assert find(task_graphs(), lambda graph: any(s.nested for s in graph.steps)).steps[1:] == (GraphStep((), (0,)),)
