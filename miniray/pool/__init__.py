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

import atexit
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import TimeoutError, get_context, util
from multiprocessing import pool as _standard
from multiprocessing.context import BaseContext
from multiprocessing.pool import ThreadPool
from operator import index
from types import TracebackType
from typing import Any, SupportsIndex
from weakref import WeakSet

import miniray
from miniray.errors import ForkedDriverError
from miniray.pool.crew_member import CrewMember
from miniray.pool.dispatch import CLOSE, RUN, TERMINATE, Dispatcher
from miniray.pool.outcomes import MaybeEncodingError, RemoteTraceback
from miniray.pool.pending import TaskQueue, unfinished
from miniray.pool.results import (
    ApplyResult,
    AsyncResult,
    Callback,
    Calls,
    IMapIterator,
    IMapUnorderedIterator,
    LoneCall,
    MapResult,
)
from miniray.pool_worker.parcels import MAP, STARMAP

__all__ = [
    "ApplyResult", "AsyncResult", "CLOSE", "ExceptionWithTraceback", "INIT", "IMapIterator", "IMapUnorderedIterator",
    "MapResult", "MaybeEncodingError", "Pool", "RUN", "RemoteTraceback", "TERMINATE", "ThreadPool", "TimeoutError",
    "get_context", "job_counter", "mapstar", "rebuild_exc", "starmapstar", "wait", "worker",
]  # fmt: skip

INIT = "INIT"
# What else people find in `multiprocessing.pool`; its own, not declared by its stubs.
ExceptionWithTraceback: Any = vars(_standard)["ExceptionWithTraceback"]
job_counter: Any = vars(_standard)["job_counter"]
mapstar: Any = vars(_standard)["mapstar"]
rebuild_exc: Any = vars(_standard)["rebuild_exc"]
starmapstar: Any = vars(_standard)["starmapstar"]
wait: Any = vars(_standard)["wait"]
worker: Any = vars(_standard)["worker"]

_CHUNKS_PER_WORKER = 4
_OF_THE_STANDARD_ONE = (
    "multiprocessing.pool.Pool has it, and miniray's Pool is another class, without its private parts. In place of a "
    "patch that needs them, such as istarmap(f, rows, chunksize), write pool.imap(lambda row: f(*row), rows, chunksize)"
)
_live: WeakSet[Dispatcher] = WeakSet()  # the interpreter's exit ends these


class Pool:
    """Processes that run calls.

    Args:
        processes: how many; the CPUs of this process by default.
        initializer, initargs: called as `initializer(*initargs)` in each process before anything else.
        maxtasksperchild: after so many tasks (calls, or chunks of them) a process is replaced by a new one. That one
            starts before the last of them has ended, initializer included; it gets no call before.
        context: a fork context has the workers forked from this very process, as the standard pool does it on Linux, so
            that they inherit all that it has. That happens by itself where something is shared by inheritance only, or
            cannot be pickled: a lock, say, in `initargs`, in a global of the program, in what a function uses. Other
            contexts: workers start in miniray's way, from a process without threads. The pool's repr says which it is.
        retries: how many more times a call is started whose process has died; by default it fails at once with
            `WorkerCrashedError`. (The standard pool waits for ever.) Calls that had not started are simply run.

    Raises:
        ValueError, TypeError: as the standard pool does.
    """

    _processes = 0

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        retries: int = 0,
    ) -> None:
        self._state = INIT
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
        if not isinstance(retries, int) or retries < 0:
            raise ValueError("retries must be an int that is not negative")
        self._processes = index(processes)
        self._initializer, self._initargs = initializer, tuple(initargs)
        self._maxtasksperchild = maxtasksperchild
        context = context or self._default_context()
        self._ctx: BaseContext = context or get_context()
        try:
            self._dispatcher = self._begin(context, retries)
        except ForkedDriverError:  # a `multiprocessing.Process` that uses a pool of its own
            miniray.init()
            self._dispatcher = self._begin(context, retries)
        _live.add(self._dispatcher)
        self._state = RUN

    def _default_context(self) -> BaseContext | None:
        """Where none was asked for; None: workers start as is best for them."""
        return None

    def _begin(self, context: BaseContext | None, retries: int) -> Dispatcher:
        start = self._initializer, self._initargs
        return Dispatcher(self._processes, start, self._maxtasksperchild, retries=retries, context=context)

    # ---- one call ----

    def apply(self, func: Callable[..., Any], args: Sequence[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """`func(*args, **kwds)` in a worker; its exception is raised here."""
        dispatcher = self._dispatcher
        call = LoneCall(dispatcher, dispatcher.callees.find(func), args, kwds)
        try:
            dispatcher.run_alone(call)
        except BaseException:
            dispatcher.drop(call)
            raise
        if call.success:
            return call.value
        try:
            raise call.value
        finally:  # a frame that holds what it raises is a cycle, and what the error holds would wait for the collector
            del call

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
        dispatcher.check_running()
        callee = dispatcher.callees.find(func)
        with dispatcher.lock:
            dispatcher.check_running()
            result = ApplyResult(self, dispatcher, callback, error_callback)
            last = dispatcher.last_in_queue()
            if type(last) is Calls and last.callee is callee:
                last.append(result, args, kwds)
                dispatcher.joined()
                return result
            calls = Calls(callee)
            calls.append(result, args, kwds)
            dispatcher.enqueue(calls, result)
        try:
            dispatcher.pump()
        except BaseException:
            dispatcher.withdraw(calls, result)
            raise
        return result

    # ---- many calls ----

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """`[func(x) for x in iterable]`; the first exception is raised once all calls have ended."""
        return _wait_for(self.map_async(func, iterable, chunksize))

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """`[func(*x) for x in iterable]`."""
        return _wait_for(self.starmap_async(func, iterable, chunksize))

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
        self._check_running()
        input_error: Exception | None = None
        items: Sequence[Any] = ()
        try:
            items = iterable if isinstance(iterable, range | tuple) else list(iterable)
        except Exception as error:
            if not hasattr(iterable, "__len__"):
                raise
            input_error = error  # which comes as the result does
        if mode == STARMAP and not {tuple}.issuperset(map(type, items)):
            items = [_arguments(item) for item in items]
        if chunksize is None:
            chunksize = -(-len(items) // (self._processes * _CHUNKS_PER_WORKER)) or 1
        _check_chunksize(chunksize)
        callee = self._dispatcher.callees.find(func)
        result = MapResult(items, callee, mode, chunksize, self, self._dispatcher, callback, error_callback)
        if input_error is not None:
            with self._dispatcher.lock:
                self._dispatcher.joined()
                result.settle(False, input_error)
            return result
        if not items:
            result._success = True
            result.show()
            return result
        result.argument = callee.stored()
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
        self._check_running()
        _check_chunksize(chunksize)
        callee = self._dispatcher.callees.find(func)
        iterator = kind(self, self._dispatcher, callee, iterable, chunksize)
        iterator.argument = callee.stored()
        self._dispatcher.add(iterator)
        return iterator

    # ---- the end ----

    def close(self) -> None:
        """No more calls; the processes end when all are done."""
        util.debug("closing pool")
        if self._state == RUN:
            self._dispatcher.close()
            self._state = CLOSE  # last: one that was interrupted can be closed again

    def terminate(self) -> None:
        """End the processes at once, whatever they do. What was not done fails with `TaskCancelledError`."""
        util.debug("terminating pool")
        self._state = TERMINATE
        self._dispatcher.terminate()

    def join(self) -> None:
        """Wait for the processes to end, after `close` or `terminate`.

        Raises:
            ValueError: the pool is still running.
        """
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        self._dispatcher.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def __del__(
        self,
        _warn: Callable[..., None] = warnings.warn,
        RUN: str = RUN,
        _is_too_late: Callable[[], bool] = sys.is_finalizing,  # then all has ended, and not even an import works
    ) -> None:
        if getattr(self, "_state", None) == RUN:
            try:
                _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:  # the warning may be an error
                if not _is_too_late():
                    self._dispatcher.abandon()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        cls = type(self)
        start = "fork" if self._state != INIT and self._dispatcher.crew.is_forked else "zygote"
        name = f"{cls.__module__}.{cls.__qualname__}"
        return f"<{name} state={self._state} pool_size={self._processes} start={start}>"

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def _repopulate_pool(self) -> None:
        """Workers that have died while they had nothing to do are replaced; others are when that is seen anyway. Who
        has set `_processes` to more gets more."""
        self._dispatcher.replace_the_dead()
        self._dispatcher.grow(self._processes)

    @staticmethod
    def _get_tasks(func: object, it: object, size: object) -> Any:
        """What the well-known patch `istarmap` asks for first."""
        raise NotImplementedError(f"_get_tasks: {_OF_THE_STANDARD_ONE}")

    def __getattr__(self, name: str) -> Any:
        if hasattr(_standard.Pool, name) and not hasattr(type(self), name):
            told = f"{type(self).__name__!r} object has no attribute {name!r}; {_OF_THE_STANDARD_ONE}"
            raise AttributeError(told, name=name, obj=self)
        beside = getattr(super(), "__getattr__", None)  # a class beside this one may have it
        # Else a subclass's property that has just failed says itself why.
        return super().__getattribute__(name) if beside is None else beside(name)

    @property
    def _cache(self) -> dict[int, Any]:
        """What has not ended, by its `_job`."""
        return unfinished(self._dispatcher)

    @property
    def _taskqueue(self) -> TaskQueue:
        return TaskQueue(self._dispatcher)

    @property
    def _pool(self) -> list[CrewMember]:
        """The workers, as things with a `pid`."""
        if self._state == INIT:
            return []
        if self._state == RUN:
            self._dispatcher.replace_the_dead()
        return list(self._dispatcher.crew)


def _wait_for(result: MapResult) -> list[Any]:
    """All its values, for the one who alone knows of it."""
    try:
        values: list[Any] = result.get()
    except BaseException:
        if not result.ready():
            result.drop()
        raise
    finally:
        del result
    return values


def _check_chunksize(chunksize: int) -> None:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize}")
    if not isinstance(chunksize, SupportsIndex):
        raise ValueError(f"Chunksize must be an integer, not {chunksize}")


def _arguments(item: Iterable[Any]) -> Any:
    """Of one call of a `starmap`; what is wrong with them is said where it is called."""
    try:
        return tuple(item)
    except Exception:
        return item


def _leave_all() -> None:
    """At the interpreter's exit. `atexit` calls last what was registered first: the session's end comes after this, and
    so does what `multiprocessing.util`, where the standard pools end, does at exit."""
    for dispatcher in list(_live):
        dispatcher.leave()


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_live.clear)  # they are the parent's
