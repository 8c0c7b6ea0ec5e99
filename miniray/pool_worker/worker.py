"""The worker's side of a pool: an actor that runs groups of calls.

A group is several calls of one function that travel together; it should last about a millisecond. What a slow call
must not do is hide those around it:

- A group that has lasted longer than it may ends after the call at hand, and the rest is not run.
- While one call runs long, the watching thread gives the rest of its group back, and says so on the board. A deque
  decides: each call is popped once, by the main thread or by the watching one.
- Each outcome goes into the board's letterbox as soon as it is there, where somebody may be waiting for it alone. All
  come again with the group's answer, for what the box did not take.

Each call has its own result or error. A result that could change is pickled at once (`parcels.py`); one that cannot be
pickled like that ends its group. If the answer cannot be pickled the pool asks for each result by itself (`separate`),
so that one bad result spoils no other.
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
from typing import Any, NamedTuple, TypeVar, cast

import miniray
from miniray.pool_worker.board import INDEX_BITS, Marks
from miniray.pool_worker.parcels import ATOMS, MAP, STARMAP, is_atomic, unpack, unpack_with
from miniray.pool_worker.standing import Standing, take

SLOW_SECONDS = 0.002  # a call that lasts longer gives back what is behind it
MAX_RESULT_BYTES = 1 << 20  # a group whose results weigh more ends
KEPT_GROUPS = 8  # more than the pool has under way at one worker
PARK_SECONDS = 0.05
LIGHT = frozenset({int, float, bool, complex, type(None)})
_ALWAYS_PICKLED = ATOMS | {bytearray}

_F = TypeVar("_F", bound=Callable[..., Any])

# seconds that the group may last; whether its results are not one pickle under the standard pool; whether somebody may
# wait for one of them alone
How = tuple[float, bool, bool]
# number of results, results, those among them that are pickles, errors by index, seconds, what is told when all this
# has been pickled
Outcome = tuple[int, list[Any], list[int], dict[int, "Raised"], float, Any]
Single = tuple[Any, float]  # of one call: its result, seconds
# text of the traceback; the pickled exception; None, or its refs, if `pack_error` had to pack it; its name
Raised = tuple[str, bytes, list[Any] | None, str]
# a ref of a list of the result; None: it cannot be pickled, for this packed reason, and looks like this
Separate = tuple[miniray.ObjectRef[Any] | None, tuple[bytes, list[Any]], str]


class RaisedEarly:
    """In the letterbox, among results: what a call raised."""

    def __init__(self, raised: Raised) -> None:
        self.raised = raised


class _Run:
    """The group at hand, as both threads see it."""

    __slots__ = ("calls", "number", "rest", "since")

    def __init__(self, number: int, items: Sequence[Any]) -> None:
        self.number = number
        self.calls = len(items)
        self.rest = deque(items)
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


class _Kept(NamedTuple):
    """The outcomes of a group that has ended."""

    results: list[Any]
    packed: list[int]  # those that are pickles
    errors: dict[int, Raised]

    def separate(self, index: int) -> Separate:
        result: Any = "<it cannot be read>"
        try:
            result = pickle.loads(self.results[index]) if index in self.packed else self.results[index]
            return miniray.put([result]), (b"", []), ""
        except Exception as error:
            problem = error
        try:
            shown = repr(result)
        except Exception as error:
            shown = f"<its repr raised {error!r}>"
        return None, miniray.pack_error(problem), shown


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
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
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

    def learn(self, function: Callable[..., Any]) -> None:
        """It comes with this call, and what it imports is imported, before anybody waits for that."""

    def run_parcels(
        self, function: Callable[..., Any] | bytes, number: int, mode: int, parcels: Sequence[bytes], how: How
    ) -> Single | Outcome:
        """`run` for calls that came in parcels, perhaps with a function that is pickled, too."""
        if isinstance(function, bytes):
            return self.run(None, number, mode, unpack_with(function, parcels), how)
        return self.run(function, number, mode, unpack(parcels), how)

    @_own
    def run(
        self, function: Any, number: int, mode: int, items: Sequence[Any], how: How
    ) -> Single | Outcome:
        """Call by call, until it takes longer than it may, or the results weigh too much. Without a function each item
        comes with its own."""
        run = _Run(number, items)
        if run.calls > 1:
            self._watch(run)
        longest, packs, posts = how
        snapshot, has_own = miniray.Snapshots().take if packs else None, function is None
        posts = posts and self._marks.begin_posts(number)
        kept = results, packed, errors = _Kept([], [], {})
        weight = 0
        mark, words, take = (number << INDEX_BITS) + 1, self._marks.words, run.rest.popleft
        post, dumps = self._marks.post, pickle.dumps
        now = start = run.since
        while run.rest:
            try:
                item = take()
            except IndexError:
                break
            index = len(results)
            words[0] = mark + index
            run.since = now
            data: bytes | None = None
            try:
                if has_own:
                    function, item = item
                if mode == MAP:
                    result = function(item)
                elif mode == STARMAP:
                    result = function(*(item if type(item) is tuple else _arguments(item)))
                else:
                    result = function(*item[0], **item[1])
                if snapshot is not None and type(result) not in ATOMS and not is_atomic(result):
                    data = snapshot(result)
                    if data is None:  # it may change: no other call is run before it has left
                        posts = False
                        run.take_rest()
                    else:
                        result = data
                        packed.append(index)
            except BaseException as error:
                result, errors[index] = None, _describe(error)
                if isinstance(error, KeyboardInterrupt):  # perhaps the group was dropped: its rest goes back
                    run.take_rest()
            results.append(result)
            if posts:
                early = dumps(result) if data is None else data
                posts = self._tell(errors[index]) if index in errors else post(early)
                if not posts:  # then it leaves with all others, now
                    run.take_rest()
            now = perf_counter()
            if type(result) not in LIGHT:
                weight += weigh(result)
            if now - start > longest or weight > MAX_RESULT_BYTES:
                run.take_rest()
        self._run = None
        result = item = data = None
        return self._answer(run, kept, now - start)

    def _answer(self, run: _Run, kept: _Kept, seconds: float) -> Single | Outcome:
        if run.calls == 1 and not kept.errors:
            return self._alone(run.number, kept.results[0], seconds)
        if run.calls > 1:
            self._keep(run.number, kept)
        return len(kept.results), kept.results, kept.packed, kept.errors, seconds, None

    def _tell(self, raised: Raised) -> bool:
        """What a call raised leaves; whether the next outcome may, too."""
        return not raised[2] and self._marks.post(pickle.dumps(RaisedEarly(raised)))

    def run_one(self, function: Callable[..., Any], number: int, /, *args: Any) -> Single | Outcome:
        """A group of one call. Nothing is around its arguments and its result, which therefore travel fast."""
        self._marks.words[0] = (number << INDEX_BITS) + 1
        start = perf_counter()
        try:
            return self._alone(number, function(*args), perf_counter() - start)
        except BaseException as error:
            return 1, [None], [], {0: _describe(error)}, perf_counter() - start, None

    def _alone(self, number: int, result: Any, seconds: float) -> Single | Outcome:
        if type(result) in _ALWAYS_PICKLED:
            return result, seconds
        self._keep(number, _Kept([result], [], {}))
        return 1, [result], [], {}, seconds, _Pickled(self._kept, number)

    @_own
    def run_whole(self, function: Callable[..., Any], number: int, mode: int, items: Sequence[Any]) -> Outcome:
        """All or nothing, for calls of one task that last less than this loop's overhead does."""
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
        self._keep(number, _Kept(results, [], errors))
        return len(items), results, [], errors, perf_counter() - start, None

    @_own
    def separate(self, number: int) -> tuple[list[Separate], dict[int, Raised]] | None:
        """What the calls of a group gave, each result by itself; None: that was let go when it had been pickled."""
        kept = self._kept.get(number)
        return None if kept is None else ([kept.separate(index) for index in range(len(kept.results))], kept.errors)

    def _keep(self, number: int, kept: _Kept) -> None:
        self._kept[number] = kept
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
        """The call at hand is slow, and shall not hide those behind it."""
        if run.rest:
            kept = run.take_rest()
            if kept < run.calls:
                self._marks.give_back(run.number, kept)


def _describe(error: BaseException) -> Raised:
    """Its traceback as text, without our own frame, and itself, by its own pickle where that carries it whole."""
    trace = error.__traceback__
    text = "".join(traceback.format_exception(type(error), error, None if trace is None else trace.tb_next))
    name = type(error).__name__
    try:
        dumped = miniray.Snapshots().take(error)
        if dumped is not None:
            again = pickle.loads(dumped)
            if type(again) is type(error) and repr(again.args) == repr(error.args) and str(again) == str(error):
                return text, dumped, None, name
    except Exception:
        pass
    return text, *miniray.pack_error(error), name


def _arguments(item: Any) -> Sequence[Any]:
    """What `starmap` makes of an item that is no tuple: the standard pool's error, word for word."""
    return next(starmap(_together, (item,)))


def _together(*arguments: Any) -> tuple[Any, ...]:
    return arguments


class _Pickled:
    """Comes last in what is pickled, and has then nothing to keep any more; arrives as 0."""

    def __init__(self, kept: OrderedDict[int, _Kept], number: int) -> None:
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
    if depth and (kind is tuple or kind is list) and not LIGHT.issuperset(map(type, value[:100])):
        return sum([weigh(inner, depth - 1) for inner in value[:100]])
    return 0
