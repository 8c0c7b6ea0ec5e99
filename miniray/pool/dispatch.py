"""The dispatcher of a pool: calls wait here, go to the idlest worker in groups, and come back as outcomes.

- There is one queue, and a worker gets little ahead of what it runs; so a slow call hides nothing, whatever chunks
  the user has asked for. What waits behind one all the same is taken back when a worker idles (`_rebalance`).
- Whoever waits drives: a thread in `wait_until` waits for the workers, settles what they answer and sends what comes
  next. Several threads may at once. The attendant thread (`attendant.py`) does it only when none of them does.
- One lock guards all tables. It is never held across a wait, but while calls are pickled; it is re-entrant, since that
  runs users' code.
- A worker is lost by one road: a call to it raises `ActorDiedError`. The board then says what had started.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any
from weakref import WeakSet

import miniray
from miniray.errors import (
    ActorDiedError,
    MinirayError,
    SerializationError,
    SessionError,
    TaskCancelledError,
    WorkerCrashedError,
    WorkerInitializerError,
)
from miniray.pool.attendant import Attendant
from miniray.pool.board import Board
from miniray.pool.crew import CrewMember
from miniray.pool.groups import LAST_GROUPS, Group, Remainder, Source, fitting
from miniray.pool.outcomes import NOT_SENT, read, unsent
from miniray.pool.results import ApplyResult, Callback, Calls, IMapIterator

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
FAILED_STARTS = 3  # so many workers in a row that die before their initializer has ended break the pool
FIRST_PAUSE_SECONDS = 0.002  # how often a waiting thread looks around while a worker idles
LONGEST_PAUSE_SECONDS = 0.02


class Dispatcher:
    def __init__(self, processes: int, start: tuple[Any, Any], tasks_per_child: int | None) -> None:
        self.processes = processes
        self.state = RUN
        self.reads_all = False  # `join` has been called: nobody will make room by asking for results
        self.lock = threading.RLock()
        self.waiting = 0  # threads of the user's that drive
        self.callbacks: deque[tuple[ApplyResult, Callback]] = deque()
        self.attendant = Attendant(self)
        self._start = miniray.put(start)
        self._tasks_per_child = tasks_per_child
        self._queue: deque[Any] = deque()
        self._unfinished = 0
        self._iterators: WeakSet[IMapIterator] = WeakSet()
        self._changed = threading.Condition(self.lock)
        self._sleepers = 0
        self._numbers = 0
        self._failed_starts = 0
        self._broken: BaseException | None = None
        self._board = Board(processes)
        self.crew = [self._hire(slot) for slot in range(processes)]

    def _hire(self, slot: int) -> CrewMember:
        return CrewMember(self._board, slot, self._start, self._tasks_per_child)

    # ---- calls come in ----

    def add(self, source: Source, result: ApplyResult | None = None) -> None:
        """Queue the calls of `source`; a result of it counts as unfinished until it is shown."""
        with self.lock:
            self.check_running()
            if result is not None:
                self._unfinished += 1
            elif isinstance(source, IMapIterator):
                self._iterators.add(source)
            if self._broken is not None:
                source.abandon(self._broken)
                return
            self._queue.append(source)
            self.pump()
        self.attendant.rouse()

    def run_alone(self, calls: Calls, result: ApplyResult) -> None:
        """One call, and the caller waits for it: when the pool has nothing else to do, without the detours."""
        with self.lock:
            alone = self.is_idle and self._broken is None and self._tasks_per_child is None
            if not alone:
                self.add(calls, result)
                return
            self.check_running()
            self._unfinished += 1
            self._numbers += 1
            group = Group(calls, [result], [calls.items.popleft()], self._numbers)
            group.is_claimed = True
            calls.results.clear()
            self._send(self.crew[0], group)
        try:
            if group.ref is not None:
                self._collect(group)
        finally:
            if not self.is_idle:  # it was interrupted, or others have added calls
                self.attendant.rouse()

    def last_in_queue(self) -> Any:
        return self._queue[-1] if self._queue else None

    def joined(self) -> None:
        """A call has joined a source that is in the queue."""
        self._unfinished += 1

    def check_running(self) -> None:
        if self.state != RUN:
            raise ValueError("Pool not running")

    def resume(self, source: IMapIterator) -> None:
        """A source that had to pause may have calls again."""
        with self.lock:
            if source.is_stalled and self._broken is None and self.state != TERMINATE:
                source.is_stalled = False
                self._queue.append(source)
            self.pump()
            self._notify()
        self.attendant.rouse()

    # ---- calls go out ----

    def pump(self) -> None:
        """Give workers what they can take. Under the lock."""
        while self._queue and self._broken is None and self.state != TERMINATE:
            free = [member for member in self.crew if member.can_take()]
            if not free:
                return
            member = min(free, key=lambda one: len(one.groups))
            group = self._next_group(member)
            if group is None:
                return
            self._send(member, group)

    def _next_group(self, member: CrewMember) -> Group | None:
        while self._queue:
            entry = self._queue[0]
            source: Source = entry.source if isinstance(entry, Remainder) else entry
            taken = entry.take(self._limit(source, entry.remaining(), member))
            if taken is None:
                self._queue.popleft()
                continue
            tokens, items = taken
            fit = fitting(items, source.mode)
            if fit < len(items):
                self._queue.appendleft(Remainder(source, tokens[fit:], items[fit:]))
                tokens, items = tokens[:fit], items[:fit]
            self._numbers += 1
            return Group(source, tokens, items, self._numbers)
        return None

    def _limit(self, source: Source, remaining: int | None, member: CrewMember) -> int:
        if member.quota is not None:
            return source.chunk if source.chunk > 1 else min(member.quota, source.callee.group_size())
        size = source.callee.group_size()
        if remaining is not None:  # towards the end, groups of which every worker gets some
            size = min(size, max(-(-remaining // self.processes), size // LAST_GROUPS))
        return max(1, size)

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
            if member.quota is not None:
                chunk = group.source.chunk
                member.quota -= -(-len(group.items) // chunk)
            if self._sleepers:
                self._notify()

    def _again(self, group: Group, first: int, end: int | None = None, limit: int | None = None) -> None:
        """Calls of a group that have not run go back to the head of the queue."""
        end = group.kept if end is None else end
        if first < end:
            back = Remainder(group.source, group.tokens[first:end], group.items[first:end], limit)
            self._queue.appendleft(back)

    # ---- waiting and driving ----

    def wait_until(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Drive the pool until `done()`; False after `timeout` seconds."""
        with self.lock:
            self.waiting += 1
        try:
            return self.drive(done, None if timeout is None else monotonic() + timeout)
        finally:
            with self.lock:
                self.waiting -= 1

    def drive(self, done: Callable[[], bool], deadline: float | None, longest: float | None = None) -> bool:
        pause = FIRST_PAUSE_SECONDS
        while not done():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            with self.lock:
                groups, idles = self._to_collect()
                if not groups:
                    if done():
                        break
                    self._sleepers += 1
                    try:
                        self._changed.wait(_least(left, longest))
                    finally:
                        self._sleepers -= 1
                    continue
            patience = _least(left, pause if idles else None, longest)
            ready = self._await_one(groups, patience)
            for group in ready:
                self._collect(group)
            if ready:
                pause = FIRST_PAUSE_SECONDS
            elif idles:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                self._rebalance()
        return True

    def _to_collect(self) -> tuple[list[Group], bool]:
        groups: list[Group] = []
        idles = False
        for member in self.crew:
            if member.groups:
                groups += member.to_collect()
            else:
                idles = True
        return groups, idles

    def _await_one(self, groups: list[Group], patience: float | None) -> list[Group]:
        """Those of the groups that have answered, claimed for this thread."""
        refs = [group.ref for group in groups]
        try:
            found = {*miniray.wait(refs, timeout=patience)[0]}
            if found and len(refs) > 1:
                found = {*miniray.wait(refs, num_returns=len(refs), timeout=0)[0]}
        except SessionError as error:
            self._break(error)
            return []
        ready = []
        with self.lock:
            for group in groups:
                if group.ref in found and not group.is_claimed:
                    group.is_claimed = True
                    ready.append(group)
        return ready

    # ---- calls come back ----

    def _collect(self, group: Group) -> None:
        member = group.member
        try:
            outcome = read(group, member)
        except TaskCancelledError:  # taken back: it had not begun
            with self.lock:
                self._close_group(member, group)
                self._again(group, 0)
                self.pump()
        except ActorDiedError as error:
            with self.lock:
                self._lost(member, error)
        except SessionError as error:
            self._break(error)
        except MinirayError:  # the worker could not even read the group: each call for itself
            with self.lock:
                self._close_group(member, group)
                self._again(group, 0, limit=1)
                self.pump()
        except BaseException:
            group.is_claimed = False
            raise
        else:
            with self.lock:
                self._settle(member, group, *outcome)
                self.pump()
        with self.lock:
            self._notify()

    def _settle(
        self, member: CrewMember, group: Group, done: int, results: Sequence[Any], errors: Any, seconds: float
    ) -> None:
        if group not in member.groups:
            return  # the worker was lost, or the pool terminated, meanwhile
        if done and seconds >= 0:
            group.callee.measured(done, seconds)
        self._again(group, done)
        self._close_group(member, group)
        if done:  # a worker that was held up before it began has given back all of it
            group.source.deliver(group.tokens[:done], results, errors)

    def _close_group(self, member: CrewMember, group: Group) -> None:
        member.groups.remove(group)
        member.sent_at = monotonic()
        self._failed_starts = 0
        if member.quota == 0 and not member.groups and not member.has_ended:
            member.has_ended = True
            self._replace(member)

    def _rebalance(self) -> None:
        """A worker idles: what waits behind slow calls elsewhere is taken back."""
        with self.lock:
            if self._queue:
                self.pump()
            if not any(member.can_take() and not member.groups for member in self.crew):
                return
            for member in self.crew:
                if not member.is_stuck():
                    continue
                first = member.groups[0]
                kept = self._board.kept(member.slot, first.number, len(first.items))
                if kept < first.kept and not first.is_claimed:
                    self._again(first, kept)
                    first.kept = kept
                for group in list(member.groups)[1:]:
                    if not group.is_recalled:
                        group.is_recalled = True
                        miniray.cancel(group.ref, running=False)
            self.pump()

    # ---- workers end ----

    def _lost(self, member: CrewMember, error: ActorDiedError) -> None:
        """Its process is gone: what had started fails, what had not goes to others, another takes its place."""
        if member.has_ended and not member.groups:
            return
        member.has_ended = True
        if not member.has_started():
            self._failed_starts += 1
            if error.__cause__ is not None or self._failed_starts >= FAILED_STARTS:
                self._break(_start_error(error))
                return
        groups, member.groups = list(member.groups), deque()
        for group in reversed(groups):
            started = min(self._board.started(member.slot, group.number, len(group.items)), group.kept)
            self._again(group, started)
            if started:
                text = f"{group.callee.name} was lost: {_reason(error)}"
                lost: dict[int, BaseException] = {index: WorkerCrashedError(text) for index in range(started)}
                group.source.deliver(group.tokens[:started], [None] * started, lost)
        if self.state != TERMINATE:
            self._replace(member)
            self.pump()

    def _replace(self, member: CrewMember) -> None:
        if member in self.crew:
            try:
                self.crew[self.crew.index(member)] = self._hire(member.slot)
            except MinirayError as error:
                self._break(error)

    def _break(self, error: BaseException) -> None:
        """Nothing can be run any more: all calls, now and later, fail with this."""
        with self.lock:
            if self._broken is None:
                self._broken = error
            for member in self.crew:
                groups, member.groups = member.groups, deque()
                for group in groups:
                    errors = dict.fromkeys(range(group.kept), error)
                    group.source.deliver(group.tokens[: group.kept], [None] * group.kept, errors)
                member.kill()
            queue, self._queue = self._queue, deque()
            for entry in queue:
                if isinstance(entry, Remainder):
                    errors = dict.fromkeys(range(len(entry.tokens)), error)
                    entry.source.deliver(entry.tokens, [None] * len(entry.tokens), errors)
                else:
                    entry.abandon(error)
            for iterator in list(self._iterators):
                iterator.abandon(error)
            self._notify()

    # ---- results are shown ----

    def has_settled(self, result: ApplyResult, callback: Callback | None) -> None:
        if callback is None or self.state == TERMINATE:
            self.show(result)
        else:
            self.callbacks.append((result, callback))
            self.attendant.rouse(now=True)

    def show(self, result: ApplyResult) -> None:
        with self.lock:
            result.show()
            self._unfinished -= 1
            if not self._unfinished:
                self._maybe_release()

    def iterator_changed(self, iterator: IMapIterator) -> None:
        if iterator.has_all:
            self._iterators.discard(iterator)
            self._maybe_release()

    def show_waiters(self) -> None:
        with self.lock:
            self._notify()

    def _notify(self) -> None:
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

    def close(self) -> None:
        with self.lock:
            if self.state == RUN:
                self.state = CLOSE
            self._maybe_release()

    def read_all(self) -> None:
        """Take all of the input, whether anybody asks for the results or not."""
        self.reads_all = True
        for iterator in list(self._iterators):
            self.resume(iterator)

    def _maybe_release(self) -> None:
        """Closed, and all is done: the workers end, each with its last handle."""
        if self.state == CLOSE and self.has_finished:
            for member in self.crew:
                member.release()
            self._notify()

    def terminate(self) -> None:
        """End all workers at once; calls that were not answered fail."""
        with self.lock:
            self.state = TERMINATE
            self._break(TaskCancelledError("the pool was terminated"))
        if self.attendant.is_running:
            self.attendant.rouse(now=True)


def _least(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)


def _reason(error: ActorDiedError) -> str:
    first = str(error).partition("\n")[0]
    return first.rpartition("is gone: ")[2]


def _start_error(error: ActorDiedError) -> WorkerInitializerError:
    cause = error.__cause__
    if cause is None:
        return WorkerInitializerError(f"workers die before the initializer has ended ({_reason(error)})")
    made = WorkerInitializerError(f"the pool's initializer raised {type(cause).__name__}: {cause}")
    made.__cause__ = cause
    return made
