"""`miniray.Executor`: a drop-in for `concurrent.futures.ProcessPoolExecutor`.

    from miniray import Executor

    with Executor() as executor:
        futures = [executor.submit(resize, picture) for picture in pictures]
        for future in concurrent.futures.as_completed(futures):
            print(future.result())

The same words, futures, exceptions and errors, on the pool's parts (`miniray.pool`), and so what is better there is
better here: lambdas and closures work, large arrays travel through shared memory, calls of a microsecond travel in
groups. A worker that is killed costs the call that it ran (`WorkerCrashedError`, which is a `BrokenProcessPool`, too),
and the executor goes on; `strict=True` is the standard's way, where it costs everything.

    Executor -> Dispatcher -> CrewMember ~~> PoolWorker.run(group of calls)
    Future   <- outcomes  <-
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from operator import index
from time import monotonic
from typing import Any, TypeVar

import miniray
from miniray.errors import ForkedDriverError
from miniray.executor.errors import ABRUPT, UNUSABLE, as_standard
from miniray.executor.future import Future
from miniray.executor.interrupts import Interrupts
from miniray.executor.sources import MapCalls, Submissions
from miniray.pool.crew_member import CrewMember
from miniray.pool.dispatch import TERMINATE, Dispatcher
from miniray.pool.groups import copy_of
from miniray.pool.pending import unfinished
from miniray.pool_worker.parcels import MAP, STARMAP

__all__ = ["Executor", "Future"]

T = TypeVar("T")
_at_work: weakref.WeakSet[Dispatcher] = weakref.WeakSet()  # the interpreter's exit waits for these
_is_exiting = False


class Executor(futures.Executor):
    """Processes that run calls.

    Nothing is started before the first call.

    Args:
        max_workers: how many processes; the CPUs that this one may use by default.
        mp_context: a fork context has the workers forked from this very process, as one says of `Pool`'s.
        initializer, initargs: called as `initializer(*initargs)` in each process before anything else.
        max_tasks_per_child: after so many calls a process is replaced by a new one, as one says of `Pool`'s.
        retries: how many more times a call is started whose process has died; by default it fails at once with
            `WorkerCrashedError`. Calls that had not started are simply run.
        strict: a worker that dies breaks the executor, as it does the standard one: all calls fail with
            BrokenProcessPool, and no more are taken.
        cancel_running: `cancel` of a future stops a call that runs, too: with KeyboardInterrupt, or after a second by
            the end of its process. asyncio's `wait_for` and `timeout` cancel so. So do a `map` whose iterator is closed
            or timed out, and `shutdown(cancel_futures=True)`. Submitted calls then travel one by one.

    Raises:
        ValueError, TypeError: as the standard executor does.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        retries: int = 0,
        strict: bool = False,
        cancel_running: bool = False,
    ) -> None:
        if max_workers is None:
            max_workers = len(os.sched_getaffinity(0))
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        max_workers = index(max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None and not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child is not None and max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
        if mp_context is not None and not isinstance(mp_context, BaseContext):
            raise TypeError(f"mp_context must be one of multiprocessing.get_context(), not {mp_context!r}")
        if not isinstance(retries, int) or retries < 0:
            raise ValueError("retries must be an int that is not negative")
        if retries and strict:
            raise ValueError("a strict executor breaks when a worker dies: it has no retries")
        self._max_workers = max_workers
        self._mp_context = mp_context or get_context()
        self._asked_context = mp_context
        self._start = initializer, tuple(initargs)
        self._max_tasks_per_child = max_tasks_per_child
        self._retries = retries
        self._strict = strict
        self._cancel_running = cancel_running
        self._interrupts: Interrupts | None = None
        self._is_shut = False
        self._is_starting = False
        self._starting = threading.RLock()  # a signal's handler may end the executor while it starts
        self._dispatcher: Dispatcher | None = None

    # ---- calls ----

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """`fn(*args, **kwargs)` in a worker.

        Raises:
            RuntimeError: the executor was shut down, or the interpreter exits.
            BrokenProcessPool: it can run nothing any more: its initializer has raised, or a worker has died and it is
                strict.
        """
        dispatcher = self._dispatcher or self._begin()
        callee = dispatcher.callees.find(fn)
        with dispatcher.lock:
            self._check(dispatcher)
            future: Future[T] = Future(dispatcher, self._interrupts)
            dispatcher.joined()
            last = dispatcher.last_in_queue()
            if type(last) is Submissions and last.callee is callee:
                last.append(future, args, kwargs)
                return future
            calls = Submissions(dispatcher, callee, travels_alone=self._cancel_running)
            calls.append(future, args, kwargs)
            dispatcher.enqueue(calls)
        try:
            dispatcher.pump()
        except BaseException:  # a signal's handler: nobody has the future, so nobody wants the call
            future.cancel()
            raise
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Like the built-in `map`; the results come in the order of the input.

        Args:
            timeout: seconds from now until the last result has to be there.
            chunksize: so many calls are one task for `max_tasks_per_child`, and one for `buffersize`. How many travel
                together is chosen by how long they take.
            buffersize: None: the input is read at once, all calls are begun, and they run whether anybody asks for
                the results or not. Else at most so many chunks are read ahead of what was asked for; the input may
                be infinite.

        Raises:
            TimeoutError: from the iterator, when the next result is not there in time.
            RuntimeError: as `submit`.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else monotonic() + timeout
        dispatcher = self._dispatcher or self._begin()
        rows: Any = iterables[0] if len(iterables) == 1 else zip(*iterables)  # noqa: B905
        items: Sequence[Any]
        if buffersize is not None:
            rows = iter(rows)
            items = list(islice(rows, buffersize * chunksize))
        else:
            items, rows = rows if isinstance(rows, range | tuple) else list(rows), None
        mode = MAP if len(iterables) == 1 else STARMAP
        callee = dispatcher.callees.find(fn)
        calls = MapCalls(dispatcher, callee, mode, chunksize, rows, self._interrupts)
        calls.argument = callee.stored()
        self._extend(calls, items)
        this = weakref.ref(self)

        def read_on(calls: MapCalls) -> None:
            executor = this()
            if executor is not None:
                executor._extend(calls, calls.read())

        return calls.results(deadline, read_on)

    def _extend(self, calls: MapCalls, items: Sequence[Any]) -> None:
        dispatcher = self._dispatcher
        assert dispatcher is not None
        with dispatcher.lock:
            if items:
                self._check(dispatcher)
                calls.extend(items)
        try:
            dispatcher.pump()
        except BaseException:
            calls.cancel()
            raise

    def _begin(self) -> Dispatcher:
        """The workers start. That runs users' code (`initargs` are pickled), which may be interrupted by more of it."""
        with self._starting:
            self._check(None)
            if self._dispatcher is None:
                if self._is_starting:
                    raise RuntimeError(
                        "the executor is just starting its workers, and this call comes from within that: from "
                        "initargs that are being pickled, or from a signal's handler"
                    )
                self._is_starting = True
                try:
                    dispatcher = self._hire()
                finally:
                    self._is_starting = False
                if self._cancel_running:
                    self._interrupts = Interrupts(dispatcher)
                _at_work.add(dispatcher)
                self._dispatcher = dispatcher  # last: an interrupt before leaves nothing half begun
                if self._is_shut:  # by a handler of a signal, when there was nothing to end
                    self.shutdown(wait=False)
            return self._dispatcher

    def _hire(self) -> Dispatcher:
        make = partial(
            Dispatcher, self._max_workers, self._start, self._max_tasks_per_child,
            retries=self._retries, context=self._asked_context, is_strict=self._strict, title="Process",
        )  # fmt: skip
        try:
            return make()
        except ForkedDriverError:  # a `multiprocessing.Process` that has an executor of its own
            miniray.init()
            return make()

    def _check(self, dispatcher: Dispatcher | None) -> None:
        is_ended = self._is_shut and dispatcher is not None and dispatcher.state == TERMINATE
        if dispatcher is not None and dispatcher.broken is not None and not is_ended:
            raise BrokenProcessPool(UNUSABLE) if self._strict else as_standard(copy_of(dispatcher.broken))
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _is_exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    # ---- the end ----

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls; the workers end when all are done.

        Args:
            wait: return only then.
            cancel_futures: cancel what no worker has yet; and what runs, if the executor has `cancel_running`.
        """
        dispatcher = self._shut()
        if dispatcher is None:
            return
        if cancel_futures:
            _cancel_all(dispatcher)
        dispatcher.close()
        if wait and not dispatcher.attendant.is_this_thread:
            dispatcher.join()

    def terminate_workers(self) -> None:
        """End the workers at once: what has not started is cancelled, what runs fails with BrokenProcessPool (with
        `cancel_running` it is cancelled, too)."""
        dispatcher = self._shut()
        if dispatcher is not None:
            _cancel_all(dispatcher)
            dispatcher.terminate(BrokenProcessPool(ABRUPT))

    kill_workers = terminate_workers

    def _shut(self) -> Dispatcher | None:
        """Nothing begins any more; what there is to end."""
        self._is_shut = True
        with self._starting:
            return self._dispatcher

    def __del__(self) -> None:
        dispatcher = getattr(self, "_dispatcher", None)
        if dispatcher is not None:
            dispatcher.attendant.close()

    def __reduce__(self) -> Any:
        raise NotImplementedError("executors cannot be passed between processes or pickled")

    # ---- what people are known to look at ----

    @property
    def _processes(self) -> dict[int, CrewMember]:
        """The workers, each like a process of `multiprocessing`, by their pids."""
        crew = [] if self._dispatcher is None else [*self._dispatcher.crew]
        return {member.pid: member for member in crew if member.pid is not None}

    @property
    def _pending_work_items(self) -> dict[int, Any]:
        """What has not ended: futures; a `map`, as a whole."""
        return {} if self._dispatcher is None else unfinished(self._dispatcher)

    @property
    def _broken(self) -> str | bool:
        """Why it can run nothing any more, or False."""
        broken = self._dispatcher.broken if self._dispatcher is not None else None
        return False if broken is None else str(broken)


def _cancel_all(dispatcher: Dispatcher) -> None:
    """Futures and `map`s, as far as that can be. Under no lock: callbacks may run."""
    for one in unfinished(dispatcher).values():
        one.cancel()


def _finish_all() -> None:
    """At the interpreter's exit, while threads still run: calls are done to the end, as the standard executor's are."""
    global _is_exiting
    _is_exiting = True
    at_work = list(_at_work)
    for dispatcher in at_work:
        dispatcher.close()
    for dispatcher in at_work:
        dispatcher.wait_until(partial(getattr, dispatcher, "has_finished"))


vars(threading)["_register_atexit"](_finish_all)  # what the standard executors use; atexit's own functions run later
os.register_at_fork(after_in_child=_at_work.clear)  # they are the parent's
