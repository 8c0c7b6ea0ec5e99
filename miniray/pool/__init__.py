"""`miniray.Pool`: a drop-in for `multiprocessing.Pool`.

    from miniray import Pool

    with Pool() as pool:
        pool.map(resize, pictures)

The same words, results, exceptions and errors. What is better: functions of `__main__`, of a notebook, lambdas and
closures work; large arrays travel through shared memory, in both directions, and are the function's own to change; a
worker that is killed costs the call that it ran and nothing else; `imap` reads its input only as far ahead as is
useful; a slow call holds up no other, whatever the chunks.

Pool stands on miniray's public names only. Its workers are actors that ask for no CPU: a pool may have more of them
than the session has CPUs, as it may with the standard one.

    Pool -> Dispatcher -> CrewMember ~~> PoolWorker.run(group of calls)
            queue         one a process   in that process
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import TimeoutError
from multiprocessing.context import BaseContext
from multiprocessing.pool import ThreadPool
from time import monotonic
from types import TracebackType
from typing import Any

import miniray
from miniray.pool.crew import CrewMember, await_end
from miniray.pool.dispatch import CLOSE, RUN, TERMINATE, Dispatcher
from miniray.pool.groups import Callee, Callees
from miniray.pool.outcomes import MaybeEncodingError
from miniray.pool.results import (
    ApplyResult,
    AsyncResult,
    Callback,
    Calls,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
)
from miniray.pool.worker import MAP, STARMAP

__all__ = [
    "ApplyResult", "AsyncResult", "CLOSE", "IMapIterator", "IMapUnorderedIterator", "MapResult", "MaybeEncodingError",
    "Pool", "RUN", "TERMINATE", "ThreadPool", "TimeoutError",
]  # fmt: skip

JOIN_SECONDS = 10.0  # how long `join` waits for processes whose work is done
_CHUNKS_PER_WORKER = 4


class Pool:
    """Processes that run calls.

    Args:
        processes: how many; the CPUs of this process by default.
        initializer, initargs: called as `initializer(*initargs)` in each process before anything else.
        maxtasksperchild: after so many tasks (calls, or chunks of them) a process is replaced by a new one.
        context: accepted for compatibility; workers start in miniray's way.

    Raises:
        ValueError, TypeError: as the standard pool does.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
    ) -> None:
        self._state = "INIT"
        if processes is None:
            processes = len(os.sched_getaffinity(0))
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if context is not None and not isinstance(context, BaseContext):
            raise TypeError(f"context must be one of multiprocessing.get_context(), not {context!r}")
        self._processes = processes
        self._callees = Callees()
        self._dispatcher = Dispatcher(processes, (initializer, tuple(initargs)), maxtasksperchild)
        self._state = RUN

    # ---- one call ----

    def apply(self, func: Callable[..., Any], args: Sequence[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """`func(*args, **kwds)` in a worker; its exception is raised here."""
        dispatcher = self._dispatcher
        dispatcher.check_running()
        calls = Calls(self._callees.find(func))
        result = ApplyResult(self, dispatcher, None, None)
        calls.append(result, args, kwds)
        dispatcher.run_alone(calls, result)
        return result.get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> ApplyResult:
        """Like `apply`, at once; callbacks run in a thread of the pool, before the result is ready."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            dispatcher.check_running()
            callee = self._callees.find(func)
            result = ApplyResult(self, dispatcher, callback, error_callback)
            last = dispatcher.last_in_queue()
            if type(last) is Calls and last.callee is callee:
                last.append(result, args, kwds)
                dispatcher.joined()
            else:
                calls = Calls(callee)
                calls.append(result, args, kwds)
                dispatcher.add(calls, result)
        return result

    # ---- many calls ----

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """`[func(x) for x in iterable]`; the first exception is raised once all calls have ended."""
        values: list[Any] = self.map_async(func, iterable, chunksize).get()
        return values

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """`[func(*x) for x in iterable]`."""
        values: list[Any] = self.starmap_async(func, iterable, chunksize).get()
        return values

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """Like `map`, at once."""
        return self._map_async(func, iterable, MAP, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """Like `starmap`, at once."""
        return self._map_async(func, iterable, STARMAP, chunksize, callback, error_callback)

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mode: int,
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> MapResult:
        self._dispatcher.check_running()
        items: Sequence[Any] = iterable if isinstance(iterable, range | tuple) else list(iterable)
        if mode == STARMAP:
            items = [tuple(arguments) for arguments in items]
        if chunksize is None:
            chunksize = -(-len(items) // (self._processes * _CHUNKS_PER_WORKER)) or 1
        _check_chunksize(chunksize)
        callee = self._callees.find(func)
        result = MapResult(items, callee, mode, chunksize, self, self._dispatcher, callback, error_callback)
        if not items:
            result._success = True
            result.show()
            return result
        result.argument = _argument(callee)
        self._dispatcher.add(result, result)
        return result

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Results in the order of the input, as they come; the input may be infinite."""
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Results in the order in which they come."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _imap(
        self, kind: type[IMapIterator], func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int
    ) -> IMapIterator:
        self._dispatcher.check_running()
        _check_chunksize(chunksize)
        callee = self._callees.find(func)
        iterator = kind(self, self._dispatcher, callee, iterable, chunksize)
        iterator.argument = _argument(callee)
        self._dispatcher.add(iterator)
        return iterator

    # ---- the end ----

    def close(self) -> None:
        """No more calls; the processes end when all are done."""
        if self._state == RUN:
            self._state = CLOSE
            self._dispatcher.close()

    def terminate(self) -> None:
        """End the processes at once. What was not done fails with `TaskCancelledError`."""
        self._state = TERMINATE
        self._dispatcher.terminate()

    def join(self) -> None:
        """Wait for the processes to end, after `close` or `terminate`.

        Raises:
            ValueError: the pool is still running.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        dispatcher = self._dispatcher
        if self._state == CLOSE:
            dispatcher.read_all()
            dispatcher.wait_until(lambda: dispatcher.has_finished)
        deadline = monotonic() + JOIN_SECONDS
        for member in dispatcher.crew:
            pid = member.pid
            if pid is not None:
                await_end(pid, max(0.0, deadline - monotonic()))

    def __enter__(self) -> Pool:
        self._dispatcher.check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def __del__(self, _warn: Callable[..., None] = warnings.warn, RUN: str = RUN) -> None:
        if getattr(self, "_state", None) == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._dispatcher.attendant.stop()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={len(self._pool)}>"

    def _repopulate_pool(self) -> None:
        """Workers that have ended are replaced when that is seen; there is nothing left to do."""

    @property
    def _pool(self) -> list[CrewMember]:
        """The workers, as things with a `pid`."""
        return list(self._dispatcher.crew) if self._state != "INIT" else []


def _check_chunksize(chunksize: int) -> None:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize}")


def _argument(callee: Callee) -> Any:
    """A callable that cannot be sent once, such as a bound method or a partial, is stored once for all its groups."""
    if callee.is_sent_once or type(callee.function) is type(len):
        return None
    try:
        return miniray.put(callee.function)
    except miniray.errors.SerializationError:
        return None  # each call then says why
