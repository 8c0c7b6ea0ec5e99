"""Which thread drives: every interleaving of a few threads, over fake locks, a fake poller and a virtual clock.

Each scenario ends when all of its threads have. One that sleeps without end while there is work for it, two threads
in `poll`, or two in a turn fail, with the schedule and what each thread did. `CI=true` allows a deviation more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from miniray._runtime.waiters import OneWaiter, Waiter, Waiters
from tests.runtime.driven_world import THOROUGH, World, parks_at_once


# ---- waits


def test_two_waiters_and_the_background_thread(tried: Callable[..., int]) -> None:
    def scenario(world: World) -> None:
        one, two = Waiter(), Waiter()
        world.thread("one", lambda: world.driving.wait(one))
        world.thread("two", lambda: world.driving.wait(two))
        world.thread("network", lambda: world.arrive(two.notify), lambda: world.arrive(one.notify))
        world.driving.start()

    assert tried(scenario, 1 + THOROUGH) > 100


def test_waiters_for_one_object_each(tried: Callable[..., int]) -> None:
    def scenario(world: World) -> None:
        values: dict[Any, int] = {}
        waiters = Waiters(values)

        def arrived(name: Any) -> Callable[[], None]:
            return lambda: (values.update({name: 1}), waiters.ready([name]))[1]  # type: ignore[func-returns-value]

        for name in (b"x", b"y"):
            world.thread(repr(name), lambda name=name: world.driving.wait(OneWaiter(waiters, name)))  # type: ignore[misc]
        world.thread("network", lambda: world.arrive(arrived(b"x")), lambda: world.arrive(arrived(b"y")))

    tried(scenario, 1 + THOROUGH)


def test_a_post_makes_the_waiter_ready_that_drives(tried: Callable[..., int]) -> None:
    """A cancel, say: nothing arrives, so the driving thread has to be roused."""

    def scenario(world: World) -> None:
        waiter = Waiter()
        world.thread("waits", lambda: world.driving.wait(waiter))
        world.thread("posts", lambda: world.driving.post(waiter.notify))  # type: ignore[arg-type]

    tried(scenario, 2 + THOROUGH)


def test_a_post_leaves_work_to_the_waiter_that_drives(tried: Callable[..., int]) -> None:
    def scenario(world: World) -> None:
        waiter = Waiter()
        world.thread("waits", lambda: world.driving.wait(waiter))
        world.thread(
            "posts",
            lambda: world.driving.post(world.leave_work),  # type: ignore[arg-type]
            world.until(lambda: world.ticked),
            lambda: world.arrive(waiter.notify),
        )

    tried(scenario, 2 + THOROUGH)


def test_timeout_while_the_token_is_handed_over(tried: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was woken for the token and did not take it wakes the next, or the parked background thread."""
    parks_at_once(monkeypatch)

    def scenario(world: World) -> None:
        one = Waiter()
        world.thread("drives", lambda: world.driving.wait(one))
        world.thread("is late", lambda: world.driving.wait(Waiter(), 0.01))
        world.thread(
            "network",
            world.until(world.is_parked),
            lambda: world.arrive(one.notify),
            world.until(lambda: one.is_ready),
            lambda: world.arrive(world.step("later")),
            world.until(world.is_stepped("later")),
        )
        world.driving.start()

    tried(scenario, 1)


def test_two_waiters_of_which_one_is_late(tried: Callable[..., int]) -> None:
    def scenario(world: World) -> None:
        one, two = Waiter(), Waiter()
        world.thread("one", lambda: world.driving.wait(one))
        world.thread("two", lambda: world.driving.wait(two))
        world.thread("is late", lambda: world.driving.wait(Waiter(), 0.001))
        world.thread("network", lambda: world.arrive(one.notify), lambda: world.arrive(two.notify))

    tried(scenario, 1)


# ---- the background thread


def test_work_is_left_behind_while_the_background_thread_falls_asleep(tried: Callable[..., int]) -> None:
    def scenario(world: World) -> None:
        world.thread(
            "posts",
            lambda: world.driving.post(world.leave_work),  # type: ignore[arg-type]
            world.until(lambda: world.ticked),
            lambda: world.drop(world.step("dropped")),
            world.until(world.is_stepped("dropped")),
        )
        world.driving.start()

    tried(scenario, 2 + THOROUGH)


def test_a_waiter_takes_the_token_from_the_background_thread(tried: Callable[..., int]) -> None:
    """At once, not when something arrives for which a handoff would then be needed."""

    def scenario(world: World) -> None:
        waiter = Waiter()
        waits = world.thread("waits", world.until(lambda: world.poller is not None), lambda: world.driving.wait(waiter))
        world.thread("network", world.until(lambda: world.poller is waits), lambda: world.arrive(waiter.notify))
        world.driving.start()

    tried(scenario, 1 + THOROUGH)


def test_parking_while_the_token_is_released(tried: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    parks_at_once(monkeypatch)

    def scenario(world: World) -> None:
        waiter = Waiter()
        world.thread("waits", lambda: world.driving.wait(waiter), lambda: world.arrive(world.step("later")))
        world.thread("observer", world.until(world.is_stepped("later")))
        is_about_to = world.until(lambda: world.scheduler.now > 0)
        world.thread("network", is_about_to, lambda: world.arrive(waiter.notify))
        world.driving.start()

    tried(scenario, 1 + THOROUGH)


def test_stop_ends_everything(tried: Callable[..., int]) -> None:
    def scenario(world: World) -> None:
        world.thread("stops", lambda: world.driving.stop(), lambda: world.check_released())
        world.thread("one", lambda: world.driving.wait(Waiter()))
        world.thread("two", lambda: world.driving.wait(Waiter()))
        world.driving.start()

    tried(scenario, 1 + THOROUGH)
