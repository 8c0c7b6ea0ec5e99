"""Small programs, as those of `small_programs.py`, in which something runs a second time.

A call in its actor's next life; a task whose value was lost with its node. What has had its outcome, and what may be
started once only, must not.
"""

from __future__ import annotations

from typing import Any

from scripted_machines import Home, Linked, Script, ref_of

from miniray.core.failures import FailureKind
from miniray.core.ids import ObjectId, node_of, show
from miniray.testing.by_hand import CONTROL, NODE


def calls_against_restart(world: Linked) -> None:
    """Two calls to an actor that dies once and has a restart left. The first may be made again; the second may not, and
    starts at most once: it fails if it was under way, and runs in the next life if it was not."""
    a, home_a = world.actor(1, restarts=1)
    driver = world.driver
    again, once = ref_of(driver, 2), ref_of(driver, 3)
    started: list[tuple[Home, ObjectId]] = []

    def calls() -> Script:
        yield None
        driver.submit(2, actor=a, method="m", retries=1)
        yield None
        driver.submit(3, actor=a, method="m")
        driver.wait(again, once)
        yield driver.has(again, once)
        world.told["calls"] = driver.value(again), driver.value(once)
        driver.woke()
        driver.drop(again, once)

    def runs(home: Home, ref: ObjectId) -> Script:
        yield home.runs(ref)
        started.append((home, ref))
        mine = [one for where, one in started if where is home]
        assert mine == sorted(mine), "calls have started in another order than that of their making"
        yield None
        home.finish(ref)

    def dies() -> Script:
        yield None
        home_a.die()

    def joins(home: Home) -> None:
        for ref in (a, again, once):
            home.script(f"perhaps runs {show(ref)}", runs(home, ref))

    world.workers(joins)
    driver.script("calls", calls())
    home_a.script("perhaps dies", dies())
    world.expect(lambda: world.told["calls"][0] == "value")
    world.expect(lambda: world.told["calls"][1] in ("value", FailureKind.ACTOR_DIED))
    world.expect(lambda: [ref for _, ref in started].count(once) <= 1)
    world.expect(lambda: [ref for _, ref in started].count(a) <= 1)  # the first life had begun before


def made_again_for_all(world: Linked) -> None:
    """x, and y that was made of it, are lost with their node. The driver wants y; A, which holds x, asks for it, so a
    copy is to be made. Each hears of the node's death at any time. Both are made again, once each, x first."""
    driver, hand = world.driver, world.world
    a, home_a = world.actor(1)

    def submits(number: int, **spec: Any) -> ObjectId:
        made: ObjectId = world.does(driver, lambda: driver.submit(number, **spec))
        world.does(driver, lambda: driver.wait(made))
        return made

    busy = submits(2)
    near = world.where(busy)
    x = submits(3, retries=1)
    far = world.where(x)
    world.does(far, lambda: far.finish_stored(x))
    y = submits(4, retries=1, slots=(x,))
    world.does(far, lambda: far.finish_stored(y))
    call = submits(5, actor=a, method="m", refs=(x,))
    world.does(home_a, lambda: (home_a.hold(x), home_a.finish(call)))
    world.does(near, lambda: near.finish(busy))
    world.does(driver, lambda: (driver.woke(), driver.drop(busy, call)))
    world.does(far, lambda: hand.crash(node_of(far.me)))
    hand.advance(0.5)  # declared dead
    hand.deliver(CONTROL, NODE)
    hand.deliver(NODE, near.me)
    hand.deliver(near.me, NODE)
    started: list[ObjectId] = []

    def waits() -> Script:
        yield lambda: driver.value(y) == "value"
        world.told["y"] = driver.value(y)
        driver.drop(x, y)

    def reads() -> Script:
        yield None
        home_a.wait(x)
        yield home_a.has(x)
        world.told["x"] = home_a.value(x)
        home_a.woke()
        home_a.drop(x)

    def runs(home: Home, ref: ObjectId) -> Script:
        while True:
            yield home.runs(ref)
            started.append(ref)
            yield None
            home.finish(ref)

    def joins(home: Home) -> None:
        for ref in (x, y):
            home.script(f"perhaps runs {show(ref)}", runs(home, ref))

    world.workers(joins)
    driver.script("waits", waits())
    home_a.script("reads", reads())
    world.expect(lambda: (world.told["x"], world.told["y"]) == ("value", "value"))
    world.expect(lambda: started == [x, y])
