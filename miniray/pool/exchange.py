"""The exchange of a pool with its workers: calls go out in groups, and come back as outcomes.

- There is one queue, and a worker gets little ahead of what it runs; so a slow call hides nothing, whatever chunks
  the user has asked for. What waits behind one all the same is taken back when a worker idles (`rebalance`).
- Users' code (pickling calls, unpickling outcomes) runs under no lock, and may be struck by a signal's handler, or take
  for ever. A group belongs to whoever pickles or reads it: it is *loading* at its worker, or *claimed*. Whatever is
  raised there, under the lock it is given back before it is raised.
- What is to be done next is seen in the tables by whoever waits: nothing is forgotten when the thread that was to do
  it is struck.

Methods that say so are called under the lock; the others take it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import miniray
from miniray.errors import (
    ActorDiedError, MinirayError, ObjectLostError, ObjectStoreFullError, SerializationError, SessionError,
    TaskCancelledError, TaskError,
)  # fmt: skip
from miniray.pool.call_queue import CallQueue
from miniray.pool.crew import Crew
from miniray.pool.crew_member import CrewMember, Way
from miniray.pool.groups import Group
from miniray.pool.inheritance import inherit_instead
from miniray.pool.losses import Losses
from miniray.pool.outcomes import NOT_SENT, NotTogetherError, Read, read, read_posted, unsent
from miniray.pool_worker.worker import OwnFaultError


class Exchange:
    """
    Args:
        changed: whoever sleeps looks again. Called under the lock.
    """

    def __init__(
        self, lock: miniray.UnbrokenLock, queue: CallQueue, crew: Crew, losses: Losses, changed: Callable[[], None]
    ) -> None:
        self._lock = lock
        self._queue = queue
        self._crew = crew
        self._losses = losses
        self._changed = changed

    # ---- out ----

    def pump(self) -> None:
        """Give workers what they can take. Not under the lock, where a finaliser may ask for it: then whoever waits
        does it."""
        if self._lock.is_mine():
            return
        while self._queue and self.send(self._next) is not None:
            pass
        if self._crew.recycles:
            self._hire_ahead()

    def _hire_ahead(self) -> None:
        """Who is to take the next place that becomes free starts now, and learns what the others do."""
        with self._lock:
            hired = None if self._losses.broken else self._losses.hire_ahead()
            known = [] if hired is None else [group.callee for one in self._crew for group in one.under_way()]
        if hired is not None and known and not self._crew.is_forked:
            hired.learn(known[0])

    def _next(self) -> Group | None:
        if self._crew.has_vacancies and self._queue.has_calls():
            self._losses.fill_vacancies()
        member = None if self._losses.broken else self._crew.idlest()
        group = None if member is None else self._queue.next_group(member)
        if group is not None:
            group.member = member
        return group

    def send(self, cut: Callable[[], Group | None]) -> Group | None:
        """What `cut` gives, under the lock, goes to its worker; None if it gives none."""
        group: Group | None = None
        try:
            with self._lock:
                group = cut()
                if group is None:
                    return None
                group.member.load(group)
                way = None if group.needs_packing else group.member.call_for(group)
            if way is None and (way := self._pack(group)) is None:
                return group
            call = way[0].prepare(*way[1])
            with self._lock:
                if group in group.member.loading:  # else the worker was lost meanwhile, or the pool terminated
                    group.member.push(group, call)
                    self._changed()
        except (SerializationError, ObjectStoreFullError, ObjectLostError) as error:
            with self._lock:
                self._not_pickled(group, error)
        except ActorDiedError as error:  # it has ended between two groups
            with self._lock:
                if group is not None:
                    self.call_off(group)
                    self._losses.lost(group.member, error)
                    self._changed()
        except SessionError as error:
            with self._lock:
                self._losses.give_up(error)
        except BaseException:
            with self._lock:
                self._interrupted(group)
            raise
        return group

    def _pack(self, group: Group) -> Way | None:
        """Its calls share nothing then; those that cannot go with the first come later. The way to send them; None: the
        worker was lost meanwhile, or the pool terminated."""
        calls = group.pack()
        with self._lock:
            if group not in group.member.loading:
                return None
            if calls < len(group.items):
                self._again(group, calls)
                group.shorten(calls)
            way: Way = group.member.call_for(group)
            return way

    def _not_pickled(self, group: Group | None, error: MinirayError) -> None:
        """An argument of it cannot travel; or it is the worker that is of a session that has ended."""
        try:
            self._crew.check_session()
        except MinirayError as ended:
            self._losses.give_up(ended)
            return
        if group is not None and group.member.unload(group):
            if inherit_instead(self._crew, error, self._again) or len(group.items) > 1:
                self._again(group, 0, limit=1)
            else:
                group.deliver(1, NOT_SENT, {0: unsent(error)})
            self._changed()

    def _interrupted(self, group: Group | None) -> None:
        """It was not sent. One that its caller alone waits for (`Dispatcher.run_alone`) is nobody's any more."""
        if group is not None and group.member.unload(group):
            if group.is_claimed:
                group.fail(group.kept, TaskCancelledError("interrupted before it was sent"))
            else:
                self._again(group, 0)
            self._changed()

    def call_off(self, group: Group) -> None:
        """Its calls are being pickled, and are not to be sent. Under the lock."""
        if group.member.unload(group):
            self._again(group, 0)

    def _again(self, group: Group, first: int, *, limit: int | None = None) -> None:
        """What has not run of a group goes back to the head of the queue. Under the lock."""
        self._queue.put_back(group, first, limit=limit)
        group.member.refund(group, group.kept - first)

    # ---- back ----

    def collect(self, group: Group, *, is_ours: bool = False) -> None:
        """Read its answer, unless another thread does, and send what comes next."""
        member: CrewMember = group.member
        is_claimed = is_ours
        try:
            if not is_ours:
                with self._lock:
                    if group.is_claimed:
                        return
                    group.is_claimed = is_claimed = True
            outcome = self._read(group, member)
            with self._lock:
                self._settle(member, group, *outcome)
            del outcome  # not under the lock: the results are their callers' alone, whatever this thread does next
        except NotTogetherError as error:
            with self._lock:
                self._separate(member, group, error)
        except TaskCancelledError:
            with self._lock:
                self._cancelled(member, group)
        except ActorDiedError as error:
            with self._lock:
                self._losses.lost(member, error)
                self._changed()
        except SessionError as error:
            with self._lock:
                self._losses.give_up(error)
        except MinirayError as error:
            with self._lock:
                if isinstance(error.__cause__, OwnFaultError):
                    self._failed(member, group, error)
                else:  # the worker could not even read the group: each call for itself
                    self._unrun(member, group, limit=1)
        except BaseException:
            with self._lock:
                if is_claimed:
                    group.is_claimed = False
                    self._changed()
            raise
        self.pump()

    def _read(self, group: Group, member: CrewMember) -> Read:
        try:
            return read(group)
        except ActorDiedError:
            self._take_posted_of(member)
            raise

    def _separate(self, member: CrewMember, group: Group, error: NotTogetherError) -> None:
        """It stays where it is until its results are there, one by one: nobody waits for them in the meantime who waits
        for something else."""
        if group in member.groups:
            try:
                group.ref = member.actor.separate.remote(group.number)
            except SessionError as ended:
                self._losses.give_up(ended)
                return
            group.problem = error.problem
            group.is_claimed = False
            self._changed()

    def _cancelled(self, member: CrewMember, group: Group) -> None:
        """It was taken back before it began, or stopped. Or nobody has asked for that: then it is users' code, called
        while something was pickled, that has raised KeyboardInterrupt."""
        if group.is_recalled or group.source.is_dropped:
            self._unrun(member, group)
        elif len(group.items) > 1:
            self._unrun(member, group, limit=1)
        else:
            told = f"{group.callee.name} was ended by KeyboardInterrupt while its arguments or its result were pickled"
            self._failed(member, group, TaskError(told))

    def _unrun(self, member: CrewMember, group: Group, limit: int | None = None) -> None:
        if group in member.groups:
            self._again(group, group.delivered, limit=limit)
            self._close(member, group)
            self._changed()

    def _failed(self, member: CrewMember, group: Group, error: MinirayError) -> None:
        if group in member.groups:
            self._close(member, group)
            group.fail(group.kept, error)
            self._changed()

    def _settle(
        self, member: CrewMember, group: Group, done: int, results: Sequence[Any], errors: Any, seconds: float
    ) -> None:
        if group not in member.groups:
            return  # the worker was lost, or the pool terminated, meanwhile
        if done and seconds >= 0:
            group.callee.measured(done, seconds)
        group.callee.was_run(done, len(group.items), is_early=done < group.kept)
        if done < group.kept:
            self._again(group, done)
        self._close(member, group)
        if done:  # a worker that was held up before it began has given back all of it
            group.deliver(done, results, errors)
        self._changed()

    def _close(self, member: CrewMember, group: Group) -> None:
        member.groups.remove(group)
        member.sent_at = monotonic()
        self._crew.does_start()
        if member.is_used_up:
            self._losses.retire(member)

    # ---- what slow calls hold up ----

    def take_posted(self) -> None:
        """What slow calls would keep behind them."""
        with self._lock:
            held_up = self._crew.held_up()
        for member in held_up:
            self._take_posted_of(member)

    def _take_posted_of(self, member: CrewMember) -> None:
        with self._lock:
            found = self._crew.posted(member)
        if found is not None:
            group, posted = found
            results, errors = read_posted(group, posted)
            with self._lock:
                if group in member.groups:
                    group.deliver_posted(posted.first, results, errors)
                    self._changed()

    def rebalance(self) -> None:
        """A worker idles: what waits behind slow calls elsewhere is taken back."""
        self.pump()
        with self._lock:
            if not self._crew.has_idle:
                return
            for member in self._crew:
                if not member.is_stuck():
                    continue
                first = member.groups[0]
                kept = self._crew.kept(first)
                if kept < first.kept and not first.is_claimed:
                    self._again(first, kept)
                    first.kept = kept  # which it has answered for when it answers
                member.recall()
        self.pump()
