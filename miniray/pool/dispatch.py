"""The dispatcher of a pool: what was asked of it and is not done yet, and the parts that do it.

    CallQueue  calls that no worker has yet
    Crew       the workers, and the groups of calls that each has
    Exchange   groups go out, outcomes come back
    Losses     workers that die, and the pool that can run nothing any more
    Waiting    threads that wait, and drive all this meanwhile
    Attendant  the thread that does it when none of them does, and runs callbacks

- One lock guards all tables. It is an `UnbrokenLock`: no signal's handler runs where a thread holds it, so Ctrl-C finds
  the tables whole, and a handler may use the pool. It is held for a few assignments only, never across a wait, and
  never while users' code runs (pickling, unpickling, callbacks, the input of `imap`), which Ctrl-C interrupts at once.
  Except that a worker which takes the place of another is forked under it, where a pool forks: a few milliseconds, and
  what the program has registered with `os.register_at_fork`.
- What is to be done is seen in the tables by whoever looks next. So a thread that is struck between two stretches
  under the lock need not come back to it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.context import BaseContext
from time import monotonic
from typing import Any
from weakref import WeakSet

import miniray
from miniray.errors import MinirayError, SessionError, TaskCancelledError
from miniray.pool.attendant import Attendant
from miniray.pool.call_queue import DROPPED, CallQueue
from miniray.pool.crew import END_SECONDS, Crew
from miniray.pool.exchange import Exchange
from miniray.pool.groups import Callees, Group, Source
from miniray.pool.inheritance import meet
from miniray.pool.losses import Losses
from miniray.pool.results import ApplyResult, Calls, IMapIterator, LoneCall, MapResult
from miniray.pool.waiting import Waiting

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
SHORT_SECONDS = 100e-6  # a call that is known to be shorter is awaited by whoever is about to have it awaited
HELP_SECONDS = 0.001
LATE = "the pool was ended as the interpreter exits: functions for atexit that use it are registered after it was made"


class Dispatcher:
    """
    Args:
        start: initializer and initargs.
        tasks_per_child: after so many tasks a worker is replaced.
        retries: how many more times a call is started whose worker died.
        context: that was asked for.
        is_strict: when a worker is lost all calls fail, now and later.
        title: of workers, in their names.
    """

    def __init__(
        self,
        processes: int,
        start: tuple[Any, Any],
        tasks_per_child: int | None = None,
        *,
        retries: int = 0,
        context: BaseContext | None = None,
        is_strict: bool = False,
        title: str = "PoolWorker",
    ) -> None:
        if miniray.is_simulated():
            raise SessionError(
                "Pool and Executor cannot be simulated, as they wait in real time: test with tasks and actors what "
                "simulate and @explore shall run"
            )
        self.processes = processes
        self.state = RUN
        self.reads_all = False  # the input of `imap`s: `join` has been called, and nobody may ask for results
        self.callbacks: deque[Callable[[], None]] = deque()
        self._unfinished = 0
        self._iterators: WeakSet[IMapIterator] = WeakSet()
        self._unasked: dict[int, IMapIterator] = {}  # perhaps nobody has them; their calls are wanted all the same
        self._is_attended = False
        self.lock = miniray.UnbrokenLock()
        self.callees = Callees(partial(meet, self))
        self.crew = Crew(processes, start, tasks_per_child, context, title)
        self._queue = CallQueue(processes)
        self._losses = Losses(self._queue, self.crew, retries, is_strict, self._on_broken)
        self._exchange = Exchange(self.lock, self._queue, self.crew, self._losses, self.show_waiters)
        self._waiting = Waiting(self.lock, self.crew, self._exchange, self._give_up)
        self.attendant = Attendant(self)

    # ---- calls come in ----

    def add(self, source: IMapIterator | MapResult, result: ApplyResult | None = None) -> None:
        """Queue the calls of `source`; a result of it counts as unfinished until it is shown. Whoever is interrupted
        meanwhile does not get it, and nobody else can."""
        with self.lock:
            self.enqueue(source, result)
        try:
            self.pump()
        except BaseException:
            self.drop(source)
            raise

    def enqueue(self, source: Source, result: ApplyResult | None = None) -> None:
        """The same under the lock; `pump` follows when that is free."""
        self.check_running()
        if result is not None:
            self._unfinished += 1
        elif isinstance(source, IMapIterator):
            self._iterators.add(source)
            self._unasked[id(source)] = source
        if self.broken is not None:
            source.abandon(self.broken)
            return
        self._queue.append(source)
        self.attendant.rouse()

    def pump(self) -> None:
        """Workers get what they can take."""
        self._exchange.pump()

    def run_alone(self, call: LoneCall) -> None:
        """One call, and the caller waits for it: when the pool has nothing else to do, without the detours. If he is
        interrupted before it was sent, it is not."""
        group: Group | None = None

        def cut() -> Group | None:
            nonlocal group
            self.check_running()
            self._unfinished += 1
            member = None if self._queue or self.broken else self.crew.unoccupied()
            if member is None:
                self.enqueue(call)
                return None
            group = Group(call, *call.all(), self._queue.next_number())
            group.is_claimed = True
            group.member = member
            return group

        try:
            if self._exchange.send(cut) is None:
                self.pump()
            elif group is not None and group.ref is not None:
                self._exchange.collect(group, is_ours=True)
        finally:
            if not call.is_done:  # it was interrupted, or is to be run again
                with self.lock:
                    if group is not None:
                        group.is_claimed = False
                        self.attendant.rouse()
                        self.show_waiters()
        if not call.is_done:
            self.wait_until(lambda: call.is_done)

    def withdraw(self, calls: Calls, result: ApplyResult) -> None:
        """One of these calls is nobody's, as above; it is not run, unless a worker has it already."""
        with self.lock:
            self._queue.withdraw(calls, result)
            self.show_waiters()

    def drop(self, source: LoneCall | MapResult | IMapIterator) -> None:
        """Whoever waited for it was interrupted, and nobody else can have its outcomes: what waits is not run, and what
        runs is stopped, as Ctrl-C in a terminal does it to the standard pool's workers."""
        with self.lock:
            source.is_dropped = True
            self._queue.drop(source)
            if isinstance(source, IMapIterator):
                source.abandon(DROPPED)  # what it has not read yet
            try:
                self.stop(lambda group: group.source is source)
            except MinirayError as error:  # the session has ended: what is being raised goes on
                self._losses.give_up(error)

    def stop(self, is_unwanted: Callable[[Group], bool]) -> list[Group]:
        """Groups whose sources want them no more: what is not sent yet goes back to its source, and what runs is struck
        by KeyboardInterrupt; those that a worker has. Under the lock.

        Raises:
            SessionError: the session has ended, and the workers with it.
        """
        stopped = []
        for member in self.crew:
            for group in [*member.loading]:
                if is_unwanted(group):
                    self._exchange.call_off(group)
            for group in reversed(member.groups):  # first what waits, lest it begins
                if is_unwanted(group):
                    group.is_recalled = True
                    miniray.cancel(group.ref)
                    stopped.append(group)
        self.show_waiters()
        return stopped

    def last_in_queue(self) -> Any:
        return self._queue.last()

    def joined(self, calls: int = 1) -> None:
        """Calls have joined a source that is in the queue. Under the lock."""
        self._unfinished += calls

    def ended(self, calls: int = 1) -> None:
        """They are done, and their callbacks have run. Under the lock."""
        self._unfinished -= calls
        if not self._unfinished and self.state == CLOSE:
            self._maybe_release()

    def check_running(self) -> None:
        if self.state != RUN:
            raise ValueError("Pool not running")

    def asked(self, source: IMapIterator) -> None:
        """Its first result is asked for; from now on it lives as long as somebody has it."""
        self._unasked.pop(id(source), None)

    def resume(self, source: IMapIterator) -> None:
        """A source that had to pause may have calls again."""
        with self.lock:
            self._requeue(source)
        self.pump()

    def _requeue(self, source: IMapIterator) -> None:
        if source.is_stalled and self.broken is None:
            source.is_stalled = False
            self._queue.append(source)
            self.attendant.rouse()
        self.show_waiters()

    # ---- waiting and driving ----

    def wait_until(self, done: Callable[[], bool], timeout: float | None = None, look: float | None = None) -> bool:
        """Drive the pool until `done()`, which is looked at each `look` seconds; False after `timeout` seconds."""
        if self.has_left and not threading.current_thread().daemon:
            self.terminate(TaskCancelledError(LATE))
        try:
            return self._waiting.until(done, timeout, look)
        finally:
            if self._is_attended and not self.waiting and self.needs_driving:
                self.attendant.rouse(now=True)

    @property
    def waiting(self) -> list[int]:
        """Threads of the user's that drive, by their idents."""
        return self._waiting.threads

    def drive_while_alone(self, is_over: Callable[[], bool], longest: float) -> None:
        """Of the attendant: until `is_over`, which is looked at each `longest` seconds."""
        self._waiting.drive(is_over, None, longest)

    def help_out(self, done: Callable[[], bool]) -> None:
        """Somebody is about to wait who cannot drive. If all that there is to do is one short call, he drives before,
        until it has ended: to have the attendant do so, and then tell him, takes longer than the call."""
        if self._unfinished != 1 or self.lock.is_mine():
            return
        with self.lock:
            groups = [group for member in self.crew for group in member.groups]
        if len(groups) == 1 and groups[0].expected < SHORT_SECONDS:
            try:
                self.wait_until(done, HELP_SECONDS)
            except RuntimeError:
                pass  # this is a finaliser, which runs within a wait

    def attend(self) -> None:
        """Somebody waits for results who cannot drive: the attendant does, from now on until all is done."""
        self._is_attended = True
        self.attendant.rouse(now=True)

    def rests(self) -> bool:
        """Whether nothing is left to do; then nobody waits any more."""
        with self.lock:
            self._is_attended = self._is_attended and not self.is_idle
            return self.is_idle

    # ---- workers are lost ----

    @property
    def broken(self) -> BaseException | None:
        """Why nothing can be run any more."""
        return self._losses.broken

    def _give_up(self, error: BaseException) -> None:
        with self.lock:
            self._losses.give_up(error)

    def _on_broken(self, error: BaseException) -> None:
        self._unasked.clear()
        for iterator in list(self._iterators):
            iterator.abandon(error)
        self.show_waiters()

    def replace_the_dead(self) -> None:
        """A worker that dies without a call is not missed before it gets the next one; now somebody looks."""
        with self.lock:
            if self.state == RUN:
                self._losses.replace_the_dead()

    def fill_vacancies(self) -> None:
        """Nothing has been done for a while: workers that were not needed yet start now."""
        if self.crew.has_vacancies:
            with self.lock:
                if self.state == RUN:
                    self._losses.fill_vacancies()

    def grow(self, processes: int) -> None:
        """To so many workers, which share what waits."""
        with self.lock:
            if self.state == RUN and self.broken is None and processes > self.processes:
                self.crew.grow(processes)
                self.processes = self._queue.processes = processes
        self.pump()

    # ---- results are shown ----

    def call_back(self, callback: Callable[[], None]) -> None:
        """Have the attendant run it."""
        self.callbacks.append(callback)
        self.attendant.rouse(now=True)

    def iterator_changed(self, iterator: IMapIterator) -> None:
        """Under the lock."""
        if iterator.has_all:
            self._iterators.discard(iterator)
            self.asked(iterator)
            self._maybe_release()

    def show_waiters(self) -> None:
        """Something has changed: whoever sleeps looks again."""
        self._waiting.changed()

    # ---- the end ----

    @property
    def needs_driving(self) -> bool:
        """Whether there is an answer that no thread waits for, or will wait for when it comes."""
        return bool(self._queue) or any(not group.is_claimed for member in self.crew for group in [*member.groups])

    @property
    def is_idle(self) -> bool:
        return not (self._queue or self.callbacks or any(member.is_busy for member in self.crew))

    @property
    def has_finished(self) -> bool:
        return not self._unfinished and not self._iterators

    def waiting_calls(self) -> list[tuple[Source, Sequence[Any] | None]]:
        """What no worker has: sources, and which of their calls; None: those that were not taken from it yet."""
        with self.lock:
            return self._queue.contents()

    def close(self) -> None:
        with self.lock:
            if self.state == RUN:
                self.state = CLOSE
            for iterator in list(self._unasked.values()):
                self._requeue(iterator)
            self._maybe_release()
        self.attendant.nudge()
        self.pump()

    def _maybe_release(self) -> None:
        """Closed, and all is done: the workers end, each with its last handle."""
        if self.state == CLOSE and self.has_finished:
            for member in self.crew.everyone():
                member.release()
            self.show_waiters()

    def terminate(self, error: BaseException | None = None) -> None:
        """End all workers at once; calls that were not answered fail with `error`."""
        with self.lock:
            self.state = TERMINATE
            self._losses.give_up(error or TaskCancelledError("the pool was terminated"))
        self.attendant.nudge()
        self.crew.await_ends(killed=True)

    def leave(self) -> None:
        """The interpreter exits: workers and threads end, and nothing here holds functions of the program's any more.
        What was not done has no outcome, as with the standard pool: daemon threads that wait for one just sleep on,
        and leave no traceback. Whoever is not to wait for ever, a function for `atexit`, say, is told when he does."""
        with self.lock:
            for member in self.crew:
                for group in [*member.loading]:
                    self._exchange.call_off(group)
            self._losses.leave()
            iterators = list(self._iterators)
        self.attendant.leave()
        deadline = monotonic() + END_SECONDS
        for iterator in iterators:
            iterator.leave(deadline)
        self.crew.await_ends(killed=True)

    @property
    def has_left(self) -> bool:
        """Whether the interpreter exits, and the pool has ended."""
        return self._losses.has_left

    def abandon(self) -> None:
        """From a finaliser: nobody has the pool any more. No lock is taken, and no thread begins."""
        if not self.attendant.stop():  # it never had much to do, and has nothing now
            for member in self.crew.everyone():
                member.end()

    def join(self) -> None:
        """Wait until all is done, after `close`, and the workers have ended."""
        self.attendant.refuse_to_wait()
        if self.state == CLOSE:
            with self.lock:
                self.reads_all = True  # whether anybody asks for the results or not
                for iterator in list(self._iterators):
                    self._requeue(iterator)
            self.wait_until(lambda: self.has_finished)
        self.crew.await_ends(killed=False)
