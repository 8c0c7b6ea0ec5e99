"""Programs in which somebody dies at a marked point: the same text for real processes and for simulated ones.

A scenario is an ordinary program on public names that gets one more thing, its `World`: how to die here, what a real
program would write to a file, and how time passes. `crash_world.py` is the real one, `test_agreement.py` has the other
and compares. A scenario returns plain data: what each `get` gave (`outcome`), which runs there were. It lets go of
everything else, since both worlds ask at the end that nothing is left.

`ALLOWED` says what PROTOCOL.md allows each scenario to tell; most may tell one thing only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import miniray
from miniray.errors import MinirayError

ARRAY_ITEMS = 16_000  # of eight bytes: beyond what travels inline
LONG_SECONDS = 60.0  # no scenario takes so long: whoever sleeps so is meant to be ended
KILLED = "worker N was ended by signal 9"

NUM_CPUS = 2

Told = dict[str, Any]


class World(Protocol):
    """Passed to a scenario, and by it to its tasks."""

    def die(self) -> NoReturn:
        """This process ends here, as by SIGKILL."""

    def note(self, key: str) -> int:
        """How often this has been said by now, this time included."""

    def count(self, key: str) -> int:
        """How often it has been said."""

    def here(self, name: str) -> None:
        """This process can be killed by that name."""

    def kill(self, name: str) -> None:
        """SIGKILL to the process of that name, and wait until it has ended."""

    def doom_next_start(self) -> None:
        """The next worker that is forked dies before it has said anything, and "doomed" is noted."""

    def sleep(self, seconds: float) -> None: ...


def until(world: World, key: str, times: int = 1) -> None:
    while world.count(key) < times:
        world.sleep(0.002)


def outcome(ref: miniray.ObjectRef[Any]) -> list[Any]:
    """What `get` gives: the value, or the exception's class and first line, with what it says of attempts."""
    try:
        return ["value", number_of(miniray.get(ref, timeout=LONG_SECONDS))]
    except MinirayError as error:
        text = str(error)
        attempts = re.findall(r"attempt \d+ of \d+|max_retries=0", text)
        line = text.partition("\n")[0].partition("; the call was under way")[0]  # whether it was is a matter of time
        return [type(error).__name__, _without_numbers(line), *attempts]


def _without_numbers(line: str) -> str:
    """Process numbers and ids differ from run to run."""
    line = re.sub(r"\b(worker|process) (\d+|p\d+)", r"\1 N", line)
    return re.sub(r"\bp\d+(\.t\d+(\.\d+)?)?", "ID", line)


def number_of(value: Any) -> Any:
    if hasattr(value, "dtype"):
        assert (value == value[0]).all()
        return int(value[0])
    return value


def array_of(number: int) -> Any:
    import numpy

    return numpy.full(ARRAY_ITEMS, number, dtype=numpy.int64)


def remote(function: Callable[..., Any], **options: Any) -> Any:
    return miniray.remote(**options)(function) if options else miniray.remote(function)


# ---- what runs remotely ---------------------------------------------------------------------------------


def work(world: World, key: str, deaths: int, value: Any) -> Any:
    """Dies in its first runs."""
    if world.note(key) <= deaths:
        world.die()
    return value


def hang(world: World, key: str) -> None:
    """Runs until it is ended; says so when it is interrupted."""
    world.here(key)
    try:
        world.note(key)  # whoever reads that may have it interrupted at once
        world.sleep(LONG_SECONDS)
    except KeyboardInterrupt:
        world.note(f"{key} interrupted")
        raise


def named(world: World, name: str, value: Any) -> Any:
    world.here(name)
    return array_of(value)


def look(world: World, key: str, deaths: int, array: Any) -> int:
    """Dies while it has a view of its argument."""
    view = array[1:]
    if world.note(key) <= deaths:
        world.die()
    return int(view[0])


def parent(world: World, key: str, deaths: int) -> int:
    """Dies while its child runs."""
    run = world.note(key)
    if run > deaths:
        return miniray.get(remote(work).remote(world, f"{key} child", 0, 5))
    child = remote(hang, max_retries=0).remote(world, f"{key} child")
    until(world, f"{key} child")
    world.die()
    return miniray.get(child)


def blocked_parent(world: World, key: str) -> int:
    """Waits for a child that never ends, but for the second time."""
    world.here(key)
    if world.note(key) > 1:
        return miniray.get(remote(work).remote(world, f"{key} again", 0, 6))
    return miniray.get(remote(hang, max_retries=0).remote(world, f"{key} child"))


def fetch(world: World, giver: Any) -> int:
    """Its giver dies when the ref has left, and perhaps before the owner has heard of it."""
    (inner,) = miniray.get(giver.give.remote())
    world.kill("giver")
    return miniray.get(inner)


def meet(world: World, key: str, value: int) -> int:
    """Ends when another one runs beside it."""
    world.note(key)
    until(world, key, 2)
    return value


class Dying:
    """Unpickling it ends the process."""

    def __init__(self, world: World, key: str, deaths: int) -> None:
        self.given = (world, key, deaths, 8)

    def __reduce__(self) -> Any:
        return work, self.given


def same(value: Any) -> Any:
    return value


class Keeper:
    """An actor of which one can say when it dies."""

    def __init__(self, world: World, name: str, dies: bool = False) -> None:
        self.world = world
        self.kept: list[Any] = []
        world.here(name)
        if dies:
            world.note(name)
            world.die()

    def keep(self, refs: list[Any]) -> int:
        self.kept = refs
        return len(refs)

    def give(self) -> list[Any]:
        return self.kept

    def make(self, value: Any) -> list[Any]:
        """Refs that this process owns."""
        return [miniray.put(value)]

    def ask(self, value: Any) -> Any:
        return value

    def die(self, key: str) -> None:
        self.world.note(key)
        self.world.die()


def keeper(world: World, name: str, **given: Any) -> Any:
    return miniray.remote(Keeper).remote(world, name, **given)


# ---- tasks ----------------------------------------------------------------------------------------------


def a_task_is_retried(world: World) -> Told:
    ref = remote(work, max_retries=2).remote(world, "run", 2, 1)
    return {"result": outcome(ref), "runs": world.count("run")}


def retries_are_used_up(world: World) -> Told:
    ref = remote(work, max_retries=1).remote(world, "run", 9, 1)
    return {"result": outcome(ref), "runs": world.count("run")}


def no_retry_is_no_second_start(world: World) -> Told:
    ref = remote(work, max_retries=0).remote(world, "run", 9, 1)
    return {"result": outcome(ref), "again": outcome(ref), "runs": world.count("run")}


def a_result_that_was_sent_counts(world: World) -> Told:
    """One process runs both: what it had answered stays, and is not made again."""
    first = remote(work, max_retries=0).remote(world, "first", 0, 1)
    second = remote(work, max_retries=0).remote(world, "second", 9, first)
    return {"first": outcome(first), "second": outcome(second), "runs": world.count("first")}


def what_is_queued_behind_costs_nothing(world: World) -> Told:
    refs = [remote(work, max_retries=0).remote(world, f"run {i}", 9 if i == 3 else 0, i) for i in range(12)]
    results = [outcome(ref) for ref in refs]
    return {"results": results, "runs": [world.count(f"run {i}") for i in range(12)]}


def arguments_that_kill_are_a_start(world: World) -> Told:
    """Dies as its arguments are unpickled: that is a start, too."""
    once = remote(same, max_retries=1).remote(Dying(world, "one", 1))
    twice = remote(same, max_retries=1).remote(Dying(world, "two", 2))
    return {"once": outcome(once), "twice": outcome(twice), "runs": [world.count("one"), world.count("two")]}


def a_worker_dies_at_its_start(world: World) -> Told:
    """Two tasks need two workers at once; one of them is killed before, and the one in its place is born dead."""
    victim = remote(named, max_retries=0).remote(world, "victim", 1)
    first = outcome(victim)
    world.doom_next_start()
    world.kill("victim")
    refs = [remote(meet, max_retries=0).remote(world, "met", i) for i in range(2)]
    return {"first": first, "results": [outcome(ref) for ref in refs], "doomed": world.count("doomed")}


def a_stored_value_survives_its_maker(world: World) -> Told:
    ref = remote(named, max_retries=0).remote(world, "maker", 7)
    miniray.wait([ref])
    world.kill("maker")
    return {"result": outcome(ref), "elsewhere": outcome(remote(same).remote(ref))}


def views_end_with_their_process(world: World) -> Told:
    array = miniray.put(array_of(3))
    ref = remote(look, max_retries=1).remote(world, "run", 1, array)
    return {"result": outcome(ref), "array": outcome(array), "runs": world.count("run")}


def children_end_with_their_parent(world: World) -> Told:
    """The child is interrupted, its worker serves others, and the parent's second run is a new family."""
    ref = remote(parent, max_retries=1).remote(world, "parent", 1)
    result = outcome(ref)
    until(world, "parent child interrupted")
    return {"result": result, "runs": world.count("parent")}


def a_dead_parent_without_retries(world: World) -> Told:
    ref = remote(parent, max_retries=0).remote(world, "parent", 9)
    result = outcome(ref)
    until(world, "parent child interrupted")
    others = [outcome(remote(same).remote(i)) for i in range(4)]
    return {"result": result, "others": others, "children": world.count("parent child")}


def killed_while_it_waits(world: World) -> Told:
    ref = remote(blocked_parent, max_retries=1).remote(world, "parent")
    until(world, "parent child")
    world.kill("parent")
    result = outcome(ref)
    until(world, "parent child interrupted")
    return {"result": result, "runs": world.count("parent")}


# ---- cancelling -----------------------------------------------------------------------------------------


def a_forced_cancel_kills_what_runs(world: World) -> Told:
    ref = remote(hang, max_retries=3).remote(world, "run")
    until(world, "run")
    miniray.cancel(ref, force=True)
    return {"result": outcome(ref), "after": outcome(remote(same).remote(2)), "runs": world.count("run")}


def a_forced_cancel_crosses_completion(world: World) -> Told:
    """Whichever comes first decides, once."""
    ref = remote(work, max_retries=3).remote(world, "run", 0, 4)
    until(world, "run")
    miniray.cancel(ref, force=True)
    result = outcome(ref)
    return {"result": result, "same again": outcome(ref) == result, "runs": world.count("run")}


# ---- refs and actors ------------------------------------------------------------------------------------


def values_end_with_their_owner(world: World) -> Told:
    actor = keeper(world, "owner")
    (small,) = miniray.get(actor.make.remote(1))
    (large,) = miniray.get(actor.make.remote(array_of(2)))
    died = outcome(actor.die.remote("died"))
    return {"died": died, "small": outcome(small), "large": outcome(large)}


def the_last_holder_dies(world: World) -> Told:
    """Nothing is left of what only it held."""
    actor = keeper(world, "holder")
    held = outcome(actor.keep.remote([miniray.put(array_of(1)), miniray.put(2)]))
    return {"held": held, "died": outcome(actor.die.remote("died"))}


def an_actor_dies_in_a_call(world: World) -> Told:
    actor = keeper(world, "actor")
    before = actor.ask.remote(1)
    died = actor.die.remote("died")
    behind = actor.ask.remote(2)
    told = [outcome(before), outcome(died), outcome(behind)]
    return {"calls": told, "later": outcome(actor.ask.remote(3)), "runs": world.count("died")}


def an_actor_dies_between_calls(world: World) -> Told:
    actor = keeper(world, "actor")
    before = outcome(actor.ask.remote(1))
    world.kill("actor")
    return {"before": before, "after": outcome(actor.ask.remote(2))}


def an_actor_dies_in_its_constructor(world: World) -> Told:
    actor = keeper(world, "actor", dies=True)
    return {"calls": [outcome(actor.ask.remote(i)) for i in range(2)], "runs": world.count("actor")}


def an_actor_is_ended_by_kill(world: World) -> Told:
    actor = keeper(world, "actor")
    before = outcome(actor.ask.remote(1))
    miniray.kill(actor)
    return {"before": before, "after": outcome(actor.ask.remote(2))}


def the_giver_dies_during_the_hand_off(world: World) -> Told:
    """Registered, or gone at once: never a wait without an end."""
    giver = keeper(world, "giver")
    miniray.get(giver.keep.remote([miniray.put(9)]))
    return {"result": outcome(remote(fetch, max_retries=0).remote(world, giver))}


# ---- what is allowed ------------------------------------------------------------------------------------


def _value(number: Any) -> list[Any]:
    return ["value", number]


def _crashed(task: str, attempts: str = "max_retries=0") -> list[Any]:
    return ["WorkerCrashedError", f"{task} was lost: {KILLED}", attempts]


def _dead(call: str, how: str = f"the process of the actor is gone: {KILLED}") -> list[Any]:
    return ["ActorDiedError", f"{call} failed, for its actor is dead: {how}"]


def _queued(first_lost: int) -> Told:
    """Task 3 kills; what was answered just before is lost from `first_lost` on. Nothing behind it is."""
    results = [_crashed("work") if first_lost <= i <= 3 else _value(i) for i in range(12)]
    return {"results": results, "runs": [1] * 12}


def _in_a_call(before: list[Any]) -> Told:
    return {"calls": [before, _dead("Keeper.die"), _dead("Keeper.ask")], "later": _dead("Keeper.ask"), "runs": 1}


_OWNER_DIED = ["OwnerDiedError", "the process that owns object ID has died, and with it all knowledge of the object"]
_HANDED_OFF_TOO_LATE = [
    "TaskError(ObjectLostError)",
    "fetch() raised ObjectLostError: object ID was freed before this process could register as a holder: whoever "
    "passed the ref on died, or dropped it, during the hand-off",
]
_OTHERS = [_value(i) for i in range(4)]

ALLOWED: dict[Callable[[World], Told], list[Told]] = {
    a_task_is_retried: [{"result": _value(1), "runs": 3}],
    retries_are_used_up: [{"result": _crashed("work", "attempt 2 of 2"), "runs": 2}],
    no_retry_is_no_second_start: [{"result": _crashed("work"), "again": _crashed("work"), "runs": 1}],
    a_result_that_was_sent_counts: [{"first": _value(1), "second": _crashed("work"), "runs": 1}],
    what_is_queued_behind_costs_nothing: [_queued(3)],
    arguments_that_kill_are_a_start: [
        {"once": _value(8), "twice": _crashed("same", "attempt 2 of 2"), "runs": [2, 2]},
    ],
    a_worker_dies_at_its_start: [{"first": _value(1), "results": [_value(0), _value(1)], "doomed": 1}],
    a_stored_value_survives_its_maker: [{"result": _value(7), "elsewhere": _value(7)}],
    views_end_with_their_process: [{"result": _value(3), "array": _value(3), "runs": 2}],
    children_end_with_their_parent: [{"result": _value(5), "runs": 2}],
    a_dead_parent_without_retries: [{"result": _crashed("parent"), "others": _OTHERS, "children": 1}],
    killed_while_it_waits: [{"result": _value(6), "runs": 2}],
    a_forced_cancel_kills_what_runs: [
        {"result": ["TaskCancelledError", "hang was cancelled"], "after": _value(2), "runs": 1},
    ],
    a_forced_cancel_crosses_completion: [
        {"result": _value(4), "same again": True, "runs": 1},
        {"result": ["TaskCancelledError", "work was cancelled"], "same again": True, "runs": 1},
    ],
    values_end_with_their_owner: [{"died": _dead("Keeper.die"), "small": _OWNER_DIED, "large": _OWNER_DIED}],
    the_last_holder_dies: [{"held": _value(2), "died": _dead("Keeper.die")}],
    an_actor_dies_in_a_call: [_in_a_call(_value(1))],
    an_actor_dies_between_calls: [{"before": _value(1), "after": _dead("Keeper.ask")}],
    an_actor_dies_in_its_constructor: [{"calls": [_dead("Keeper", KILLED)] * 2, "runs": 1}],
    an_actor_is_ended_by_kill: [{"before": _value(1), "after": _dead("Keeper.ask", "the actor was ended by kill()")}],
    the_giver_dies_during_the_hand_off: [{"result": _value(9)}, {"result": _HANDED_OFF_TOO_LATE}],
}

# A simulated process that dies takes along what was under way on its links (the fault model: a link breaks). A
# socketpair of one host delivers it all, so real processes must not lose a result that had left before the death.
ONLY_SIMULATED: dict[Callable[[World], Told], list[Told]] = {
    what_is_queued_behind_costs_nothing: [_queued(2), _queued(1), _queued(0)],
    an_actor_dies_in_a_call: [_in_a_call(_dead("Keeper.ask"))],
}
