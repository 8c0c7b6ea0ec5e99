"""Small programs of which every interleaving is run (`test_exhaustive.py`).

Each is a setup for a `Linked` world: it makes what the program needs, with everything delivered at once, and leaves
scripts. Only what these do is interleaved: a script goes on, at any time when its condition holds, to its next `yield`.
What it asserts holds in every interleaving; what it keeps in `world.told` is looked at when nothing can move any more.
A script whose name begins with "perhaps" may be left waiting, when somebody dies. Then all is let go, time passes, and
nothing may be left in any table of a living process.
"""

from __future__ import annotations

from scripted_machines import Home, Linked, Script, ref_of

from miniray.core.failures import FailureKind
from miniray.core.ids import ObjectId, show
from miniray.core.owner.events import CancelRequested, KillRequested


def acquainted(world: Linked) -> tuple[ObjectId, Home, ObjectId, Home]:
    """Two actors, A and B; A has a handle of B and has called it."""
    b, home_b = world.actor(1)
    a, home_a = world.actor(2)
    first = world.does(world.driver, lambda: world.driver.submit(3, actor=a, method="m", refs=(b,)))
    world.does(home_a, lambda: (home_a.hold(b), home_a.finish(first)))
    warm = world.does(home_a, lambda: home_a.submit(1, actor=b, method="m"))
    world.does(home_b, lambda: home_b.finish(warm))
    world.does(home_a, lambda: home_a.drop(warm))
    world.does(world.driver, lambda: world.driver.drop(first))
    return a, home_a, b, home_b


def reads(world: Linked, home: Home, call: ObjectId, x: ObjectId) -> Script:
    """A call that keeps x beyond its end, reads it, lets it go."""
    yield home.runs(call)
    home.hold(x)
    home.finish(call)
    home.wait(x)
    yield home.has(x)
    world.told["x"] = home.value(x)
    home.woke()
    home.drop(x)


def given_away(world: Linked, a: ObjectId, home_a: Home) -> ObjectId:
    """A value of the driver's, which A alone still holds."""
    driver = world.driver
    x = world.does(driver, lambda: driver.put(4))
    call = world.does(driver, lambda: driver.submit(5, actor=a, method="m", refs=(x,)))
    world.does(home_a, lambda: (home_a.hold(x), home_a.finish(call)))
    world.does(driver, lambda: driver.drop(x, call))
    return x


# ---- hand-offs ------------------------------------------------------------------------------------------


def passed_on_twice(world: Linked) -> None:
    """The driver gives x to A and drops it; A passes it on to B and drops it; B reads it and drops it."""
    a, home_a, b, home_b = acquainted(world)
    driver = world.driver
    x = world.does(driver, lambda: driver.put(4))

    def gives() -> Script:
        call = driver.submit(5, actor=a, method="m", refs=(x,))
        yield None
        driver.drop(x)
        yield driver.has(call)
        driver.drop(call)

    def passes(call: ObjectId) -> Script:
        yield home_a.runs(call)
        home_a.hold(x)
        onward = home_a.submit(2, actor=b, method="m", refs=(x,))
        home_a.finish(call)
        yield None
        home_a.drop(x, onward)

    driver.script("gives", gives())
    home_a.script("passes", passes(ref_of(driver, 5)))
    home_b.script("reads", reads(world, home_b, ref_of(home_a, 2), x))
    world.expect(lambda: world.told["x"] == "value")


def sender_dies(world: Linked, *, frames: int | None = None) -> None:
    """A passes x, which the driver has dropped, to B, and dies: at any time then, or so that only `frames` of what
    is under way on each of its links arrive."""
    a, home_a, b, home_b = acquainted(world)
    x = given_away(world, a, home_a)

    def passes() -> Script:
        yield None
        home_a.submit(2, actor=b, method="m", refs=(x,))
        home_a.drop(x)
        if frames is None:
            yield None
        home_a.die(frames)

    home_a.script("passes", passes(), local=frames is None)
    home_b.script("perhaps reads", reads(world, home_b, ref_of(home_a, 2), x))
    world.expect(lambda: world.told.get("x") in ("value", FailureKind.OBJECT_LOST, None))
    world.expect(lambda: frames == 0 or "x" in world.told)  # the call had been sent: it is heard of


def received_twice(world: Linked) -> None:
    """A gives x to B twice; B drops it in between: an old confirmation must not confirm the new receipt."""
    a, home_a, b, home_b = acquainted(world)
    x = given_away(world, a, home_a)

    def gives() -> Script:
        first = home_a.submit(2, actor=b, method="m", refs=(x,))
        second = home_a.submit(3, actor=b, method="m", refs=(x,))
        home_a.drop(x, first, second)
        yield None

    def takes() -> Script:
        yield home_b.runs(ref_of(home_a, 2))
        home_b.finish(ref_of(home_a, 2))
        yield home_b.runs(ref_of(home_a, 3))
        home_b.hold(x)
        home_b.finish(ref_of(home_a, 3))
        home_b.wait(x)
        yield home_b.has(x)
        world.told["x"] = home_b.value(x)
        home_b.woke()
        home_b.drop(x)

    home_a.script("gives", gives())
    home_b.script("takes", takes())
    world.expect(lambda: world.told["x"] == "value")


def returned_inside(world: Linked) -> None:
    """B returns a ref of its own to A, drops it; A reads it and lets go, while the driver's handle of B goes."""
    _, home_a, b, home_b = acquainted(world)
    call = ref_of(home_a, 2)

    def asks() -> Script:
        home_a.submit(2, actor=b, method="m")
        home_a.wait(call)
        yield home_a.has(call)
        inner = ref_of(home_b, 1)
        home_a.woke()
        home_a.hold(inner)
        home_a.drop(call)
        home_a.wait(inner)
        yield home_a.has(inner)
        world.told["inner"] = home_a.value(inner)
        home_a.woke()
        home_a.drop(inner, b)

    def answers() -> Script:
        yield home_b.runs(call)
        inner = home_b.put(1)
        home_b.finish(call, contains=(inner,))
        home_b.drop(inner)

    def forgets() -> Script:
        yield None
        world.driver.drop(b)
        world.actors.remove(b)

    home_a.script("asks", asks())
    home_b.script("answers", answers())
    world.driver.script("forgets", forgets())
    world.expect(lambda: world.told["inner"] == "value")


# ---- leases, pushes, cancels --------------------------------------------------------------------------------


def runs_and_ends(home: Home, *refs: ObjectId) -> None:
    """One script a task: it ends at any time after it has started."""

    def one(ref: ObjectId) -> Script:
        while True:
            yield home.runs(ref)
            home.finish(ref)

    for ref in refs:
        home.script(f"perhaps runs {show(ref)}", one(ref))


def cancel_against_completion(world: Linked, *, force: bool = False) -> None:
    """Whichever comes first decides, once; what the user has been told does not change. A forced cancel kills."""
    driver = world.driver
    t = ref_of(driver, 1)

    def cancels() -> Script:
        driver.submit(1, retries=3)
        driver.wait(t)
        yield None
        driver.does(CancelRequested(t, force, True))
        yield driver.has(t)
        told = driver.value(t)
        yield None
        assert driver.value(t) == told, "an outcome has changed"
        world.told["t"] = told
        driver.woke()
        driver.drop(t)

    driver.script("cancels", cancels())
    world.workers(lambda home: runs_and_ends(home, t))
    world.expect(lambda: world.told["t"] in ("value", FailureKind.CANCELLED))


def cancel_of_the_queued(world: Linked) -> None:
    """The second of two tasks is cancelled, when it waits, is pushed, runs or has ended; the first is not disturbed."""
    driver = world.driver
    first, second = ref_of(driver, 1), ref_of(driver, 2)

    def cancels() -> Script:
        driver.submit(1)
        driver.submit(2)
        driver.wait(first, second)
        yield None
        driver.does(CancelRequested(second, False, True))
        yield driver.has(first, second)
        world.told["both"] = [driver.value(first), driver.value(second)]
        driver.woke()
        driver.drop(first, second)

    driver.script("cancels", cancels())
    world.workers(lambda home: runs_and_ends(home, first, second))
    world.expect(lambda: world.told["both"] in (["value", "value"], ["value", FailureKind.CANCELLED]))


def return_against_push(world: Linked) -> None:
    """A lease lies idle and is given back; the next task's lease and push cross the end of the first."""
    driver = world.driver
    first, second = ref_of(driver, 1), ref_of(driver, 2)

    def submits() -> Script:
        driver.submit(1)
        driver.wait(first)
        yield driver.has(first)
        driver.woke()
        driver.drop(first)
        yield None
        driver.sleep(1.0)
        yield None
        driver.submit(2)
        driver.wait(second)
        yield driver.has(second)
        world.told["second"] = driver.value(second)
        driver.woke()
        driver.drop(second)

    driver.script("submits", submits(), local=False)
    world.workers(lambda home: runs_and_ends(home, first, second))
    world.expect(lambda: world.told["second"] == "value")


def revoked_against_start(world: Linked) -> None:
    """Another owner starves: the driver takes back what has not started, while the worker may be starting it."""
    _, home_a = world.actor(9)
    driver = world.driver
    mine, other = [ref_of(driver, 1), ref_of(driver, 2)], ref_of(home_a, 1)

    def submits() -> Script:
        for number in (1, 2):
            driver.submit(number)
        driver.wait(*mine)
        yield driver.has(*mine)
        world.told["mine"] = [driver.value(ref) for ref in mine]
        driver.woke()
        driver.drop(*mine)

    def starves() -> Script:
        yield None
        home_a.submit(1)
        home_a.wait(other)
        yield home_a.has(other)
        world.told["other"] = home_a.value(other)
        home_a.woke()
        home_a.drop(other)

    world.does(driver, lambda: driver.script("submits", submits()))
    home_a.script("starves", starves())
    world.workers(lambda home: runs_and_ends(home, *mine, other))
    world.expect(lambda: world.told == {"mine": ["value", "value"], "other": "value"})


def blocked_against_push(world: Linked) -> None:
    """A task waits inside, and gives back what is queued behind it, while more is pushed."""
    driver = world.driver
    x = world.does(driver, lambda: driver.put(9))
    first, second = ref_of(driver, 1), ref_of(driver, 2)

    def submits() -> Script:
        driver.submit(1, refs=(x,))
        driver.wait(first)
        yield None
        driver.submit(2)
        driver.wait(second)
        yield driver.has(first, second)
        world.told["both"] = [driver.value(ref) for ref in (first, second)]
        driver.woke()
        driver.woke()
        driver.drop(first, second, x)

    def waits(home: Home) -> Script:
        yield home.runs(first)
        home.hold(x)
        home.wait(x)
        yield home.has(x)
        home.woke()
        yield None
        home.drop(x)
        home.finish(first)

    def joins(home: Home) -> None:
        home.script("perhaps waits", waits(home))
        runs_and_ends(home, second)

    driver.script("submits", submits())
    world.workers(joins)
    world.expect(lambda: world.told["both"] == ["value", "value"])


# ---- deaths ---------------------------------------------------------------------------------------------


def death_against_result(world: Linked, *, retries: int = 0, frames: int | None = None) -> None:
    """The worker ends its task, and dies at any time after it has started; the news comes on three ways."""
    driver = world.driver
    t = ref_of(driver, 1)

    def submits() -> Script:
        driver.submit(1, retries=retries)
        driver.wait(t)
        yield driver.has(t)
        told = driver.value(t)
        world.told["t"] = told
        yield None
        assert driver.value(t) == told, "an outcome has changed"
        driver.woke()
        driver.drop(t)

    def works(home: Home) -> Script:
        yield home.runs(t)
        world.told["runs"] = world.told.get("runs", 0) + 1
        yield None
        home.finish(t)
        if frames is None:
            world.told["done"] = True
        else:
            home.die(frames)

    def dies(home: Home) -> Script:
        yield home.runs(t)
        yield None
        home.die()

    def joins(home: Home) -> None:
        home.script("perhaps works", works(home), local=frames is None)
        if "first" not in world.told:
            world.told["first"] = home.me
            home.script("perhaps dies", dies(home))

    world.workers(joins)
    driver.script("submits", submits())
    world.expect(lambda: world.told["t"] in ("value", FailureKind.WORKER_CRASHED))
    world.expect(lambda: world.told.get("runs", 0) <= 1 + retries)
    world.expect(lambda: world.told["t"] == "value" or not retries)
    world.expect(lambda: world.told["t"] == "value" or "done" not in world.told)


def calls_against_death(world: Linked, *, kill: bool = False) -> None:
    """Two calls to an actor that dies, or is ended by `kill`: some first ones are answered, the others fail."""
    a, home_a = world.actor(1)
    driver = world.driver
    refs = [ref_of(driver, number) for number in (2, 3)]

    def calls() -> Script:
        for number in (2, 3):
            yield None
            driver.submit(number, actor=a, method="m")
        driver.wait(*refs)
        if kill:
            driver.does(KillRequested(a))
        yield driver.has(*refs)
        world.told["calls"] = [driver.value(ref) for ref in refs]
        driver.woke()
        driver.drop(*refs)

    def dies() -> Script:
        yield None
        if not kill:
            home_a.die()

    driver.script("calls", calls())
    runs_and_ends(home_a, *refs)
    home_a.script("perhaps dies", dies())
    world.expect(
        lambda: world.told["calls"]
        in [["value"] * count + [FailureKind.ACTOR_DIED] * (2 - count) for count in range(3)]
    )


def call_against_last_drop(world: Linked) -> None:
    """The driver's handle goes while A, which has one too, calls B and drops its own: the call is answered."""
    _, home_a, b, home_b = acquainted(world)
    call = ref_of(home_a, 2)

    def asks() -> Script:
        yield None
        home_a.submit(2, actor=b, method="m")
        home_a.drop(b)
        home_a.wait(call)
        yield home_a.has(call)
        world.told["call"] = home_a.value(call)
        home_a.woke()
        home_a.drop(call)

    def forgets() -> Script:
        yield None
        world.driver.drop(b)
        world.actors.remove(b)

    home_a.script("asks", asks())
    world.driver.script("forgets", forgets())
    runs_and_ends(home_b, call)
    world.expect(lambda: world.told["call"] == "value")
