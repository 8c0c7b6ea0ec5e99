"""What a pool sends: a callee, sources of calls, and the groups that travel.

- A `Callee` is a function as the pool knows it: how long its calls take decides how many of them form a group.
- A `Source` gives calls on demand and takes their outcomes: the calls of `apply_async`, one `map`, one `imap`.
  Tokens name its calls: a list or a range, which is cut as the group is.
- A `Group` is some calls of one source on their way to one worker.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakValueDictionary

import miniray
from miniray.errors import SerializationError
from miniray.pool_worker.worker import APPLY, LIGHT, MAP, weigh

GROUP_SECONDS = 0.001  # what a group should last
TOGETHER_SECONDS = 0.05  # the same where results are only seen together: each time a worker stands still for 0.5 ms,
# since the pool's process, which reads the group and sends another, takes its core
GROWTH = 32  # a group is at most this many times as large as the largest that was measured
MAX_GROUP_ITEMS = 25_000
LAST_GROUPS = 4  # towards the end groups become smaller, down to this part of their size
LAST_TOGETHER = 8  # the same where results are only seen together
MAX_ARGUMENT_BYTES = 1 << 20  # a group of several calls carries no more
WHOLE_BELOW_SECONDS = 2e-6  # calls that are shorter run as one `list(map(...))`
KNOWN_CALLEES = 64
PLAIN = LIGHT | {str}  # arguments of a single call that need no group around them
_SMOOTHING = 0.5
_SENT_ONCE = (FunctionType, type, functools._lru_cache_wrapper)  # what cannot change unseen


class Callee:
    """A function, and what its calls have taken."""

    __slots__ = ("__weakref__", "function", "is_sent_once", "seconds", "size")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.is_sent_once = isinstance(function, _SENT_ONCE)  # others travel with each group, as arguments
        self.seconds: float | None = None  # one call's, smoothed
        self.size = 1  # calls of the largest group that was measured

    def measured(self, calls: int, seconds: float) -> None:
        one = seconds / calls
        self.seconds = one if self.seconds is None else self.seconds + _SMOOTHING * (one - self.seconds)
        self.size = max(self.size, calls)

    def group_size(self, target: float = GROUP_SECONDS) -> int:
        """How many calls last about so many seconds."""
        if self.seconds is None:
            return 1
        return max(1, min(int(target / (self.seconds + 1e-8)), self.size * GROWTH, MAX_GROUP_ITEMS))

    def expected(self, calls: int) -> float:
        return float("inf") if self.seconds is None else self.seconds * calls

    def stored(self) -> Any:
        """What is sent in place of a callable that cannot be sent once, such as a bound method or a partial: it is
        stored once for all groups of a `map`. None: itself."""
        if self.is_sent_once or type(self.function) is type(len):
            return None
        try:
            return miniray.put(self.function)
        except SerializationError:
            return None  # each call then says why

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", None) or repr(self.function)


class Callees:
    """The callees seen last, by identity. Bound methods are made anew at each access, so these go by their parts.

    Those that may hold users' objects (a method, a partial) are known only while calls of them are under way.
    """

    def __init__(self, meet: Callable[[Callable[..., Any]], None]) -> None:
        self._meet = meet  # is told of those that are not known
        self._known: OrderedDict[int, Callee] = OrderedDict()
        self._under_way: WeakValueDictionary[Any, Callee] = WeakValueDictionary()

    def find(self, function: Callable[..., Any]) -> Callee:
        key: Any = id(function)
        callee = self._known.get(key)
        if callee is not None:
            return callee
        if type(function) is MethodType:
            key = id(function.__self__), id(function.__func__)
        callee = self._under_way.get(key)
        if callee is None:
            self._meet(function)
            callee = Callee(function)
            if callee.is_sent_once or isinstance(getattr(function, "__self__", None), ModuleType):
                self._known[key] = callee
                if len(self._known) > KNOWN_CALLEES:
                    self._known.popitem(last=False)
            else:
                self._under_way[key] = callee
        return callee


class Source:
    """Where calls come from, and where their outcomes go. All its methods run under the pool's lock."""

    __slots__ = ()

    callee: Callee
    mode: int
    argument: Any  # what is sent in place of the function; None: itself
    chunk: int  # so many calls are one task for `maxtasksperchild`
    fails_as_one: bool
    travels_alone = False  # whether a group has one call of it only
    is_dropped = False  # whether nobody can have the outcomes any more: what comes back unrun is not run again
    raises_exits = False  # whether SystemExit and KeyboardInterrupt of a call are raised as they are

    def take(self, limit: int) -> tuple[Sequence[Any], Sequence[Any]] | None:
        """Up to `limit` calls: tokens and items; None: there is nothing now."""
        raise NotImplementedError

    def remaining(self) -> int | None:
        """How many calls it still has to give, where that is known."""
        raise NotImplementedError

    def deliver(self, tokens: Sequence[Any], results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        """The outcomes of these calls; `errors` by position."""
        raise NotImplementedError

    def abandon(self, error: BaseException) -> None:
        """Calls that were not taken yet fail with this."""
        raise NotImplementedError

    def starts(self, tokens: Sequence[Any], items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """These calls go to a worker now, but for those that nobody wants any more."""
        return tokens, items

    def come_back(self, tokens: Sequence[Any]) -> None:
        """These calls have not run, and wait again."""


def target_of(source: Source) -> float:
    return TOGETHER_SECONDS if source.fails_as_one else GROUP_SECONDS


def sizes_of(source: Source) -> tuple[int, int]:
    """How many calls a group of it has, and how many at least towards the end."""
    size = source.callee.group_size(target_of(source))
    return size, size // (LAST_TOGETHER if source.fails_as_one else LAST_GROUPS)


class Remainder:
    """Calls that come back unrun, to be run before others."""

    def __init__(
        self,
        source: Source,
        tokens: Sequence[Any],
        items: Sequence[Any],
        limit: int | None = None,
        attempt: int = 0,
    ) -> None:
        self.source = source
        self.tokens = tokens
        self.items = items
        self.limit = limit  # at most so many in a group
        self.attempt = attempt  # how many times they were started already, by workers that died

    def take(self, limit: int) -> tuple[Sequence[Any], Sequence[Any]] | None:
        if self.limit is not None:
            limit = min(limit, self.limit)
        taken = self.tokens[:limit], self.items[:limit]
        self.tokens, self.items = self.tokens[limit:], self.items[limit:]
        return taken if taken[0] else None

    def remaining(self) -> int | None:
        return len(self.tokens)


class Group:
    """Calls on their way."""

    __slots__ = (
        "attempt", "callee", "delivered", "expected", "is_claimed", "is_recalled", "items", "kept", "member", "number",
        "ref", "source", "tokens",
    )  # fmt: skip

    def __init__(
        self, source: Source, tokens: Sequence[Any], items: Sequence[Any], number: int, attempt: int = 0
    ) -> None:
        self.source = source
        self.callee = source.callee
        self.tokens = tokens
        self.items = items
        self.number = number
        self.attempt = attempt  # how many times its calls were started already
        self.kept = len(items)  # the worker has given back what is behind
        self.delivered = 0  # outcomes that came before the group had ended
        self.expected = source.callee.expected(len(items))  # seconds, as far as was known when it was made
        self.is_claimed = False  # a thread collects it
        self.is_recalled = False
        self.ref: Any = None
        self.member: Any = None  # the worker that has it

    @property
    def target(self) -> float:
        """Seconds that it should last."""
        return target_of(self.source)

    def single(self) -> Sequence[Any] | None:
        """The arguments of its only call, if they are such that they can travel by themselves."""
        if len(self.items) != 1:
            return None
        args = item = self.items[0]
        mode = self.source.mode
        if mode == MAP:
            args = (item,)
        elif mode == APPLY:
            args, named = item
            if named:
                return None
        return args if type(args) is tuple and PLAIN.issuperset(map(type, args)) else None

    @property
    def may_post(self) -> bool:
        """Whether some of its outcomes may come before the others, and somebody would see them."""
        return len(self.items) > 1 and not self.delivered and not self.source.fails_as_one

    def deliver(self, end: int, results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        """Outcomes of its calls up to `end`, of which some were delivered already."""
        first, self.delivered = self.delivered, max(self.delivered, end)
        if first == 0:
            self.source.deliver(self.tokens[:end], results, errors)
        elif first < end:
            errors = {index - first: error for index, error in errors.items() if index >= first}
            self.source.deliver(self.tokens[first:end], results[first:], errors)

    def fail(self, end: int, error: BaseException) -> None:
        """All calls up to `end` that have no outcome yet."""
        self.deliver(end, [None] * end, dict.fromkeys(range(end), error))

    @property
    def runs_whole(self) -> bool:
        """Not again after a worker has died of it: call by call, the board tells which one it was."""
        if self.attempt or not self.source.fails_as_one or len(self.items) == 1:
            return False
        seconds = self.callee.seconds
        return seconds is not None and seconds < WHOLE_BELOW_SECONDS


def fitting(items: Sequence[Any], mode: int) -> int:
    """How many of these, from the first on, weigh no more than a group may carry; at least one."""
    if isinstance(items, range) or (mode == MAP and LIGHT.issuperset(map(type, items))):
        return len(items)
    weight = 0
    for index, item in enumerate(items):
        weight += weigh(item)
        if weight > MAX_ARGUMENT_BYTES:
            return max(1, index)
    return len(items)
