"""Small random programs with an oracle: what each `get` may give is known before the program runs.

A program is a list of `Op`s on numbered slots; `draw` makes one from choices, `run` does it with the public words. The
same interpreter runs in the driver and inside tasks (a *block* is a task that runs a program of its own), so whatever
one process can do, a nested one does too.

The oracle. All values stand for whole numbers (an array is filled with one, a box holds refs of several), so the
right result is computed while the program is drawn. Beside it each slot has the *outcomes* that are legal:

    value    the right one
    user     the ValueError that the program planned
    cancel   TaskCancelledError: somebody cancels it, or something that it needs
    fault    a death may show, if there was one: of an owner, of an actor, of a worker with max_retries=0

Plain tasks are retried without limit and named by their submitter: a crash must never show in them. Nor in the calls
of an actor that is restarted, and they made again, without limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import miniray
from miniray.core.record import Record
from miniray.errors import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from miniray.testing.cluster import running

ARRAY_ITEMS = 16_000  # of eight bytes: beyond what travels inline

VALUE, USER, CANCEL, FAULT = 1, 2, 4, 8
_NOT_GIVEN = "planned: it was not given that, since something before it has failed"
FAULTS = (ObjectLostError, ActorDiedError, ActorUnavailableError, WorkerCrashedError)


class FirstTime(Exception):
    """What a flaky task raises once, with a ref that nobody will ask for; only this is retried."""


class Op(Record, frozen=True):
    """`kind` names a row of `ACTIONS`; the rest is for that row."""

    kind: str
    slot: int = -1  # where its result goes
    slots: tuple[int, ...] = ()  # what it uses
    given: tuple[Any, ...] = ()  # plain arguments
    expected: int = 0
    outcomes: int = VALUE


# ---- what runs remotely ---------------------------------------------------------------------------------


def number_of(value: Any) -> int:
    """The number that a value stands for, whatever its form."""
    if isinstance(value, miniray.ObjectRef):
        return number_of(miniray.get(value))
    if isinstance(value, list):
        return sum(map(number_of, value))
    if hasattr(value, "dtype"):
        first = int(value[0])
        assert (value == first).all(), f"an array of {first} holds something else: its place was used again"
        return first
    return int(value)


def array_of(number: int) -> Any:
    import numpy

    return numpy.full(ARRAY_ITEMS, number, dtype=numpy.int64)


def sleep(seconds: float) -> None:
    running[-1].sleep(seconds)


def add(seconds: float, *args: Any) -> int:
    """Views of large arguments are looked at before and after."""
    before = sum(map(number_of, args))
    if seconds:
        sleep(seconds)
    assert sum(map(number_of, args)) == before, "an argument has changed"
    return before


def fill(seconds: float, *args: Any) -> Any:
    return array_of(add(seconds, *args))


def two(seconds: float, *args: Any) -> tuple[int, Any]:
    number = add(seconds, *args)
    return number, array_of(number + 1)


def fail(seconds: float, *args: Any) -> int:
    add(seconds, *args)
    raise ValueError("planned")


def throw(*box: Any) -> None:
    """The refs go with the exception, and so does one of the worker's own."""
    raise LookupError("planned", [*box, miniray.put(0)])


def catch(box: list[Any]) -> list[Any]:
    """What an exception carries; the box and the exception are let go as soon as that is read."""
    try:
        miniray.get(box.pop())
    except TaskError as error:
        if isinstance(error.__cause__, LookupError):
            return list(error.__cause__.args[1])
        raise
    raise AssertionError("what had to fail has a value")


def give(value: Any, owner: Any) -> Any:
    """`put` with that owner; with this one, when that is dead."""
    try:
        return miniray.put(value, owner=owner)
    except FAULTS:
        assert _struck(), "nobody has died"
        return miniray.put(value)


def give_box(key: str, dies_after: float, large: bool, number: int, owner: Any) -> list[Any]:
    """Refs that an actor owns: of a value, of one with a ref inside that is this worker's, and of a transferred one."""
    if dies_after and running[-1].note(key) == 1:
        running[-1].die_soon(dies_after)
    mine = miniray.put(array_of(number) if large else number)
    try:
        moved = miniray.transfer(mine, owner=owner)
    except FAULTS:
        assert _struck(), "nobody has died"
        moved = mine
    return [give(array_of(number) if large else number, owner), give([mine], owner), moved]


def once(key: str, seconds: float, *args: Any) -> int:
    """With max_retries=0: started at most once."""
    if running[-1].note(key) > 1:
        running[-1].fail(AssertionError(f"{key} has max_retries=0 and was started twice"))
    return add(seconds, *args)


def flaky(key: str, seconds: float, *args: Any) -> int:
    if running[-1].note(key) == 1:
        raise FirstTime(miniray.put(0))
    return add(seconds, *args)


def box_of(large: bool, *numbers: int) -> list[Any]:
    """Refs that the worker owns."""
    return [miniray.put(array_of(number) if large else number) for number in numbers]


def later_box(key: str, dies_after: float, seconds: float, *numbers: int) -> list[Any]:
    """Refs of tasks of the worker's own, which have not ended: whoever waits for them waits for their owner."""
    if dies_after and running[-1].note(key) == 1:
        running[-1].die_soon(dies_after)
    children = [miniray.remote(max_retries=-1)(kind) for kind in (add, fill)]
    return [children[number % 2].remote(seconds, number) for number in numbers]


def rebox(box: list[Any]) -> list[Any]:
    return list(box)


def unwrap(outer: list[Any]) -> list[Any]:
    """The refs inside a box, which is let go as soon as it is read."""
    box = outer.pop()
    inner: list[Any] = miniray.get(box)
    return inner


def block(ops: tuple[Op, ...], box: list[Any], *args: Any) -> int:
    return run(ops, [*box, *args])


def block_box(ops: tuple[Op, ...], returned: tuple[int, ...], box: list[Any], *args: Any) -> list[Any]:
    """A block whose result is refs: those that it was given, and its own."""
    slots: dict[int, Any] = dict(enumerate([*box, *args]))
    for op in ops:
        ACTIONS[op.kind](op, slots)
    return [slots[slot] for slot in returned]


def call_often(key: str, count: int, actor: Any) -> int:
    caller = f"{key}, run {running[-1].note(key)}"
    for ref in [actor.add.remote(caller, index, 1) for index in range(count)]:
        miniray.get(ref)
    return count


def inherit(key: str, actor: Any) -> int:
    """Reads what an actor was given to keep; it dies while it hands it on."""
    return number_of(miniray.get(actor.last_words.remote(key)))


def follows(last: dict[str, int], caller: str, number: int) -> None:
    """A new session may repeat what the old one has done; where each begins, and its order, the checker knows."""
    legal = number > last.get(caller, -1) or running[-1].links_broken
    assert legal, f"call {number} of {caller} came after {last[caller]}"
    last[caller] = number


class Counter:
    """An actor: a total, refs that it keeps, and the order of its callers' calls."""

    def __init__(self, start: Any) -> None:
        self._total = number_of(start)
        self._last: dict[str, int] = {}
        self._kept: dict[str, list[Any]] = {}

    def add(self, caller: str, number: int, amount: Any) -> int:
        follows(self._last, caller, number)
        self._total += number_of(amount)
        return self._total

    def keep(self, key: str, box: list[Any]) -> int:
        self._kept[key] = box
        return 0

    def kept(self, key: str) -> int:
        return number_of(self._find(key))

    def lend(self, key: str) -> list[Any]:
        """What it was given to keep; the refs in it are its owner's, and go on through this process."""
        return self._find(key)

    def last_words(self, key: str) -> list[Any]:
        """Who hears them may come too late to their owner: the one that held them dies."""
        running[-1].die_soon(0.0)
        return self._find(key)

    def give_up(self, key: str) -> int:
        return len(self._kept.pop(key, []))

    def _find(self, key: str) -> list[Any]:
        if key not in self._kept:
            raise ValueError(_NOT_GIVEN)
        return self._kept[key]


class Phoenix:
    """An actor that may be restarted: what it answers depends on nothing that a restart loses.

    Its callers' calls are in order in each life by itself.
    """

    def __init__(self, start: Any) -> None:
        self._start = start
        self._last: dict[str, int] = {}

    def add(self, caller: str, number: int, amount: Any) -> int:
        follows(self._last, caller, number)
        return number_of(self._start) + number_of(amount)

    def add_and_die(self, key: str, dies_after: float, caller: str, number: int, amount: Any) -> int:
        """At once, or about when the answer leaves; only the first time."""
        total = self.add(caller, number, amount)
        if running[-1].note(key) == 1:
            if dies_after:
                running[-1].die_soon(dies_after)
            else:
                running[-1].die()
        return total

    def flaky(self, key: str, amount: Any) -> int:
        """It is called again after those that are on their way: it has no place in the order."""
        if running[-1].note(key) == 1:
            raise FirstTime(miniray.put(0))
        return number_of(self._start) + number_of(amount)


# ---- the interpreter ------------------------------------------------------------------------------------


def run(ops: tuple[Op, ...], given: list[Any]) -> int:
    """Do each op; the sum of what was got. A legal error ends a nested run with that error."""
    slots: dict[int, Any] = dict(enumerate(given))
    total = 0
    for op in ops:
        total += ACTIONS[op.kind](op, slots) or 0
    return total


def _struck() -> bool:
    return running[-1].disturbed or running[-1].links_broken > 0


def classify(error: BaseException) -> int:
    """Which outcome an error is; 0: none that is ever legal."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ActorDiedError) and seen.__cause__ is not None:
            seen = seen.__cause__  # its constructor raised, or had a failed argument
            continue
        if isinstance(seen, FAULTS) or (running[-1].links_broken and _NOT_GIVEN in str(seen)):
            return FAULT  # the second: the call that was to give it was under way when the link broke
        if isinstance(seen, TaskCancelledError):
            return CANCEL
        if isinstance(seen, ValueError | LookupError) and "planned" in str(seen):
            return USER
        seen = seen.cause if isinstance(seen, TaskError) else None
    return 0


def _judge(op: Op, error: BaseException) -> None:
    kind = classify(error)
    legal = kind & op.outcomes and (kind != FAULT or _struck())
    assert legal, f"{op}: not a legal outcome: {type(error).__name__}: {error}"


def _get(op: Op, slots: dict[int, Any]) -> int:
    found = None
    try:
        found = number_of(slots[op.slots[0]])
    except Exception as error:
        if isinstance(error, AssertionError) and not isinstance(error, TaskError):
            raise
        _judge(op, error)
        if op.given[0]:  # nested: the run ends here
            raise
        return 0
    assert op.outcomes & VALUE and found == op.expected, f"{op}: {found} is wrong"
    return found


def _get_soon(op: Op, slots: dict[int, Any]) -> None:
    """With a short timeout: it may pass, and nothing is lost."""
    try:
        miniray.get(slots[op.slots[0]], timeout=op.given[0])
    except GetTimeoutError:
        pass
    except Exception as error:
        _judge(op, error)


def _wait(op: Op, slots: dict[int, Any]) -> None:
    refs = list(dict.fromkeys(slots[slot] for slot in op.slots))  # two slots may have been given the same one
    count, timeout = min(op.given[0], len(refs)), op.given[1]
    ready, rest = miniray.wait(refs, num_returns=count, timeout=timeout)
    assert len(ready) == count or (timeout is not None and len(ready) < count), f"{op}: {len(ready)} are ready"
    assert sorted([*ready, *rest], key=refs.index) == refs, f"{op}: some refs are missing"


def _put(op: Op, slots: dict[int, Any]) -> None:
    number, large = op.given
    slots[op.slot] = miniray.put(array_of(number) if large else number)


def _put_box(op: Op, slots: dict[int, Any]) -> None:
    slots[op.slot] = miniray.put([slots[slot] for slot in op.slots])


def _open(op: Op, slots: dict[int, Any]) -> None:
    """The refs of a box come into this process, and are not read yet."""
    slots[op.slot] = miniray.get(slots[op.slots[0]])


def _call(op: Op, slots: dict[int, Any]) -> None:
    """given: name of the function, its first arguments, options, how many slots go by reference (in one list)."""
    name, first, options, boxed = op.given
    values = [slots[slot] for slot in op.slots]
    args = [[*values[:boxed]], *values[boxed:]] if boxed >= 0 else values
    if name in KEYED:  # a block that runs again submits another task
        first = (f"{first[0]}#{running[-1].note(f'calls of {first[0]}')}", *first[1:])
    result = miniray.remote(**{"max_retries": -1, **options})(FUNCTIONS[name]).remote(*first, *args)
    for index, ref in enumerate(result if isinstance(result, list) else [result]):
        slots[op.slot + index] = ref


def _pass_on(op: Op, slots: dict[int, Any]) -> None:
    """The refs of an opened box become arguments of a task of this process."""
    slots[op.slot] = miniray.remote(max_retries=-1)(add).remote(0.0, *slots[op.slots[0]])


def _make_actor(op: Op, slots: dict[int, Any]) -> None:
    slots[op.slot] = miniray.remote(Counter).remote(*[slots[slot] for slot in op.slots], *op.given)


def _make_phoenix(op: Op, slots: dict[int, Any]) -> None:
    """given: options, and what it begins with if that is not a slot."""
    options, *start = op.given
    slots[op.slot] = miniray.remote(**options)(Phoenix).remote(*[slots[slot] for slot in op.slots], *start)


def _call_flaky(op: Op, slots: dict[int, Any]) -> None:
    actor, *amount = [slots[slot] for slot in op.slots]
    key, *given = op.given
    method = actor.flaky.options(max_task_retries=-1, retry_exceptions=[FirstTime])
    slots[op.slot] = method.remote(f"{key}#{running[-1].note(f'calls of {key}')}", *amount, *given)


def _call_actor(op: Op, slots: dict[int, Any]) -> None:
    method, first, boxed = op.given
    values = [slots[slot] for slot in op.slots[1:]]
    args = [values] if boxed else values  # the key comes first
    slots[op.slot] = getattr(slots[op.slots[0]], method).remote(*first, *args)


def _kill(op: Op, slots: dict[int, Any]) -> None:
    running[-1].disturbed = True
    miniray.kill(slots[op.slots[0]], no_restart=op.given[0])


def _catch(op: Op, slots: dict[int, Any]) -> None:
    """The refs that an exception carries come into this process, and are not read yet."""
    slots[op.slot] = catch([slots[op.slots[0]]])


def _give(op: Op, slots: dict[int, Any]) -> None:
    number, large = op.given
    slots[op.slot] = give(array_of(number) if large else number, slots[op.slots[0]])


def _give_refs(op: Op, slots: dict[int, Any]) -> None:
    owner, *box = [slots[slot] for slot in op.slots]
    slots[op.slot] = give(box, owner)


def _transfer(op: Op, slots: dict[int, Any]) -> None:
    """When the actor is dead, or the value is not there, it is the same ref."""
    ref, owner = [slots[slot] for slot in op.slots]
    try:
        slots[op.slot] = miniray.transfer(ref, owner=owner)
    except Exception as error:
        _judge(op, error)
        slots[op.slot] = ref


def _cancel(op: Op, slots: dict[int, Any]) -> None:
    force, recursive = op.given
    if force:
        running[-1].disturbed = True
    miniray.cancel(slots[op.slots[0]], force=force, recursive=recursive)


def _drop(op: Op, slots: dict[int, Any]) -> None:
    for slot in op.slots:
        del slots[slot]


def _sleep(op: Op, slots: dict[int, Any]) -> None:
    sleep(op.given[0])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": add,
    "fill": fill,
    "two": two,
    "fail": fail,
    "throw": throw,
    "catch": catch,
    "give_box": give_box,
    "once": once,
    "flaky": flaky,
    "box_of": box_of,
    "later_box": later_box,
    "rebox": rebox,
    "unwrap": unwrap,
    "block": block,
    "block_box": block_box,
    "call_often": call_often,
    "inherit": inherit,
}
KEYED = ("once", "flaky", "call_often", "later_box", "give_box")
ACTIONS: dict[str, Callable[[Op, dict[int, Any]], int | None]] = {
    "get": _get,
    "get_soon": _get_soon,
    "wait": _wait,
    "put": _put,
    "put_box": _put_box,
    "open": _open,
    "call": _call,
    "pass_on": _pass_on,
    "make_actor": _make_actor,
    "make_phoenix": _make_phoenix,
    "call_actor": _call_actor,
    "call_flaky": _call_flaky,
    "catch": _catch,
    "give": _give,
    "give_refs": _give_refs,
    "transfer": _transfer,
    "kill": _kill,
    "cancel": _cancel,
    "drop": _drop,
    "sleep": _sleep,
}
