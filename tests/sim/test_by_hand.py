"""The world by hand: what can happen is listed in one order, choices repeat, a crash loses what it is told to lose."""

from __future__ import annotations

import pytest

from miniray.core.ids import FunctionId, process_on, return_id, task_id
from miniray.core.machine import Awaited
from miniray.core.owner.events import RefsDropped, Submitted
from miniray.core.resources import demand
from miniray.core.task_spec import Inline, TaskOptions, TaskSpec
from miniray.testing.by_hand import DRIVER, NODE, Choice, World

WORKER = process_on(NODE, 2)
TASK = task_id(DRIVER, 1)
SPEC = TaskSpec(TASK, FunctionId(b""), b"", TaskOptions("f", demand({"CPU": 1})))


def with_task() -> World:
    world = World(cpus=2)
    world.settle()
    world.turn(DRIVER, Submitted(SPEC))
    world.turn(DRIVER, Awaited([return_id(TASK)]))
    return world


def test_a_task_comes_and_goes_and_nothing_is_left() -> None:
    world = with_task()
    world.settle()
    assert world.members[WORKER].running is not None
    world.finish(WORKER, Inline(b"1"))
    assert world.possible() == [("deliver", WORKER, DRIVER)]
    world.settle()
    world.turn(DRIVER, RefsDropped([return_id(TASK)]))
    assert world.leftovers() == {DRIVER: {"leases": 1}, NODE: {"granted": 1}}
    while (deadline := world.deadline()) is not None:
        world.advance(deadline - world.now)
        world.settle()
    assert world.leftovers() == {}


def test_the_same_choices_give_the_same_world() -> None:
    def played(choices: list[Choice]) -> World:
        world = with_task()
        for choice in choices:
            world.do(choice)
        return world

    done: list[Choice] = []
    world = with_task()
    while world.possible():
        done.append(world.possible()[-1])
        world.do(done[-1])
    assert len(done) >= 3
    assert played(done).fingerprint() == world.fingerprint()
    assert played(done[:-1]).fingerprint() != world.fingerprint()


def test_the_order_of_what_does_not_touch_does_not_matter() -> None:
    """The grant reaches the owner and the worker in either order: one state, met twice by an enumeration."""
    prints = []
    for order in (0, -1):
        world = with_task()
        world.do(world.possible()[0])  # the request
        grants = world.possible()
        assert grants == [("deliver", NODE, DRIVER), ("deliver", NODE, WORKER)]
        world.do(grants[order])
        remaining = grants[order + 1 if order == 0 else 0]
        world.do(remaining)
        prints.append(world.fingerprint())
    assert prints[0] == prints[1]


@pytest.mark.parametrize("keep", [0, 1])
def test_a_crash_keeps_as_many_frames_as_it_is_told(keep: int) -> None:
    world = with_task()
    world.settle()
    world.finish(WORKER, Inline(b"1"))
    world.crash(WORKER, keep=keep)
    world.settle()
    statistics = world.members[DRIVER].loop.statistics()
    assert (statistics["tasks"], statistics["values"]) == ((0, 1) if keep else (1, 0))
