"""Bugs that seeds have found, each as the smallest program that shows it, under many schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import miniray
from miniray.errors import ActorDiedError, TaskCancelledError, TaskError
from miniray.testing.cluster import running
from miniray.testing.faults import Faults
from miniray.testing.remote_code import Counter, Phoenix, add, array_of, box_of, fail, rebox, sleep
from miniray.testing.seeds import FailedSeed, run_checked

SCHEDULES = 40
SLOW = Faults(one_long_in=5, one_slow_link_in=4)


def remote(function: Callable[..., Any], **options: Any) -> Any:
    return miniray.remote(**{"max_retries": -1, **options})(function)


def dies_once(key: str, *args: Any) -> int:
    """Its process ends in the middle of it, the first time."""
    children = [remote(slow_parent).remote(key) for _ in range(2)]
    sleep(0.002)
    if running[-1].note(key) == 1:
        running[-1].die()
    return sum(miniray.get(children))


def slow_parent(key: str) -> int:
    return sum(miniray.get([remote(add).remote(0.003, 1), remote(add).remote(0.0, 2)]))


def a_failed_call_leaves_its_queue() -> None:
    """It stayed at the head of its actor's queue for ever (60850)."""
    actor = miniray.remote(Counter).remote(0)
    first = actor.add.remote("me", 0, remote(fail).remote(0.01))
    second = actor.add.remote("me", 0, 5)
    assert miniray.get(second) == 5
    with pytest.raises(ValueError, match="planned"):
        miniray.get(first)


def calls_that_fail_together_leave_together() -> None:
    """The first one's leaving sent the second, whose other argument was freed with its failure."""
    actor = miniray.remote(Counter).remote(0)
    assert miniray.get(actor.add.remote("me", 0, 1)) == 1
    failing = remote(fail).remote(0.01)
    calls = [actor.add.remote(miniray.put("me"), 1 + index, failing) for index in range(3)]
    assert miniray.get(actor.add.remote("me", 1, 5)) == 6
    for call in calls:
        with pytest.raises(ValueError, match="planned"):
            miniray.get(call)


def a_cancelled_call_takes_those_that_need_it_along() -> None:
    """Those behind it were sent, and among them one that had failed with it in the same step."""
    actor = miniray.remote(Counter).remote(0)
    assert miniray.get(actor.add.remote("me", 0, 1)) == 1
    first = actor.add.remote("me", 1, remote(add).remote(5.0, 1))
    second = actor.add.remote(miniray.put("me"), 2, first)
    third = actor.add.remote("me", 1, 5)
    miniray.cancel(first)
    assert miniray.get(third) == 6
    for call in (first, second):
        with pytest.raises(TaskCancelledError):
            miniray.get(call)


def a_call_that_dies_with_its_actor_takes_those_that_need_it_along() -> None:
    """They were in its queue still, and waited for its next life though they had failed."""
    actor = miniray.remote(max_restarts=1)(Phoenix).remote(0)
    first = actor.add_and_die.remote("once", 0.0, "me", 0, 1)
    second = actor.add.remote("me", 1, first)
    for call in (first, second):
        with pytest.raises(ActorDiedError):
            miniray.get(call)


def a_call_that_waits_for_another_ends_with_its_actor() -> None:
    """Its actor's end failed the first, and so the second, which was then to fail once more."""
    actor = miniray.remote(Counter).remote(0)
    assert miniray.get(actor.add.remote("me", 0, 1)) == 1
    first = actor.add.remote("me", 1, remote(add).remote(0.5, 1))
    second = actor.add.remote("me", 2, first)
    miniray.kill(actor)
    running[-1].disturbed = True
    for call in (first, second):
        with pytest.raises(ActorDiedError):
            miniray.get(call)


def a_failed_argument_fails_though_it_is_also_inside() -> None:
    """Given twice, as an argument and inside one, its failure was pushed to a worker."""
    failed = remote(fail).remote(0.0)
    both = remote(add).remote(0.0, failed, [failed])
    with pytest.raises(TaskError, match="planned"):
        miniray.get(both)


def an_actor_killed_in_the_making_is_dead() -> None:
    """Its calls said that they were cancelled, and its creation stayed in a table."""
    actor = miniray.remote(Counter).remote(1)
    call = actor.add.remote("me", 0, 1)
    miniray.kill(actor)
    running[-1].disturbed = True
    with pytest.raises(ActorDiedError):
        miniray.get(call)


class Slow(Counter):
    def __init__(self) -> None:
        sleep(0.1)
        super().__init__(0)


def an_actor_killed_in_its_constructor_is_dead() -> None:
    """Nobody held it when its creation was answered, and that was never concluded."""
    actor = miniray.remote(Slow).remote()
    call = actor.add.remote("me", 0, 1)
    sleep(0.06)
    miniray.kill(actor)
    running[-1].disturbed = True
    with pytest.raises(ActorDiedError):
        miniray.get(call)


def an_actor_lets_go_of_what_keeps_its_process() -> None:
    """It kept a box of refs that its own process owns, and each waited for the other to end."""
    box = remote(box_of).remote(True, 1, 2)
    miniray.wait([box])
    actor = miniray.remote(Counter).remote(0)
    miniray.get(actor.keep.remote("key", [box]))


def a_worker_does_not_wait_for_itself() -> None:
    """A lease was granted on a worker to itself: it still ran a task of a dead owner, which waited for that lease."""
    assert miniray.get(remote(dies_once).remote("once")) == 6


def a_result_of_the_dead_is_freed() -> None:
    """A large result that was ready after its owner's burial stayed in the store."""
    assert miniray.get(remote(large_dies_once).remote("once")) == 7


def large_dies_once(key: str) -> int:
    child = remote(stubborn).remote()
    sleep(0.02)
    if running[-1].note(key) == 1:
        running[-1].die()
    return miniray.get(remote(add).remote(0.0, child))


def stubborn() -> Any:
    """Does not end when it is cancelled."""
    try:
        sleep(0.6)
    except KeyboardInterrupt:
        sleep(0.6)
    return array_of(7)


def a_grant_of_the_lost_is_asked_again() -> None:
    """The link to a worker broke before its grant arrived: what was pushed there was never answered."""
    refs = [remote(dies_early).remote(f"{index}") for index in range(6)]
    assert miniray.get(refs) == list(range(6))


def dies_early(key: str) -> int:
    if running[-1].note(key) == 1:
        running[-1].die()
    return int(key)


def refs_go_in_a_circle() -> None:
    """Third parties hand on what the driver has let go."""
    ref = miniray.put(3)
    box = remote(rebox).remote([ref])
    del ref
    again = remote(rebox).remote([box])
    del box
    (inner,) = miniray.get(again)
    del again
    assert miniray.get(miniray.get(inner)[0]) == 3


PROGRAMS = [
    a_failed_call_leaves_its_queue,
    calls_that_fail_together_leave_together,
    a_cancelled_call_takes_those_that_need_it_along,
    a_call_that_dies_with_its_actor_takes_those_that_need_it_along,
    a_call_that_waits_for_another_ends_with_its_actor,
    a_failed_argument_fails_though_it_is_also_inside,
    an_actor_killed_in_the_making_is_dead,
    an_actor_killed_in_its_constructor_is_dead,
    an_actor_lets_go_of_what_keeps_its_process,
    a_worker_does_not_wait_for_itself,
    a_result_of_the_dead_is_freed,
    a_grant_of_the_lost_is_asked_again,
    refs_go_in_a_circle,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_found(program: Callable[[], None]) -> None:
    for seed in range(SCHEDULES):
        run_checked(program, seed, num_cpus=1 + seed % 2, faults=SLOW)


class Selfish:
    def ask(self, me: Any) -> int:
        result: int = miniray.get(me.answer.remote())
        return result

    def answer(self) -> int:
        return 1


def test_a_wait_without_an_end_is_told() -> None:
    def program() -> None:
        actor = miniray.remote(Selfish).remote()
        miniray.get(actor.ask.remote(actor))

    with pytest.raises(FailedSeed, match="the program waits, and nothing is left to happen"):
        run_checked(program, 0)


def test_what_is_left_is_told() -> None:
    kept: list[Any] = []

    with pytest.raises(FailedSeed, match="left at quiescence"):
        run_checked(lambda: kept.append(miniray.put(1)), 0)
