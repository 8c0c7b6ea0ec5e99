"""The dispatcher of a pool: calls wait here, go to the idlest worker in groups, and come back as outcomes.

- There is one queue, and a worker gets little ahead of what it runs; so a slow call hides nothing, whatever chunks
  the user has asked for. What waits behind one all the same is taken back when a worker idles (`_rebalance`).
- Whoever waits drives: a thread in `wait_until` waits for the workers, settles what they answer and sends what comes
  next. Several threads may at once. The attendant thread (`attendant.py`) does it only when none of them does.
- One lock guards all tables. It is never held across a wait, but while calls are pickled; it is re-entrant, since that
  runs users' code.
- A worker is lost by one road: a call to it raises `ActorDiedError`. The board then says what had started: that fails,
  or is run again while it has retries left; the rest is simply run.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.context import BaseContext
from time import monotonic
from typing import Any
from weakref import WeakSet

import miniray
from miniray.errors import (
    ActorDiedError, MinirayError, SerializationError, SessionError, TaskCancelledError, WorkerCrashedError,
)  # fmt: skip
from miniray.pool.attendant import Attendant
from miniray.pool.call_queue import CallQueue
from miniray.pool.crew import Crew, CrewMember
from miniray.pool.groups import Callee, Callees, Group, Source
from miniray.pool.inheritance import meet
from miniray.pool.outcomes import NOT_SENT, read, read_posted, reason, start_error, unsent
from miniray.pool.results import ApplyResult, Calls, IMapIterator

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
FIRST_PAUSE_SECONDS = 0.002  # how often a waiting thread looks around while a worker idles
LONGEST_PAUSE_SECONDS = 0.02


class Dispatcher:
    """
    Args:
        start: initializer and initargs.
        tasks_per_child: after so many tasks a worker is replaced.
        retries: how many more times a call is started whose worker died.
        context: that was asked for.
        is_strict: when a worker is lost all calls fail, now and later.
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
    ) -> None:
        self.processes = processes
        self.state = RUN
        self.reads_all = False  # the input of `imap`s: `join` has been called, and nobody may ask for results
        self.lock = threading.RLock()
        self.waiting = 0  # threads of the user's that drive
        self.callbacks: deque[Callable[[], None]] = deque()
        self.attendant = Attendant(self)
        self._is_attended, self._is_strict, self._retries = False, is_strict, retries
        self._queue = CallQueue(processes)
        self._unfinished = 0
        self._iterators: WeakSet[IMapIterator] = WeakSet()
        self._unasked: dict[int, IMapIterator] = {}  # perhaps nobody has them; their calls are wanted all the same
        self._changed = threading.Condition(self.lock)
        self._sleepers = 0
        self._is_pumping = self._wants_pump = False
        self.broken: BaseException | None = None  # why nothing can be run any more
        self.callees = Callees(partial(meet, self))
        self.crew = Crew(processes, start, tasks_per_child, context)

    # ---- calls come in ----

    def add(self, source: Source, result: ApplyResult | None = None) -> None:
        """Queue the calls of `source`; a result of it counts as unfinished until it is shown."""
        with self.lock:
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
            self.pump()
        self.attendant.rouse()

    def run_alone(self, callee: Callee, result: ApplyResult, args: Sequence[Any], kwds: Mapping[str, Any]) -> None:
        """One call, and the caller waits for it: when the pool has nothing else to do, without the detours."""
        with self.lock:
            calls = Calls(callee)
            member = None if self._queue or self.broken else self.crew.unoccupied()
            if member is None:
                calls.append(result, args, kwds)
                return self.add(calls, result)
            self.check_running()
            self._unfinished += 1
            group = Group(calls, (result,), ((args, kwds),), self._queue.next_number())
            group.is_claimed = True
            self._is_pumping = True
            try:
                self._send(member, group)
            finally:
                self._is_pumping = False
            if self._wants_pump:
                self.pump()
        try:
            if group.ref is not None:
                self._collect(group, is_ours=True)
        finally:
            if not result.ready():  # it was interrupted, or is to be run again
                group.is_claimed = False
                self.attendant.rouse()

    def last_in_queue(self) -> Any:
        return self._queue.last()

    def joined(self, calls: int = 1) -> None:
        """Calls have joined a source that is in the queue."""
        self._unfinished += calls

    def ended(self, calls: int = 1) -> None:
        """They are done, and their callbacks have run."""
        with self.lock:
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
            if source.is_stalled and self.broken is None and self.state != TERMINATE:
                source.is_stalled = False
                self._queue.append(source)
            self.pump()
            self.show_waiters()
        self.attendant.rouse()

    # ---- calls go out ----

    def pump(self) -> None:
        """Give workers what they can take. Under the lock; not within itself: a signal's handler may call the pool."""
        self._wants_pump = True
        while self._wants_pump and not self._is_pumping:
            self._is_pumping, self._wants_pump = True, False
            try:
                self._send_groups()
            finally:
                self._is_pumping = False

    def _send_groups(self) -> None:
        while self._queue and self.broken is None and self.state != TERMINATE:
            member = self.crew.idlest()
            if member is None:
                return
            group = self._queue.next_group(member)
            if group is None:
                return
            self._send(member, group)

    def _send(self, member: CrewMember, group: Group) -> None:
        try:
            member.send(group)
        except SerializationError as error:
            if len(group.items) > 1:
                self._again(group, 0, limit=1)
            else:
                group.source.deliver(group.tokens, NOT_SENT, {0: unsent(error)})
        except ActorDiedError as error:  # it has ended between two groups
            self._again(group, 0)
            self._lost(member, error)
        except SessionError as error:
            self._again(group, 0)
            self._break(error)
        except BaseException:  # Ctrl-C: the calls are not lost
            if group.ref is None:
                self._again(group, 0)
            raise
        else:
            self.show_waiters()

    def _again(self, group: Group, first: int, *, limit: int | None = None) -> None:
        """What has not run of a group goes back to the head of the queue."""
        self._queue.put_back(group, first, limit=limit)
        if group.member is not None:
            group.member.refund(group, group.kept - first)

    # ---- waiting and driving ----

    def wait_until(self, done: Callable[[], bool], timeout: float | None = None, look: float | None = None) -> bool:
        """Drive the pool until `done()`, which is looked at each `look` seconds; False after `timeout` seconds."""
        with self.lock:
            self.waiting += 1
        try:
            return self.drive(done, None if timeout is None else monotonic() + timeout, look)
        finally:
            with self.lock:
                self.waiting -= 1
                left = self._is_attended and not self.waiting
            if left and self.needs_driving:
                self.attendant.rouse(now=True)

    def attend(self) -> None:
        """Somebody waits for results who cannot drive: the attendant does, from now on until all is done."""
        self._is_attended = True
        self.attendant.rouse(now=True)

    def rests(self) -> bool:
        """Whether nothing is left to do; then nobody waits any more."""
        with self.lock:
            self._is_attended = self._is_attended and not self.is_idle
            return self.is_idle

    def drive(self, done: Callable[[], bool], deadline: float | None, longest: float | None = None) -> bool:
        pause = FIRST_PAUSE_SECONDS
        while not done():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            with self.lock:
                groups, restless = self.crew.to_collect()
                if not groups:
                    if done():
                        break
                    self._sleepers += 1
                    try:
                        self._changed.wait(_least(left, longest))
                    finally:
                        self._sleepers -= 1
                    continue
            patience = _least(left, pause if restless else None, longest)
            ready = self._await_one(groups, patience)
            for group in ready:
                self._collect(group)
            if ready:
                pause = FIRST_PAUSE_SECONDS
            elif restless:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                self._take_posted()
                self._rebalance()
        return True

    def _await_one(self, groups: list[Group], patience: float | None) -> list[Group]:
        """Those of the groups that have answered."""
        refs = [group.ref for group in groups]
        try:
            found = {*miniray.wait(refs, timeout=patience)[0]}
            if found and len(refs) > 1:
                found = {*miniray.wait(refs, num_returns=len(refs), timeout=0)[0]}
        except SessionError as error:
            self._break(error)
            return []
        return [group for group in groups if group.ref in found]

    # ---- calls come back ----

    def _collect(self, group: Group, *, is_ours: bool = False) -> None:
        """Unless another thread does. Of a group that Ctrl-C has struck here nobody has the claim any more."""
        member = group.member
        try:
            with self.lock:
                if group.is_claimed and not is_ours:
                    return
                group.is_claimed = True
            outcome = read(group, member)
            with self.lock:
                self._settle(member, group, *outcome)
                self.pump()
        except TaskCancelledError:  # taken back: it had not begun
            self._unrun(member, group)
        except ActorDiedError as error:
            with self.lock:
                self._lost(member, error)
        except SessionError as error:
            self._break(error)
        except MinirayError:  # the worker could not even read the group: each call for itself
            self._unrun(member, group, limit=1)
        except BaseException:
            group.is_claimed = False
            raise
        self.show_waiters()

    def _unrun(self, member: CrewMember, group: Group, limit: int | None = None) -> None:
        with self.lock:
            if group in member.groups:
                self._again(group, group.delivered, limit=limit)
                self._close_group(member, group)
                self.pump()

    def _settle(
        self, member: CrewMember, group: Group, done: int, results: Sequence[Any], errors: Any, seconds: float
    ) -> None:
        if group not in member.groups:
            return  # the worker was lost, or the pool terminated, meanwhile
        if done and seconds >= 0:
            group.callee.measured(done, seconds)
        if done < group.kept:
            self._again(group, done)
        self._close_group(member, group)
        if done:  # a worker that was held up before it began has given back all of it
            group.deliver(done, results, errors)

    def _take_posted(self) -> None:
        """What slow calls would have kept behind them."""
        with self.lock:
            found = self.crew.posted()
        for group, content in found:
            results, errors = read_posted(group, content)
            with self.lock:
                if group in group.member.groups and not group.delivered:
                    group.deliver(len(results), results, errors)
                    self.show_waiters()

    def _close_group(self, member: CrewMember, group: Group) -> None:
        member.groups.remove(group)
        member.sent_at = monotonic()
        self.crew.does_start()
        if member.quota is not None and member.quota <= 0 and not member.groups and not member.has_ended:
            member.has_ended = True
            self._replace(member)

    def _rebalance(self) -> None:
        """A worker idles: what waits behind slow calls elsewhere is taken back."""
        with self.lock:
            if self._queue:
                self.pump()
            if not self.crew.has_idle:
                return
            for member in self.crew:
                if not member.is_stuck():
                    continue
                first = member.groups[0]
                kept = self.crew.kept(first)
                if kept < first.kept and not first.is_claimed:
                    self._again(first, kept)
                    first.kept = kept  # which it has answered for when it answers
                member.recall()
            self.pump()

    # ---- workers end ----

    def _lost(self, member: CrewMember, error: ActorDiedError) -> None:
        """Its process is gone: what had started fails, what had not goes to others, another takes its place."""
        if member.has_ended and not member.groups:
            return
        member.was_lost(error)
        if self.crew.cannot_start(member, error):
            self._break(start_error(error))
            return
        if self._is_strict:
            self._break(WorkerCrashedError(f"a worker was lost: {reason(error)}"))
            return
        groups, member.groups = list(member.groups), deque()
        for group in reversed(groups):
            started = self.crew.started(group)
            self._queue.put_back(group, started)
            if started:
                self._had_started(group, started, error)
        if self.state != TERMINATE:
            self._replace(member)
            self.pump()

    def replace_the_dead(self) -> None:
        """A worker that dies without a call is not missed before it gets the next one; now somebody looks."""
        with self.lock:
            for member in self.crew.found_dead():
                self._replace(member)

    def _had_started(self, group: Group, started: int, error: ActorDiedError) -> None:
        """So many calls of a group: the last was under way, and is run again by itself. The others had ended, but
        their results are lost with the worker."""
        attempt = group.attempt + 1
        if attempt <= self._retries:
            last = max(started - 1, group.delivered)
            self._queue.put_back(group, last, started, limit=1, attempt=attempt)
            self._queue.put_back(group, group.delivered, last, attempt=attempt)
            return
        again = f"it had started, and is not run again (retries={self._retries})"
        group.fail(started, WorkerCrashedError(f"{group.callee.name} was lost: {reason(error)}; {again}"))

    def _replace(self, member: CrewMember) -> None:
        try:
            self.crew.replace(member)
        except MinirayError as error:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """Nothing can be run any more: all calls, now and later, fail with this."""
        with self.lock:
            if self.broken is None:
                self.broken = error
            for member in self.crew:
                groups, member.groups = member.groups, deque()
                for group in groups:
                    group.fail(group.kept, error)
                member.end()
            self._queue.abandon(error)
            self._unasked.clear()
            for iterator in list(self._iterators):
                iterator.abandon(error)
            self.show_waiters()

    # ---- results are shown ----

    def call_back(self, callback: Callable[[], None]) -> None:
        """Have the attendant run it."""
        self.callbacks.append(callback)
        self.attendant.rouse(now=True)

    def show(self, result: ApplyResult) -> None:
        with self.lock:
            result.show()
            self.ended()

    def iterator_changed(self, iterator: IMapIterator) -> None:
        if iterator.has_all:
            self._iterators.discard(iterator)
            self.asked(iterator)
            self._maybe_release()

    def show_waiters(self) -> None:
        with self.lock:
            if self._sleepers:
                self._changed.notify_all()

    # ---- the end ----

    @property
    def needs_driving(self) -> bool:
        """Whether there is an answer that no thread waits for, or will wait for when it comes."""
        return bool(self._queue) or any(not group.is_claimed for member in self.crew for group in [*member.groups])

    @property
    def is_idle(self) -> bool:
        return not (self._queue or self.callbacks or any(member.groups for member in self.crew))

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
                self.resume(iterator)
            self._maybe_release()
        self.attendant.nudge()

    def _maybe_release(self) -> None:
        """Closed, and all is done: the workers end, each with its last handle."""
        if self.state == CLOSE and self.has_finished:
            for member in self.crew:
                member.release()
            self.show_waiters()

    def terminate(self, error: BaseException | None = None) -> None:
        """End all workers at once; calls that were not answered fail with `error`."""
        with self.lock:
            self.state = TERMINATE
            self._break(error or TaskCancelledError("the pool was terminated"))
        self.attendant.nudge()
        self.crew.await_ends(killed=True)

    def join(self) -> None:
        """Wait until all is done, after `close`, and the workers have ended."""
        self.attendant.refuse_to_wait()
        if self.state == CLOSE:
            self.reads_all = True  # whether anybody asks for the results or not
            for iterator in list(self._iterators):
                self.resume(iterator)
            self.wait_until(lambda: self.has_finished)
        self.crew.await_ends(killed=False)


def _least(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)
