"""The futures of an executor: `concurrent.futures.Future`, lighter, and driven by whoever waits for them.

A standard future makes a Condition when it is born, takes it for each change and each look, and so costs 8 us of a
call. Here `result` drives the workers itself, and a Condition is made when somebody asks for one: `wait`,
`as_completed`, asyncio, a callback, `cancel`. That is also the sign that somebody waits who cannot drive, so that the
attendant thread has to (but for one short call, which whoever is about to wait drives to its end himself: no two
handovers then).

- While a future has no condition its state changes under `_changing`, and nobody has to be told. Once it has one, the
  state changes with that held, as in the standard class; whoever makes it holds `_changing`. So no look, no waiter and
  no callback falls between.
- Order of locks: the dispatcher's, a condition, `_changing`. Callbacks run under none of them.
- A future is RUNNING from when it is sent to a worker, and PENDING again if it comes back without having run.
- What is cancelled is known to be so at once: it needs no worker that takes notice (CANCELLED_AND_NOTIFIED).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import CancelledError
from concurrent.futures import _base as _standard
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from miniray.executor.interrupts import Interrupts
    from miniray.pool.dispatch import Dispatcher

T = TypeVar("T")

PENDING, RUNNING, FINISHED = _standard.PENDING, _standard.RUNNING, _standard.FINISHED
CANCELLED = _standard.CANCELLED_AND_NOTIFIED
_UNDONE = (PENDING, RUNNING)
LOOK_SECONDS = 0.05  # how soon `result` sees that another thread has cancelled the call, while it drives others
_changing: Any = threading.RLock()  # held for a few assignments only
_rounds = threading.local()  # `loop`: an event loop that has asked for a call in the round that it is in
os.register_at_fork(after_in_child=_changing._at_fork_reinit)  # perhaps in a thread that is not there


class Future(futures.Future[T]):
    """The outcome of one call; made by `Executor.submit` only.

    Args:
        interrupts: where calls that run can be cancelled, too.
    """

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _condition: threading.Condition
    _waiters: list[Any]
    _done_callbacks: list[Callable[[Any], object]]

    def __init__(self, dispatcher: Dispatcher, interrupts: Interrupts | None = None) -> None:
        self._dispatcher = dispatcher
        self._interrupts = interrupts

    def __getattr__(self, name: str) -> Any:
        """`_condition`, at its first use by somebody who is about to wait."""
        if name != "_condition":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._help_out()
        return self._make_condition()

    def _help_out(self) -> None:
        if self._state == RUNNING and self._interrupts is None:
            self._dispatcher.help_out(self.done)

    def _make_condition(self) -> threading.Condition:
        fields = vars(self)
        with _changing:
            fields.setdefault("_waiters", [])
            fields.setdefault("_done_callbacks", [])
            condition: threading.Condition = fields.setdefault("_condition", threading.Condition())
        if self._state in _UNDONE:
            self._dispatcher.attend()
        return condition

    def add_done_callback(self, fn: Callable[[futures.Future[T]], object]) -> None:
        """Have `fn(self)` called when the call has ended or is cancelled; at once, if it is."""
        if "_condition" not in vars(self):
            if _is_first_of_round():  # others who give callbacks go on, to the next call perhaps
                self._help_out()
            self._make_condition()
        super().add_done_callback(fn)

    def cancel(self) -> bool:
        """Cancel the call, if no worker has it yet, or the executor has `cancel_running`. Whether it is cancelled."""
        interrupts = self._interrupts
        with self._dispatcher.lock, self._condition:
            was_running = self._state == RUNNING
            if self._state != PENDING and not (was_running and interrupts is not None):
                return self._state == CANCELLED
            self._state = CANCELLED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        if was_running and interrupts is not None:
            interrupts.strike(lambda group: group.tokens[0] is self)
        self._dispatcher.show_waiters()
        self._invoke_callbacks()
        return True

    def cancelled(self) -> bool:
        return self._state == CANCELLED

    def running(self) -> bool:
        """Whether a worker has the call."""
        return self._state == RUNNING

    def done(self) -> bool:
        return self._state not in _UNDONE

    def result(self, timeout: float | None = None) -> T:
        """The value; the call's exception is raised as it is, with the worker's traceback as its `__cause__`.

        Raises:
            CancelledError: the call was cancelled.
            TimeoutError: it has not ended after `timeout` seconds.
            WorkerCrashedError: the process died while it ran this; also a BrokenProcessPool.
        """
        error: BaseException | None = None
        try:
            error = self.exception(timeout)
            if error is not None:
                raise error
            value: T = self._result
            return value
        finally:
            error = self = None  # type: ignore[assignment]  # or the traceback of an error would keep both alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None.

        Raises:
            CancelledError, TimeoutError: as `result`.
        """
        if self._state in _UNDONE:
            self._dispatcher.wait_until(self.done, timeout, LOOK_SECONDS)
        if self._state == FINISHED:
            return self._exception
        if self._state == CANCELLED:
            raise CancelledError
        raise TimeoutError

    def call_back(self) -> None:
        """Run the callbacks; the executor counts the call as ended when they have run."""
        try:
            self._invoke_callbacks()
        finally:
            with self._dispatcher.lock:
                self._dispatcher.ended()


def _is_first_of_round() -> bool:
    """Whether an event loop asks here for the first call of the round that it is in: it may be about to await just this
    one. Calls that are gathered come in one round, and travel in groups if nobody waits for each."""
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # perhaps it is just being imported
    loop = running() if running is not None else None
    if loop is None or getattr(_rounds, "loop", None) is loop:
        return False
    _rounds.loop = loop
    loop.call_soon(_end_round)
    return True


def _end_round() -> None:
    _rounds.loop = None


def start(tokens: Sequence[Future[Any]]) -> list[int]:
    """These go to a worker: RUNNING, but for those that were cancelled; the places of the latter."""
    conditioned = []
    with _changing:
        for index, future in enumerate(tokens):
            if "_condition" in future.__dict__:
                conditioned.append(index)
            else:
                future._state = RUNNING
    gone = []
    for index in conditioned:
        future = tokens[index]
        with future._condition:
            if future._state == PENDING:
                future._state = RUNNING
            else:
                gone.append(index)
    return gone


def come_back(tokens: Sequence[Future[Any]]) -> None:
    """These have not run after all."""
    conditioned = []
    with _changing:
        for future in tokens:
            if "_condition" in future.__dict__:
                conditioned.append(future)
            else:
                future._state = PENDING
    for future in conditioned:
        with future._condition:
            if future._state == RUNNING:
                future._state = PENDING


def finish(
    tokens: Sequence[Future[Any]], results: Sequence[Any], errors: dict[int, BaseException]
) -> list[Future[Any]]:
    """These have their outcomes, and whoever waits is told; those whose callbacks are to be run."""
    conditioned = []
    with _changing:
        for index, (future, result) in enumerate(zip(tokens, results, strict=True)):
            fields = future.__dict__
            if "_condition" in fields:
                conditioned.append(index)
                continue
            if errors and index in errors:
                fields["_exception"] = errors[index]
            fields["_result"] = result
            fields["_state"] = FINISHED
    with_callbacks = []
    for index in conditioned:
        future = tokens[index]
        if _finish_one(future, results[index], errors.get(index)):
            with_callbacks.append(future)
    return with_callbacks


def _finish_one(future: Future[Any], result: Any, error: BaseException | None) -> bool:
    with future._condition:
        if future._state not in _UNDONE:
            return False  # it was cancelled while it ran
        future._result, future._exception = result, error
        future._state = FINISHED
        for waiter in future._waiters:
            if error is None:
                waiter.add_result(future)
            else:
                waiter.add_exception(future)
        future._condition.notify_all()
        return bool(future._done_callbacks)
