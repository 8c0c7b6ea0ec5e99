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
    full     ObjectStoreFullError, always and of everything, if the stores are small

Plain tasks are retried without limit and named by their submitter: a crash must never show in them. Nor in the calls
of an actor that is restarted, and they made again, without limit. What tasks and actors do is in `remote_code.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import miniray
from miniray.core.owner.lineage import PUT
from miniray.core.record import Record
from miniray.errors import ActorDiedError, GetTimeoutError, ObjectStoreFullError, TaskCancelledError, TaskError
from miniray.testing.cluster import running
from miniray.testing.remote_code import (
    FAULTS,
    NOT_GIVEN,
    Counter,
    FirstTime,
    Phoenix,
    add,
    array_of,
    box_of,
    call_often,
    catch,
    fail,
    fill,
    flaky,
    give,
    give_box,
    inherit,
    later_box,
    number_of,
    once,
    rebox,
    sleep,
    slow_box,
    struck,
    throw,
    two,
    unwrap,
)

VALUE, USER, CANCEL, FAULT, FULL = 1, 2, 4, 8, 16


class Op(Record, frozen=True):
    """`kind` names a row of `ACTIONS`; the rest is for that row."""

    kind: str
    slot: int = -1  # where its result goes
    slots: tuple[int, ...] = ()  # what it uses
    given: tuple[Any, ...] = ()  # plain arguments
    expected: int = 0
    outcomes: int = VALUE
    fork: bool = False  # an actor of the driver's, forked from it (`forking.py`)


# ---- the interpreter ------------------------------------------------------------------------------------


def run(ops: tuple[Op, ...], given: list[Any]) -> int:
    """Do each op; the sum of what was got. A legal error ends a nested run with that error."""
    slots: dict[int, Any] = dict(enumerate(given))
    total = 0
    for op in ops:
        total += ACTIONS[op.kind](op, slots) or 0
    return total


def run_until_full(ops: tuple[Op, ...]) -> None:
    """In the driver. What needs a value that finds no room, as to open a box, ends the program."""
    try:
        run(ops, [])
    except Exception as error:
        if not (classify(error) == FULL and running[-1].is_small):
            raise


def block(ops: tuple[Op, ...], box: list[Any], *args: Any) -> int:
    return run(ops, [*box, *args])


def block_box(ops: tuple[Op, ...], returned: tuple[int, ...], box: list[Any], *args: Any) -> list[Any]:
    """A block whose result is refs: those that it was given, and its own."""
    slots: dict[int, Any] = dict(enumerate([*box, *args]))
    for op in ops:
        ACTIONS[op.kind](op, slots)
    return [slots[slot] for slot in returned]


def classify(error: BaseException) -> int:
    """Which outcome an error is; 0: none that is ever legal."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ActorDiedError) and seen.__cause__ is not None:
            seen = seen.__cause__  # its constructor raised, or had a failed argument
            continue
        if isinstance(seen, FAULTS) or (running[-1].links_broken and NOT_GIVEN in str(seen)):
            return FAULT  # the second: the call that was to give it was under way when the link broke
        if isinstance(seen, TaskCancelledError):
            return CANCEL
        if isinstance(seen, ObjectStoreFullError) or (running[-1].is_small and NOT_GIVEN in str(seen)):
            return FULL
        if isinstance(seen, ValueError | LookupError) and "planned" in str(seen):
            return USER
        seen = seen.cause if isinstance(seen, TaskError) else None
    return 0


def _judge(op: Op, error: BaseException, *, is_put: bool = False) -> None:
    """`is_put`: it is about a value that the driver has put and still holds, which no fault may take."""
    kind = classify(error)
    legal = (kind & op.outcomes and (kind != FAULT or struck())) or (kind == FULL and running[-1].is_small)
    # What was made of a value that was put, and let go since, is lost for good when it is lost with its node.
    legal = legal or (not is_put and PUT in str(error) and running[-1].node_died)
    assert legal, f"{op}: not a legal outcome: {type(error).__name__}: {error}"


def _get(op: Op, slots: dict[int, Any]) -> int:
    found = None
    try:
        found = number_of(slots[op.slots[0]])
    except Exception as error:
        if isinstance(error, AssertionError) and not isinstance(error, TaskError):
            raise
        nested, is_put = op.given
        _judge(op, error, is_put=is_put)
        if nested:  # the run ends here
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


def _start(op: Op) -> dict[str, str]:
    return {"start": "fork" if op.fork else "zygote"}


def _make_actor(op: Op, slots: dict[int, Any]) -> None:
    slots[op.slot] = miniray.remote(**_start(op))(Counter).remote(*[slots[slot] for slot in op.slots], *op.given)


def _make_seated(op: Op, slots: dict[int, Any]) -> None:
    """An actor that occupies a CPU, on whichever node has one."""
    slots[op.slot] = miniray.remote(num_cpus=1, **_start(op))(Counter).remote(*op.given)


def _make_phoenix(op: Op, slots: dict[int, Any]) -> None:
    """given: options, and what it begins with if that is not a slot."""
    options, *start = op.given
    phoenix = miniray.remote(**options, **_start(op))(Phoenix)
    slots[op.slot] = phoenix.remote(*[slots[slot] for slot in op.slots], *start)


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


def _kill_alone(op: Op, slots: dict[int, Any]) -> None:
    """Nobody uses it, so nothing else may fail of this."""
    miniray.kill(slots[op.slots[0]])


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
    "slow_box": slow_box,
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
    "make_seated": _make_seated,
    "make_phoenix": _make_phoenix,
    "call_actor": _call_actor,
    "call_flaky": _call_flaky,
    "catch": _catch,
    "give": _give,
    "give_refs": _give_refs,
    "transfer": _transfer,
    "kill": _kill,
    "kill_alone": _kill_alone,
    "cancel": _cancel,
    "drop": _drop,
    "sleep": _sleep,
}
