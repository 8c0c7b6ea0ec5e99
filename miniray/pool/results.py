"""What a pool gives back: `AsyncResult`, `MapResult`, and the iterators of `imap`.

Each is also a source of calls (`groups.py`). State changes under the dispatcher's lock; whoever waits drives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from multiprocessing import TimeoutError
from types import GenericAlias
from typing import TYPE_CHECKING, Any

from miniray.pool.feeding import Feed, may_block
from miniray.pool.groups import Callee, Source, copy_of, within_task
from miniray.pool_worker.parcels import APPLY, MAP

if TYPE_CHECKING:
    from miniray.pool.dispatch import Dispatcher

Callback = Callable[[Any], object]
_LOOK_AHEAD_GROUPS = 4  # a worker, of calls that were taken from the input and not yet asked for


class ApplyResult:
    """The result of `apply_async`: there at once, with a value later."""

    __slots__ = (
        "__dict__", "__weakref__", "_callback", "_dispatcher", "_done", "_error_callback", "_pool", "_success",
        "_value",
    )  # fmt: skip

    def __init__(
        self, pool: Any, dispatcher: Dispatcher, callback: Callback | None, error_callback: Callback | None
    ) -> None:
        self._pool = pool  # which lives until this is done
        self._dispatcher = dispatcher
        self._callback = callback
        self._error_callback = error_callback
        self._done = False
        self._success = False
        self._value: Any = None

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self._done

    def successful(self) -> bool:
        """Whether it ended without an exception.

        Raises:
            ValueError: it has not ended.
        """
        if not self._done:
            raise ValueError(f"{self!r} not ready")
        return self._success

    @property
    def _job(self) -> int:
        return id(self)

    def wait(self, timeout: float | None = None) -> None:
        """Block until it has ended, or `timeout` seconds have passed."""
        if not self._done:
            self._dispatcher.wait_until(self.ready, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """The value; the exception of the call is raised as it is, with the worker's traceback as its `__cause__`.

        Raises:
            multiprocessing.TimeoutError: it has not ended after `timeout` seconds.
            WorkerCrashedError: the process died while it ran this.
            WorkerInitializerError: the pool's initializer has raised.
        """
        self.wait(timeout)
        if not self._done:
            raise TimeoutError
        if self._success:
            return self._value
        try:
            raise self._value
        finally:  # a frame that holds what it raises is a cycle
            del self

    def settle(self, success: bool, value: Any) -> None:
        """The outcome. With a callback for it, it is shown only when that has run. Under the lock."""
        self._success, self._value = success, value
        callback = self._callback if success else self._error_callback
        dispatcher = self._dispatcher
        if not callback or dispatcher.state == "TERMINATE":
            self.show()
            dispatcher.ended()
        else:
            dispatcher.call_back(partial(self._call_back, callback))

    def _call_back(self, callback: Callback) -> None:
        try:
            callback(self._value)
        finally:
            with self._dispatcher.lock:
                self.show()
                self._dispatcher.ended()

    def show(self) -> None:
        self._pool = self._callback = self._error_callback = None
        self._done = True

    __class_getitem__: Any = classmethod(GenericAlias)


AsyncResult = ApplyResult


class Calls(Source):
    """A source: calls of one function by `apply_async`, in a row."""

    mode = APPLY
    argument: Any = None
    chunk = 1
    fails_as_one = False

    def __init__(self, callee: Callee) -> None:
        self.callee = callee
        # in one, not two: a finaliser that brings a call may run between any two lines
        self._calls: deque[tuple[ApplyResult, tuple[Sequence[Any], Mapping[str, Any]]]] = deque()

    def append(self, result: ApplyResult, args: Sequence[Any], kwds: Mapping[str, Any]) -> None:
        self._calls.append((result, (args, dict(kwds) if kwds and type(kwds) is dict else kwds)))

    def take(self, limit: int) -> tuple[Sequence[Any], Sequence[Any]] | None:
        taken = [self._calls.popleft() for _ in range(min(limit, len(self._calls)))]
        return ([result for result, _ in taken], [item for _, item in taken]) if taken else None

    def remaining(self) -> int | None:
        return len(self._calls)

    def withdraw(self, token: ApplyResult) -> bool:
        """Whether it was here."""
        for index, (result, _) in enumerate(self._calls):
            if result is token:
                del self._calls[index]
                return True
        return False

    def waiting(self) -> list[ApplyResult]:
        """What was not taken yet."""
        return [result for result, _ in self._calls]

    def deliver(
        self, tokens: Sequence[ApplyResult], results: Sequence[Any], errors: dict[int, BaseException]
    ) -> None:
        for index, result in enumerate(tokens):
            error = errors.get(index)
            if error is None:
                result.settle(True, results[index])
            else:
                result.settle(False, error)

    def abandon(self, error: BaseException) -> None:
        while self._calls:
            self._calls.popleft()[0].settle(False, copy_of(error))


class LoneCall(Source):
    """A source: the one call of `apply`, and its outcome, for the caller who waits for it."""

    __slots__ = ("_dispatcher", "_items", "callee", "is_done", "is_dropped", "success", "value")

    mode = APPLY
    argument: Any = None
    chunk = 1
    fails_as_one = False

    def __init__(
        self, dispatcher: Dispatcher, callee: Callee, args: Sequence[Any], kwds: Mapping[str, Any]
    ) -> None:
        self._dispatcher = dispatcher
        self.callee = callee
        self._items: Sequence[Any] = ((args, kwds),)
        self.is_done = self.is_dropped = False
        self.success = False
        self.value: Any = None

    def all(self) -> tuple[Sequence[Any], Sequence[Any]]:
        items, self._items = self._items, ()
        return (self,), items

    def take(self, limit: int) -> tuple[Sequence[Any], Sequence[Any]] | None:
        return self.all() if self._items else None

    def remaining(self) -> int | None:
        return len(self._items)

    def deliver(self, tokens: Sequence[Any], results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        self.success = not errors
        self.value = errors[0] if errors else results[0]
        self.is_done = True
        self._dispatcher.ended()

    def abandon(self, error: BaseException) -> None:
        if self._items:
            self.fail(self.all()[0], error)


class MapResult(ApplyResult, Source):
    """The result of `map_async`: a list of values, or the first exception once all calls have ended."""

    __slots__ = ("_items", "_left", "_next", "argument", "callee", "chunk", "fails_as_one", "mode")

    def __init__(self, items: Sequence[Any], callee: Callee, mode: int, chunk: int, *given: Any) -> None:
        super().__init__(*given)
        self.callee = callee
        self.mode = mode
        self.chunk = chunk
        self.argument: Any = None
        self.fails_as_one = True
        self._items = items
        self._next = 0
        self._left = len(items)
        self._success = True
        self._value = [None] * len(items)

    def drop(self) -> None:
        """Its calls are not wanted any more."""
        self._dispatcher.drop(self)

    @property
    def _number_left(self) -> int:
        """Chunks that have not ended: programs show it as progress."""
        return -(-self._left // self.chunk)

    @property
    def _chunksize(self) -> int:
        return self.chunk

    def take(self, limit: int) -> tuple[Sequence[Any], Sequence[Any]] | None:
        first = self._next
        items = self._items[first : first + within_task(self, first, limit)]
        if not items:
            self._items = ()
            return None
        self._next += len(items)
        return range(first, self._next), items

    def remaining(self) -> int | None:
        return len(self._value) - self._next if self._success else None

    def deliver(self, tokens: Sequence[int], results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        self._left -= len(tokens)
        if errors and self._success:
            self._success = False
            self._value = errors[min(errors)]
        elif self._success:
            self._value[tokens[0] : tokens[-1] + 1] = results
        if not self._left:
            self.settle(self._success, self._value)

    def abandon(self, error: BaseException) -> None:
        self._items = ()
        self._next = len(self._value) if self._success else self._next
        if self._left:
            self._left = 0
            self.settle(False, copy_of(error))


def _items_of(iterable: Iterable[Any]) -> Iterator[Any]:
    """Of any input: what is none says so when the first result is asked for, as with the standard pool."""
    try:
        return iter(iterable)
    except Exception as error:
        return _raise(error)


def _raise(error: Exception) -> Iterator[Any]:
    raise error
    yield


class IMapIterator(Source):
    """The iterator of `imap`: results in the order of the input, which is read only so far ahead as is useful."""

    mode = MAP
    argument: Any = None
    fails_as_one = False

    def __init__(self, pool: Any, dispatcher: Dispatcher, callee: Callee, iterable: Any, chunk: int) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self.callee = callee
        self.chunk = chunk
        self._input: Iterator[Any] = _items_of(iterable)
        self._feed: Feed | None = Feed(self._input) if may_block(iterable) else None
        self.reads_on = self._feed is not None
        self._items: deque[tuple[bool, Any]] = deque()
        self._unsorted: dict[int, tuple[bool, Any]] = {}
        self._taken = 0  # calls that were taken from the input
        self._index = 0  # results that are in order
        self._consumed = 0
        self._length: int | None = None
        self.is_stalled = False  # it has calls, and too many are under way or not asked for
        self._is_asked = False  # for a result

    def __iter__(self) -> Iterator[Any]:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """The next result; the exception of its call is raised, and the iterator goes on behind it.

        Raises:
            StopIteration: there are no more.
            RuntimeError: the call has raised StopIteration (which a loop would take for the end).
            multiprocessing.TimeoutError: it has not ended after `timeout` seconds.
        """
        if not self._is_asked:
            self._dispatcher.asked(self)
            self._is_asked = True
        if self.is_stalled and self.room() > 0:
            self._dispatcher.resume(self)
        items = self._items
        if not items:
            self._dispatcher.wait_until(self._has_next, timeout)
            if not items:
                if self._has_next():
                    self._pool = None
                    raise StopIteration
                raise TimeoutError
        # Nothing is called from here on: Python runs no signal's handler, and no other thread, between the look at the
        # result and its way to the caller. An interrupt costs none.
        success, value = items[0]
        del items[0]
        self._consumed += 1
        if success:
            return value
        if type(value) is StopIteration:
            raise RuntimeError("the call raised StopIteration") from value
        try:
            raise value
        finally:
            del value

    __next__ = next

    def _has_next(self) -> bool:
        return bool(self._items) or self._index == self._length

    def leave(self, deadline: float) -> None:
        """The interpreter exits: nothing more is read, and the thread that did it ends, if it can by then."""
        if self._feed is not None:
            self._feed.leave(deadline)

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is not None:
            feed.close()

    # ---- a source ----

    def room(self) -> int:
        """How many more calls may be taken from the input. All, once the pool is closed and nobody has asked for a
        result: then they are there for what they do."""
        dispatcher = self._dispatcher
        if dispatcher.reads_all or (dispatcher.state == "CLOSE" and not self._is_asked):
            return 1 << 30
        workers = dispatcher.processes
        ahead = _LOOK_AHEAD_GROUPS * workers * max(self.callee.group_size(), self.chunk)
        return ahead - (self._taken - self._consumed)

    def take(self, limit: int) -> tuple[Sequence[Any], Sequence[Any]] | None:
        room = self.room()
        error: BaseException | None
        if self._length is not None:
            return None
        self.is_stalled = True
        if room <= 0:
            return None
        if self._feed is None:
            try:
                items = list(islice(self._input, within_task(self, self._taken, min(limit, room))))
                ended, error = not items, None
            except Exception as problem:
                items, ended, error = [], True, problem
        else:
            items, ended, error = self._feed.take(min(limit, room), self)
        if ended:
            self._end(error)
        if not items:
            return None
        self.is_stalled = False
        first = self._taken
        self._taken += len(items)
        return range(first, self._taken), items

    def _end(self, error: BaseException | None) -> None:
        """The input has no more; what it raised comes in its place."""
        self.is_stalled = False
        self._length = self._taken
        if error is not None:
            self._length = self._taken = self._taken + 1
            self._arrive(self._taken - 1, (False, error))
        self._dispatcher.iterator_changed(self)

    def remaining(self) -> int | None:
        return None

    def deliver(self, tokens: Sequence[int], results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        for position, index in enumerate(tokens):
            error = errors.get(position)
            self._arrive(index, (True, results[position]) if error is None else (False, error))
        self._dispatcher.iterator_changed(self)

    def _arrive(self, index: int, outcome: tuple[bool, Any]) -> None:
        if index != self._index:
            self._unsorted[index] = outcome
            return
        self._items.append(outcome)
        self._index += 1
        while self._index in self._unsorted:
            self._items.append(self._unsorted.pop(self._index))
            self._index += 1

    def abandon(self, error: BaseException) -> None:
        if self._feed is not None:
            self._feed.close()
        if self._length is None:
            self._length = self._taken + 1
            self._taken += 1
            self._arrive(self._taken - 1, (False, copy_of(error)))
            self._dispatcher.iterator_changed(self)

    @property
    def has_all(self) -> bool:
        return self._index == self._length


class IMapUnorderedIterator(IMapIterator):
    """The iterator of `imap_unordered`: results as they come."""

    def _arrive(self, index: int, outcome: tuple[bool, Any]) -> None:
        self._index += 1  # before the item is seen: whoever sees it may ask whether there is more
        self._items.append(outcome)
