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
from operator import attrgetter, itemgetter
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any
from weakref import WeakValueDictionary

import miniray
from miniray.errors import ObjectStoreFullError, SerializationError
from miniray.pool_worker.parcels import APPLY, MAP, Parcel, are_atomic, is_atomic, pack
from miniray.pool_worker.worker import LIGHT, weigh

GROUP_SECONDS = 0.001  # what a group should last
TOGETHER_SECONDS = 0.05  # the same where results are only seen together: each time a worker stands still for 0.5 ms,
# since the pool's process, which reads the group and sends another, takes its core
GROWTH = 32  # a group is at most this many times as large as the largest that was measured
MAX_GROUP_ITEMS = 25_000
LAST_GROUPS = 4  # towards the end groups become smaller, down to this part of their size
LAST_TOGETHER = 8  # the same where results are only seen together
STORED_BYTES = 1 << 16  # a callable of so many is stored
LONG_TASK_CALLS = 64  # a chunk of so many is never sent together with another, and so needs no parcels
MAX_ARGUMENT_BYTES = 1 << 20  # a group of several calls carries no more
WEIGHED_ITEMS = 16  # about so many of the next 32, of the next 64, of the next 128 are weighed
WHOLE_BELOW_SECONDS = 2e-6  # calls that are shorter run as one `list(map(...))`
KNOWN_CALLEES = 64
PLAIN = LIGHT | {str}  # arguments of a single call that need no group around them
_SMOOTHING = 0.5
_SENT_ONCE = (FunctionType, type, functools._lru_cache_wrapper)  # what cannot change unseen
_BUILTIN = (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType)


class Callee:
    """A function, and what its calls have taken."""

    __slots__ = ("__weakref__", "function", "has_state", "is_inherited", "is_sent_once", "most", "seconds", "size")

    def __init__(self, function: Callable[..., Any], *, is_forked: bool = False) -> None:
        self.function = function
        self.is_sent_once = isinstance(function, _SENT_ONCE)  # others travel with each group, as arguments
        self.has_state = not self.is_sent_once and _has_state(function)  # then each task has its own copy of it
        self.is_inherited = is_forked and self.has_state and not _can_be_pickled(function)  # then there can be none
        self.seconds: float | None = None  # one call's, smoothed
        self.size = 1  # calls of the largest group that was measured
        self.most = MAX_GROUP_ITEMS  # its groups have no more: one that ended early had so many

    def measured(self, calls: int, seconds: float) -> None:
        one = seconds / calls
        self.seconds = one if self.seconds is None else self.seconds + _SMOOTHING * (one - self.seconds)
        self.size = max(self.size, calls)

    def was_run(self, done: int, calls: int, *, is_early: bool) -> None:
        """So many calls of a group were run; early: and then no more, for no fault of the pool's."""
        if is_early:
            self.most = max(1, done)
        elif calls >= self.most:
            self.most = min(2 * self.most, MAX_GROUP_ITEMS)

    def group_size(self, target: float = GROUP_SECONDS) -> int:
        """How many calls last about so many seconds."""
        if self.seconds is None:
            return 1
        return max(1, min(int(target / (self.seconds + 1e-8)), self.size * GROWTH, self.most))

    def expected(self, calls: int) -> float:
        return float("inf") if self.seconds is None else self.seconds * calls

    def stored(self) -> Any:
        """What is sent in place of a callable that cannot be sent once, such as a bound method or a partial: if it is
        large, it is stored once for all groups of a `map`. None: itself."""
        if self.is_sent_once or self.is_inherited or isinstance(self.function, BuiltinFunctionType):
            return None
        data = miniray.Snapshots().take(self.function)
        if data is not None and len(data) < STORED_BYTES:
            return None
        try:
            return miniray.put(self.function)
        except (SerializationError, ObjectStoreFullError):
            return None  # each call then says why

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", None) or repr(self.function)


def _has_state(function: Any) -> bool:
    """Whether a call may change what others would see: a bound method's instance, a partial's list."""
    if is_atomic(function) or isinstance(function, (*_SENT_ONCE, ModuleType, itemgetter, attrgetter)):
        return False
    if isinstance(function, functools.partial):
        held = (function.func, *function.args, *function.keywords.values())
        return bool(function.__dict__) or any(map(_has_state, held))
    if isinstance(function, (MethodType, *_BUILTIN)):
        return _has_state(getattr(function, "__self__", None))
    try:
        return not isinstance(function.__reduce_ex__(4), str)  # else it goes by its name, as a ufunc does
    except Exception:
        return True


def _can_be_pickled(function: Any) -> bool:
    snapshots = miniray.Snapshots()
    if not callable(function) or snapshots.take(function) is not None or snapshots.met_descriptor:
        return True
    try:
        miniray.put(function)  # what a snapshot leaves out: refs, large arrays
    except (SerializationError, ObjectStoreFullError):
        return False
    return True


class Callees:
    """The callees seen last, by identity. Bound methods are made anew at each access, so these go by their parts.

    Those that may hold users' objects (a method, a partial) are known only while calls of them are under way.
    """

    def __init__(self, meet: Callable[[Callable[..., Any]], bool]) -> None:
        self._meet = meet  # is told of those that are not known, and says whether workers are forked
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
            callee = Callee(function, is_forked=self._meet(function))
            if callee.is_sent_once or isinstance(getattr(function, "__self__", None), ModuleType):
                self._known[key] = callee
                if len(self._known) > KNOWN_CALLEES:
                    self._known.popitem(last=False)
            else:
                self._under_way[key] = callee
        return callee


def copy_of(error: BaseException) -> BaseException:
    """An error of miniray's own, for one result alone: one that several raise, perhaps in several threads, would
    collect the tracebacks and contexts of all."""
    copied = type(error).__new__(type(error), *error.args)  # twice as fast as `copy`: there may be many
    vars(copied).update(vars(error))
    copied.__cause__, copied.__suppress_context__ = error.__cause__, error.__suppress_context__
    return copied


class Source:
    """Where calls come from, and where their outcomes go. All its methods run under the pool's lock."""

    __slots__ = ()

    callee: Callee
    mode: int
    argument: Any  # what is sent in place of the function; None: itself
    chunk: int  # so many calls are one task for `maxtasksperchild`
    fails_as_one: bool
    reads_on = False  # whether its items are read as it goes, and some of them are parcels
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

    def fail(self, tokens: Sequence[Any], error: BaseException) -> None:
        """These calls fail with this, each with a copy of its own."""
        errors = {index: copy_of(error) for index in range(1 if self.fails_as_one else len(tokens))}
        self.deliver(tokens, [None] * len(tokens), errors)

    def abandon(self, error: BaseException) -> None:
        """The same of those that were not taken yet."""
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

    def withdraw(self, token: Any) -> bool:
        """Whether it was here."""
        for index, one in enumerate(self.tokens):
            if one is token:
                self.tokens = [*self.tokens[:index], *self.tokens[index + 1 :]]
                self.items = [*self.items[:index], *self.items[index + 1 :]]
                return True
        return False

    def remaining(self) -> int | None:
        """With those behind it, where that is known."""
        behind = self.source.remaining()
        return None if behind is None else len(self.tokens) + behind


class Group:
    """Calls on their way."""

    __slots__ = (
        "attempt", "callee", "delivered", "expected", "is_claimed", "is_recalled", "items", "kept", "member", "number",
        "packed_function", "parcels", "problem", "ref", "source", "tokens",
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
        self.parcels: list[bytes] | None = None  # the items, if they go as these
        self.packed_function: bytes | None = None  # of which each parcel has its own
        self.delivered = 0  # outcomes that came before the group had ended
        self.expected = source.callee.expected(len(items))  # seconds, as far as was known when it was made
        self.is_claimed = False  # a thread collects it
        self.is_recalled = False
        self.ref: Any = None
        self.problem: Any = None  # why its answer could not be read: `ref` is of another, of each result by itself
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
    def needs_packing(self) -> bool:
        """Whether calls of it that are tasks of their own might share what can change."""
        items = self.items
        if len(items) == 1:
            return type(items[0]) is Parcel and items[0].ref is None
        if len(tasks_of(self.source, self.tokens)) > 1:
            return self.callee.has_state or not are_atomic(items, self.source.mode)
        return self.source.reads_on and Parcel in set(map(type, items))

    def pack(self) -> int:
        """Make the parcels; how many of its calls can go, together with the first. Runs users' code."""
        ends = tasks_of(self.source, self.tokens)
        if self.callee.has_state and len(ends) > 1:
            self.packed_function = miniray.Snapshots().take(self.callee.function)
            if self.packed_function is None:
                ends = ends[:1]
        parcels, count = pack(self.items, ends)
        if parcels:
            self.parcels = parcels
            return count
        self.packed_function = None  # the first task by itself, and as it is
        if Parcel not in set(map(type, self.items[: ends[0]])):
            return ends[0]
        first = self.items[0]
        if type(first) is Parcel and first.data is not None:
            self.parcels = [first.data]
        return 1

    def shorten(self, calls: int) -> None:
        """The rest goes with another group."""
        self.tokens, self.items, self.kept = self.tokens[:calls], self.items[:calls], calls
        self.expected = self.callee.expected(calls)

    @property
    def packs_results(self) -> bool:
        """Whether some of its results share nothing under the standard pool."""
        return len(self.items) > 1 and (self.is_awaited or len(tasks_of(self.source, self.tokens)) > 1)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody may wait for one of its outcomes alone."""
        return len(self.items) > 1 and not self.source.fails_as_one

    def deliver_posted(self, first: int, results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        """Outcomes of its calls from `first` on."""
        if self.delivered == first:  # else another thread was faster
            self.delivered += len(results)
            self.source.deliver(self.tokens[first : self.delivered], results, errors)

    def deliver(self, end: int, results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        """Outcomes of its calls up to `end`, of which some were delivered already."""
        first, self.delivered = self.delivered, max(self.delivered, end)
        if first == 0 < end:
            self.source.deliver(self.tokens[:end], results, errors)
        elif first < end:
            errors = {index - first: error for index, error in errors.items() if index >= first}
            self.source.deliver(self.tokens[first:end], results[first:], errors)

    def fail(self, end: int, error: BaseException) -> None:
        """All calls up to `end` that have no outcome yet."""
        first, self.delivered = self.delivered, max(self.delivered, end)
        if first < end:
            self.source.fail(self.tokens[first:end], error)

    @property
    def runs_whole(self) -> bool:
        """Calls of one task only: their results share what they share under the standard pool. Not again after a
        worker has died of it: call by call, the board tells which one it was."""
        if self.attempt or not self.source.fails_as_one or len(self.items) == 1 or self.parcels:
            return False
        if len(tasks_of(self.source, self.tokens)) > 1:
            return False
        seconds = self.callee.seconds
        return seconds is not None and seconds < WHOLE_BELOW_SECONDS


def tasks_of(source: Source, tokens: Sequence[Any]) -> Sequence[int]:
    """Calls in a row as the tasks that the user sees, single calls or chunks: the end of each."""
    count, chunk = len(tokens), source.chunk
    if chunk == 1 or not isinstance(tokens, range):
        return range(1, count + 1)
    return [*range(chunk - tokens.start % chunk, count, chunk), count]


def within_task(source: Source, first: int, limit: int) -> int:
    """Up to `limit` calls from this one on, of one task only if that is long enough, or if the function was stored: it
    is loaded once for each group."""
    if source.chunk < LONG_TASK_CALLS and source.argument is None:
        return limit
    return min(limit, source.chunk - first % source.chunk)


def fitting(source: Source, tokens: Sequence[Any], items: Sequence[Any]) -> int:
    """How many of these calls, from the first on, may go together; at least one."""
    return within_task(source, tokens[0], _light_enough(items))


def _light_enough(items: Sequence[Any]) -> int:
    """So many carry no more than they may, as far as some of them tell: to weigh each takes as long as to pickle it."""
    count = weight = 0
    while count < len(items):
        more = max(1, count)
        step = more // WEIGHED_ITEMS | 1  # odd: what is heavy comes at even distances, if at equal ones
        weight += step * sum(map(weigh, items[count : count + more : step]))
        if weight > MAX_ARGUMENT_BYTES:
            return max(1, count)
        count += more
    return len(items)
