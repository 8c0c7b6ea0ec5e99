"""The worker's side of a pool: an actor that runs groups of calls.

A group is several calls of one function that travel together; it should last about a millisecond. What a slow call
must not do is hide those behind it:

- A group that has lasted longer than it may ends after the call at hand, and the rest is not run.
- While one call runs long, the watching thread gives the rest of its group back, and says so on the board. A deque
  decides: each call is popped once, by the main thread or by the watching one.
- And the outcomes of the calls before it leave at once, by the board's letterbox. They come again with the group's
  answer, for what did not go into the box.

Each call has its own result or error. Results travel in one pickle, which is fast; if it fails, or an exception is
one that plain pickle cannot carry, the pool asks for them one by one (`pick`), so that one bad result spoils no other.
What a single call returned may be large: it is kept for that only until it has been pickled (`_Pickled`).
"""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import starmap
from operator import length_hint
from time import perf_counter
from typing import Any, TypeVar, cast

import miniray
from miniray.pool_worker.board import INDEX_BITS, Marks
from miniray.pool_worker.standing import Standing, take

APPLY, MAP, STARMAP = range(3)  # an item is (args, kwargs), the argument, the arguments
SLOW_SECONDS = 0.002  # a call that lasts longer gives back what is behind it
MAX_RESULT_BYTES = 1 << 20  # a group whose results weigh more ends
KEPT_GROUPS = 8  # more than the pool has under way at one worker
PARK_SECONDS = 0.05
LIGHT = frozenset({int, float, bool, complex, type(None)})
_ALWAYS_PICKLED = LIGHT | {str, bytes, bytearray}

_F = TypeVar("_F", bound=Callable[..., Any])

# number of results, results, errors by index, seconds, what is told when all this has been pickled
Outcome = tuple[int, list[Any], dict[int, "Raised"], float, Any]
Single = tuple[Any, float]  # of one call: its result, seconds
# text of the traceback, the pickled exception, None (it has to be picked) or b"" (it cannot be raised), its name
Raised = tuple[str, bytes | None, str]


class _Run:
    """The group at hand, as both threads see it."""

    __slots__ = ("calls", "has_posted", "number", "raised", "rest", "results", "since")

    def __init__(self, number: int, items: Sequence[Any]) -> None:
        self.number = number
        self.calls = len(items)
        self.rest = deque(items)
        self.results: list[Any] = []
        self.raised: dict[int, BaseException] = {}
        self.has_posted = False
        self.since = perf_counter()

    def take_rest(self) -> int:
        """Take all calls that have not begun; how many remain."""
        taken = 0
        try:
            while True:
                self.rest.pop()
                taken += 1
        except IndexError:
            return self.calls - taken


class OwnFaultError(Exception):
    """The pool's own code has failed in a worker. It is told as it is: each call run by itself might go well, and a
    hundred times as slowly."""


def _own(method: _F) -> _F:
    """What this raises is no error of the user's code: that one's errors are outcomes."""

    @wraps(method)
    def run(*given: Any) -> Any:
        try:
            return method(*given)
        except Exception as error:
            raise OwnFaultError(f"a fault of miniray's pool, please report it: {error!r}") from error

    return cast(_F, run)


class PoolWorker:
    """Runs in a process of its own; what `initializer` raises ends it."""

    def __init__(self, path: str, slot: int, standing: Standing, start: list[Any]) -> None:
        take(standing)
        self._marks = Marks(path, slot)
        self._kept: OrderedDict[int, tuple[list[Any], dict[int, BaseException]]] = OrderedDict()
        self._run: _Run | None = None
        self._thread: threading.Thread | None = None
        self._parked = False
        self._sleep = threading.Lock()
        self._sleep.acquire()
        given = start[0]  # a forked worker has inherited it
        if isinstance(given, miniray.ObjectRef):
            given = miniray.get(given, writable=True)  # only now: proxies among them want the key
        initializer, initargs = given
        if initializer is not None:
            initializer(*initargs)

    def pid(self) -> int:
        return os.getpid()

    @_own
    def run(
        self, function: Callable[..., Any], number: int, mode: int, items: Sequence[Any], longest: float
    ) -> Single | Outcome:
        """Call by call. Ends early when it takes longer than so many seconds, or the results weigh too much."""
        run = _Run(number, items)
        if run.calls > 1:
            self._watch(run)
        results, raised = run.results, run.raised
        weight = 0
        mark, words, take = (number << INDEX_BITS) + 1, self._marks.words, run.rest.popleft
        now = start = run.since
        while run.rest:
            try:
                item = take()
            except IndexError:
                break
            words[0] = mark + len(results)
            run.since = now
            try:
                if mode == MAP:
                    result = function(item)
                elif mode == STARMAP:
                    result = function(*(item if type(item) is tuple else _arguments(item)))
                else:
                    result = function(*item[0], **item[1])
            except BaseException as error:
                raised[len(results)] = error
                result = None
                if isinstance(error, KeyboardInterrupt):  # perhaps the group was dropped: its rest goes back
                    run.take_rest()
            results.append(result)
            now = perf_counter()
            if type(result) not in LIGHT:
                weight += weigh(result)
            if now - start > longest or weight > MAX_RESULT_BYTES:
                run.take_rest()
        self._run = None
        result = item = None
        errors = {index: _describe(error) for index, error in raised.items()}
        if run.calls == 1 and not errors:
            return self._alone(number, results[0], now - start)
        if run.calls > 1 or errors[0][1] is None:
            self._keep(number, results, raised)
        return len(results), results, errors, now - start, None

    def run_one(self, function: Callable[..., Any], number: int, /, *args: Any) -> Single | Outcome:
        """A group of one call. Nothing is around its arguments and its result, which therefore travel fast."""
        self._marks.words[0] = (number << INDEX_BITS) + 1
        start = perf_counter()
        try:
            return self._alone(number, function(*args), perf_counter() - start)
        except BaseException as error:
            described = _describe(error)
            if described[1] is None:
                self._keep(number, [None], {0: error})
            return 1, [None], {0: described}, perf_counter() - start, None

    def _alone(self, number: int, result: Any, seconds: float) -> Single | Outcome:
        if type(result) in _ALWAYS_PICKLED:
            return result, seconds
        self._keep(number, [result], {})
        return 1, [result], {}, seconds, _Pickled(self._kept, number)

    @_own
    def run_whole(self, function: Callable[..., Any], number: int, mode: int, items: Sequence[Any]) -> Outcome:
        """All or nothing, for calls of a `map` that last less than this loop's overhead does."""
        self._marks.words[0] = (number << INDEX_BITS) + len(items)
        start = perf_counter()
        raised: dict[int, BaseException] = {}
        results: list[Any] = []
        rest = iter(items)
        while True:
            try:
                results += map(function, rest) if mode == MAP else starmap(function, rest)
            except BaseException as error:
                raised.setdefault(0, error)
            if not length_hint(rest):
                break
        if len(results) < len(items):
            raised.setdefault(0, StopIteration())  # which `map` took for the end of its input
            results = []
        errors = {index: _describe(error) for index, error in raised.items()}
        self._keep(number, results, raised)
        return len(items), results, errors, perf_counter() - start, None

    def count_kept(self, number: int) -> int:
        """How many calls of a group that has ended were run."""
        return len(self._kept[number][0])

    def pick(self, number: int, index: int) -> Any:
        """One result of a group that has ended, by itself; raises what the call raised."""
        results, raised = self._kept[number]
        if index in raised:
            raise raised[index]
        return results[index]

    def describe(self, number: int, index: int) -> str:
        """How one result looks, if it can be shown at all."""
        try:
            return repr(self._kept[number][0][index])
        except KeyError:
            return "<let go before it failed>"
        except Exception as error:
            return f"<its repr raised {error!r}>"

    def _keep(self, number: int, results: list[Any], raised: dict[int, BaseException]) -> None:
        for error in raised.values():
            error.__traceback__ = None  # whose frames hold all that they worked with
        self._kept[number] = results, raised
        if len(self._kept) > KEPT_GROUPS:
            self._kept.popitem(last=False)

    # ---- the watching thread ----

    def _watch(self, run: _Run) -> None:
        self._run = run
        if not self._marks.is_shared:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._give_back_slowly, name="miniray-pool-watch", daemon=True)
            self._thread.start()
        elif self._parked:
            self._wake()

    def _wake(self) -> None:
        self._parked = False
        try:
            self._sleep.release()
        except RuntimeError:
            pass  # it was awake by itself

    def _give_back_slowly(self) -> None:
        busy = perf_counter()
        while True:
            self._sleep.acquire(timeout=SLOW_SECONDS)
            run, now = self._run, perf_counter()
            if run is not None:
                busy = now
                if now - run.since > SLOW_SECONDS:
                    self._let_go(run)
            elif now - busy > PARK_SECONDS:
                self._parked = True
                if self._run is None:
                    self._sleep.acquire()
                busy = perf_counter()

    def _let_go(self, run: _Run) -> None:
        """The call at hand is slow: it shall hide neither those behind it nor the outcomes of those before it."""
        if run.rest:
            kept = run.take_rest()
            if kept < run.calls:
                self._marks.give_back(run.number, kept)
        if not run.has_posted:
            run.has_posted = True
            results = run.results[:]
            try:
                errors = {index: _describe(run.raised[index]) for index in list(run.raised) if index < len(results)}
                if results and all(dumped is not None for _, dumped, _ in errors.values()):
                    self._marks.post(run.number, pickle.dumps((results, errors)))
            except BaseException:
                pass  # what cannot be pickled is told with the group's answer


def _describe(error: BaseException) -> Raised:
    """Its traceback as text, without our own frame, and itself where plain pickle carries it whole."""
    trace = error.__traceback__
    text = "".join(traceback.format_exception(type(error), error, None if trace is None else trace.tb_next))
    name = type(error).__name__
    try:
        dumped = pickle.dumps(error)
        again = pickle.loads(dumped)
        whole = type(again) is type(error) and repr(again.args) == repr(error.args) and str(again) == str(error)
    except Exception:
        return text, None, name
    return text, dumped if whole else None, name


def _arguments(item: Any) -> Sequence[Any]:
    """What `starmap` makes of an item that is no tuple: the standard pool's error, word for word."""
    return next(starmap(_together, (item,)))


def _together(*arguments: Any) -> tuple[Any, ...]:
    return arguments


class _Pickled:
    """Comes last in what is pickled, and has then nothing to keep any more; arrives as 0."""

    def __init__(self, kept: OrderedDict[int, Any], number: int) -> None:
        self._kept, self._number = kept, number

    def __reduce__(self) -> Any:
        self._kept.pop(self._number, None)
        return int, ()


def weigh(value: Any, depth: int = 2) -> int:
    """About how many bytes a value has, as far as that can be told at once."""
    kind = type(value)
    if kind in LIGHT:
        return 0
    try:
        size = getattr(value, "nbytes", None)
    except Exception:  # of the user's
        return 0
    if type(size) is int:
        return size
    if kind is bytes or kind is str or kind is bytearray:
        return len(value)
    if depth and (kind is tuple or kind is list):
        return sum([weigh(inner, depth - 1) for inner in value[:100]])
    return 0
