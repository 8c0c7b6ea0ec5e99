"""What an executor sends: calls that were submitted one by one, and those of one `map` (`miniray.pool.groups`).

All methods of a source run under the dispatcher's lock, but for `MapCalls.cancel`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from miniray.executor.errors import as_standard
from miniray.executor.future import Future, come_back, finish, start
from miniray.pool.groups import Callee, Group, Source, copy_of, within_task
from miniray.pool_worker.parcels import APPLY

if TYPE_CHECKING:
    from miniray.executor.interrupts import Interrupts
    from miniray.pool.dispatch import Dispatcher


class Submissions(Source):
    """Calls of one function by `submit`, in a row."""

    mode = APPLY
    argument: Any = None
    chunk = 1
    fails_as_one = False
    raises_exits = True

    def __init__(self, dispatcher: Dispatcher, callee: Callee, *, travels_alone: bool) -> None:
        self.callee = callee
        self.travels_alone = travels_alone
        self._dispatcher = dispatcher
        # in one, not two: a finaliser that brings a call may run between any two lines
        self._calls: deque[tuple[Future[Any], tuple[tuple[Any, ...], dict[str, Any]]]] = deque()

    def append(self, future: Future[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls.append((future, (args, kwargs)))

    def take(self, limit: int) -> tuple[Sequence[Any], Sequence[Any]] | None:
        taken = [self._calls.popleft() for _ in range(min(limit, len(self._calls)))]
        return ([future for future, _ in taken], [item for _, item in taken]) if taken else None

    def remaining(self) -> int | None:
        return len(self._calls)

    def starts(self, tokens: Sequence[Any], items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        gone = start(tokens)
        if not gone:
            return tokens, items
        self._dispatcher.ended(len(gone))
        kept = [index for index in range(len(tokens)) if index not in gone]
        return [tokens[index] for index in kept], [items[index] for index in kept]

    def come_back(self, tokens: Sequence[Any]) -> None:
        come_back(tokens)

    def deliver(self, tokens: Sequence[Any], results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        if errors:
            errors = {index: as_standard(error) for index, error in errors.items()}
        with_callbacks = finish(tokens, results, errors)
        for future in with_callbacks:
            self._dispatcher.call_back(future.call_back)
        if len(tokens) > len(with_callbacks):
            self._dispatcher.ended(len(tokens) - len(with_callbacks))

    def abandon(self, error: BaseException) -> None:
        futures = self.waiting()
        self._calls.clear()
        self.fail(futures, error)

    def waiting(self) -> list[Future[Any]]:
        """What was not taken yet."""
        return [future for future, _ in self._calls]


class MapCalls(Source):
    """The calls of one `map`, and their outcomes, in order.

    Args:
        rows: what is left of the input: arguments, or tuples of them. None: it was read already.
        interrupts: where calls that run can be cancelled, too.
    """

    argument: Any = None
    fails_as_one = False
    raises_exits = True

    def __init__(
        self,
        dispatcher: Dispatcher,
        callee: Callee,
        mode: int,
        chunk: int,
        rows: Iterator[Any] | None,
        interrupts: Interrupts | None,
    ) -> None:
        self.callee = callee
        self.mode = mode
        self.chunk = chunk
        self._dispatcher = dispatcher
        self._interrupts = interrupts
        self._rows = rows
        self._items: Sequence[Any] = ()
        self._taken = 0  # of these items
        self._read = 0  # calls, so far
        self._left = 0  # of these, that have no outcome yet
        self._is_queued = False
        self._outcomes: dict[int, tuple[Sequence[Any], dict[int, BaseException]]] = {}  # by number of their first call
        self._is_unwanted = False

    # ---- a source ----

    def take(self, limit: int) -> tuple[Sequence[Any], Sequence[Any]] | None:
        first = self._read - len(self._items) + self._taken
        items = self._items[self._taken : self._taken + within_task(self, first, limit)]
        if not items:
            self._items, self._taken = (), 0
            self._is_queued = False
            return None
        self._taken += len(items)
        return range(first, first + len(items)), items

    def remaining(self) -> int | None:
        return len(self._items) - self._taken

    def starts(self, tokens: Sequence[Any], items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        if not self._is_unwanted:
            return tokens, items
        self.deliver(tokens, [None] * len(tokens), {0: CancelledError()})
        return (), ()

    def deliver(self, tokens: Sequence[int], results: Sequence[Any], errors: dict[int, BaseException]) -> None:
        if errors and self._is_unwanted and self._interrupts is not None:  # of what was struck
            errors = dict.fromkeys(errors, CancelledError())
        self._outcomes[tokens[0]] = results, errors
        self._left -= len(tokens)
        self._dispatcher.ended(len(tokens))

    def abandon(self, error: BaseException) -> None:
        while (taken := self.take(len(self._items))) is not None:
            self.deliver(taken[0], [None] * len(taken[0]), {0: copy_of(error)})

    def cancel(self) -> None:
        """What has not started does not run, and what runs is stopped, if that can be. From a finaliser, perhaps: no
        lock is taken."""
        self._is_unwanted = True
        if self._left and self._interrupts is not None:
            self._dispatcher.call_back(partial(self._interrupts.strike, self._is_of))
        else:
            self._dispatcher.attendant.nudge()

    def _is_of(self, group: Group) -> bool:
        return group.source is self

    # ---- what the user iterates over ----

    def results(self, deadline: float | None, read_on: Callable[[MapCalls], None]) -> Iterator[Any]:
        """The results in order; the first exception ends them. None is held on to once it has been given."""
        number = 0
        try:
            while number < self._read:
                results, errors = self._await(number, deadline)
                # the list itself is emptied, since the thread that has delivered it may not have let go of it yet
                left = results if isinstance(results, list) else list(results)
                del results
                left.reverse()
                size = len(left)
                while left:
                    if self._rows is not None and number % self.chunk == 0:
                        read_on(self)
                    error = errors.get(size - len(left))
                    if error is not None:
                        raise error
                    number += 1
                    yield left.pop()
        finally:
            error = None  # whose traceback has this frame
            self.cancel()

    def read(self) -> list[Any]:
        """The next chunk of the input."""
        return list(islice(self._rows or (), self.chunk))

    def extend(self, items: Sequence[Any]) -> None:
        """It was read. Under the dispatcher's lock."""
        self._items, self._taken = [*self._items[self._taken :], *items] if self._items else items, 0
        self._read += len(items)
        self._left += len(items)
        self._dispatcher.joined(len(items))
        if not self._is_queued:
            self._is_queued = True
            self._dispatcher.enqueue(self)

    def _await(self, number: int, deadline: float | None) -> tuple[Sequence[Any], dict[int, BaseException]]:
        outcomes = self._outcomes
        if number not in outcomes:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if not self._dispatcher.wait_until(lambda: number in outcomes, left):
                raise TimeoutError
        results, errors = outcomes.pop(number)
        return results, {index: as_standard(error) for index, error in errors.items()}
