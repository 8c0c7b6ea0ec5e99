"""What random programs (`programs.py`) run remotely: functions, and two classes of actors.

All values stand for whole numbers, whatever their form, and whoever reads one looks at all of it. What must happen
only the first time asks the cluster how often it was said (`note`): a run again is told from a run by that alone.
"""

from __future__ import annotations

from typing import Any

import miniray
from miniray.errors import ActorDiedError, ActorUnavailableError, ObjectLostError, TaskError, WorkerCrashedError
from miniray.testing.cluster import running

ARRAY_ITEMS = 16_000  # of eight bytes: beyond what travels inline
NOT_GIVEN = "planned: it was not given that, since something before it has failed"
FAULTS = (ObjectLostError, ActorDiedError, ActorUnavailableError, WorkerCrashedError)


class FirstTime(Exception):
    """What a flaky task raises once, with a ref that nobody will ask for; only this is retried."""


def struck() -> bool:
    return running[-1].disturbed or running[-1].links_broken > 0


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
        assert struck(), "nobody has died"
        return miniray.put(value)


def give_box(key: str, dies_after: float, large: bool, number: int, owner: Any) -> list[Any]:
    """Refs that an actor owns: of a value, of one with a ref inside that is this worker's, and of a transferred one."""
    if dies_after and running[-1].note(key) == 1:
        running[-1].die_soon(dies_after)
    mine = miniray.put(array_of(number) if large else number)
    try:
        moved = miniray.transfer(mine, owner=owner)
    except FAULTS:
        assert struck(), "nobody has died"
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


def slow_box(seconds: float, *numbers: int) -> list[Any]:
    """Refs of large values that the worker owns; others are made meanwhile, on other nodes."""
    box = [miniray.put(array_of(number)) for number in numbers]
    sleep(seconds)
    return box


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
        self._lacks = False  # a call before has never come: it was under way when its link broke
        self._last: dict[str, int] = {}
        self._kept: dict[str, list[Any]] = {}

    def add(self, caller: str, number: int, amount: Any) -> int:
        self._lacks = self._lacks or number != self._last.get(caller, -1) + 1
        follows(self._last, caller, number)
        self._total += number_of(amount)
        if self._lacks:
            raise ValueError(NOT_GIVEN)
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
            raise ValueError(NOT_GIVEN)
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
