"""A thread that is interrupted within the runtime: by a signal, or by a finaliser that comes back into it.

Interleavings as in `test_driving.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from miniray._runtime.driving import ReentrantWaitError
from miniray._runtime.signals import unbroken_code
from miniray._runtime.waiters import Waiter
from tests.runtime.driven_world import SIGNAL, THOROUGH, World, parks_at_once
from tests.runtime.interleavings import FakeLock, StuckError


# ---- signals


def test_a_signal_comes_at_any_moment(tried: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the wait, whoever drives; the token stays usable, and the other waiter gets what it waits for."""
    parks_at_once(monkeypatch)

    def scenario(world: World) -> None:
        other = Waiter()

        def waits() -> None:
            with pytest.raises(KeyboardInterrupt):
                world.driving.wait(Waiter())
                raise AssertionError("the signal was lost")
            world.check_released()
            world.arrive(other.notify)

        main = world.thread("main", waits)
        world.thread("other", lambda: world.driving.wait(other))
        world.thread("kernel", lambda: world.scheduler.point("signal"), lambda: main.signals.append(SIGNAL))

    tried(scenario, 1 + THOROUGH)


def test_a_signal_wakes_the_main_thread_from_sleep(tried: Callable[..., int]) -> None:
    """Also when another thread that slept has left meanwhile."""

    def scenario(world: World) -> None:
        other = Waiter()

        def waits() -> None:
            with pytest.raises(KeyboardInterrupt):
                world.driving.wait(Waiter())
            world.arrive(other.notify)

        def drives() -> bool:
            return world.poller is not None

        main = world.thread("main", world.until(drives), waits)
        world.thread("drives", lambda: world.driving.wait(other))
        late = world.thread("is late", world.until(drives), lambda: world.driving.wait(Waiter(), 0.001))
        world.thread("kernel", lambda: late.join(), lambda: main.signals.append(SIGNAL))

    tried(scenario, 1)


def test_a_signal_comes_during_posts(tried: Callable[..., int]) -> None:
    def scenario(world: World) -> None:
        def posts() -> None:
            try:
                for name in "abc":
                    world.driving.post(world.step(name))  # type: ignore[arg-type]
                world.until(lambda: not main.signals and not kernel.is_alive())()
            except KeyboardInterrupt:
                pass
            world.check_released()
            assert world.stepped == list("abc")[: len(world.stepped)]

        main = world.thread("main", posts)
        kernel = world.thread("kernel", lambda: main.signals.append(SIGNAL))

    tried(scenario, 2 + THOROUGH)


def test_a_signal_in_a_finaliser_is_sent_again(tried: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it struck in what the finaliser calls, and when the background thread is parked."""
    parks_at_once(monkeypatch)
    monkeypatch.setitem(unbroken_code, World.drop.__code__, None)

    def scenario(world: World) -> None:
        waiter = Waiter()

        def drops() -> None:
            try:
                world.until(world.is_parked)()
                try:
                    world.drop(world.step("dropped"))
                except KeyboardInterrupt as error:
                    trace = error.__traceback__
                    while trace is not None:
                        assert trace.tb_frame.f_code is not World.drop.__code__, "raised in a finaliser"
                        trace = trace.tb_next
                    raise
                world.until(lambda: False)()
            except KeyboardInterrupt:
                world.arrive(waiter.notify)

        main = world.thread("main", drops)
        world.thread("drives", lambda: world.driving.wait(waiter))
        world.thread("kernel", world.until(world.is_parked), lambda: main.signals.append(SIGNAL))
        world.driving.start()

    tried(scenario, 1 + THOROUGH)


# ---- the same thread again


@pytest.mark.parametrize("place", ["turn", "flush", "locked", "collect"])
def test_what_a_finaliser_posts_is_deferred_and_stepped(tried: Callable[..., int], place: str) -> None:
    def scenario(world: World) -> None:
        driving = world.driving

        def finaliser() -> None:
            driving.post(world.step("finaliser"))  # type: ignore[arg-type]
            assert not (driving._is_owned() and world.is_stepped("finaliser")()), "stepped within another turn"

        def flush() -> None:
            world.outboxes = ()
            finaliser()

        def posts() -> None:
            if place == "locked":
                driving.locked(finaliser)
            elif place == "flush":
                world.outboxes, world.flush = (1,), flush
                driving.post()
            elif place == "collect":
                world.left.append(finaliser)
                driving.post()
            else:
                driving.post(finaliser)  # type: ignore[arg-type]
            world.until(world.is_stepped("finaliser"))()

        world.thread("main", posts)
        world.thread("other", lambda: driving.post(world.step("other")))  # type: ignore[arg-type]

    tried(scenario)


def test_a_blocking_call_from_within_raises(tried: Callable[..., int]) -> None:
    """In a turn, and in `poll`: there the state lock is free, but the token is this very thread's."""

    def scenario(world: World) -> None:
        waiter = Waiter()

        def blocks() -> None:
            with pytest.raises(ReentrantWaitError):
                world.driving.wait(Waiter())

        world.on_signal = lambda number, frame: blocks()  # type: ignore[method-assign]
        world.scheduler.handler = world.on_signal
        main = world.thread("main", lambda: world.driving.post(blocks), lambda: world.driving.wait(waiter))  # type: ignore[arg-type]
        world.thread(
            "kernel",
            world.until(lambda: world.poller is main),
            lambda: main.signals.append(SIGNAL),
            lambda: world.arrive(waiter.notify),
        )

    tried(scenario)


# ---- the instrument itself


def test_a_lost_wake_up_is_found(tried: Callable[..., int]) -> None:
    def scenario(world: World) -> None:
        flag: list[int] = []
        lock = FakeLock(world.scheduler)
        lock._held = True

        def sleeps() -> None:
            world.scheduler.point("looks")
            if not flag:
                lock.acquire()  # the other has looked for a sleeper before

        def wakes() -> None:
            if lock._held and world.scheduler.tasks[0].can_run is not None:
                lock.release()
            flag.append(1)

        world.thread("sleeps", sleeps)
        world.thread("wakes", wakes)

    with pytest.raises(StuckError, match="sleeps without end"):
        tried(scenario)
