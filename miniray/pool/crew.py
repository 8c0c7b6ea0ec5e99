"""The crew: the workers of a pool, as the pool sees them; and as its users do, to whom each is like a process.

A worker has a few groups under way: one, if its calls are long, or several, if they are short, so that it never
waits for the pool. Groups of one worker run in order.

`maxtasksperchild` counts tasks as the user sees them: a call, or a chunk of calls. Groups are cut otherwise, so a
worker's quota is kept in fractions of tasks, and what it gives back unrun is paid back.
"""

from __future__ import annotations

import os
import re
import select
import signal
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from multiprocessing import get_context, util
from multiprocessing.context import BaseContext
from threading import get_ident
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import miniray
from miniray.errors import ActorDiedError, MinirayError, SerializationError, SessionError
from miniray.pool_worker.board import Board
from miniray.pool.groups import Callee, Group
from miniray.pool.inheritance import find_in_main, find_shared, is_fork_context
from miniray.pool_worker.parcels import Parcel
from miniray.pool_worker.standing import Standing, next_standing
from miniray.pool_worker.worker import PoolWorker

PIPELINE_GROUPS = 1.7  # a worker that has work for less gets another group
LONGEST = 2.0  # a group that lasts so many times longer than it should ends after the call at hand
MAX_GROUPS = 4  # under way at one worker
RECALL_SECONDS = 0.002  # a group that waits longer behind another is asked back when a worker idles
JOIN_SECONDS = 10.0  # how long `join` waits for processes whose work is done
END_SECONDS = 1.0  # how long `terminate` waits for those that it has killed
Way = tuple[Any, tuple[Any, ...]]  # a method of the worker, and its arguments
FAILED_STARTS = 3  # so many workers in a row that die before their initializer has ended break the pool


class Crew:
    """All workers of a pool, a slot each. Its methods run under the pool's lock, or do not change it.

    Args:
        start: initializer and initargs.
        tasks_per_child: after so many tasks a worker is replaced.
        context: after which the workers are named; a fork context that was asked for has them forked.
        title: the rest of their names.
    """

    def __init__(
        self,
        processes: int,
        start: tuple[Any, Any],
        tasks_per_child: int | None,
        context: BaseContext | None,
        title: str,
    ) -> None:
        self._board = Board(processes)
        self._tasks_per_child = tasks_per_child
        self._context: BaseContext = context or get_context()
        self._title = title
        self._failed_starts = 0
        self._given = start
        self._start: Any = start  # what workers get of it
        self.is_forked = find_shared(*start) is not None or not self._put_start()
        self._members: list[CrewMember] = []
        if not self.is_forked and (is_fork_context(context) or find_in_main() is not None):
            self._fork_if_possible(processes)
        else:
            self._hire_all(processes)

    def _put_start(self) -> bool:
        """What cannot be pickled is inherited."""
        try:
            self._start = miniray.put(self._start)
        except SerializationError:
            return False
        return True

    def _fork_if_possible(self, processes: int) -> None:
        """In a pool within a task it is not, and not needed."""
        put, self._start, self.is_forked = self._start, self._given, True
        try:
            self._hire_all(processes)
        except SessionError:
            self._start, self.is_forked = put, False
            self._hire_all(processes)

    def fork_anew(self) -> None:
        """Idle workers make room for others, which have what the driver has by now.

        Raises:
            SessionError: this is not the driver; then they stay.
        """
        before, put, was_forked = self._members, self._start, self.is_forked
        self._start, self.is_forked = self._given, True
        try:
            self._hire_all(len(before))
        except SessionError:
            self._start, self.is_forked = put, was_forked
            raise
        for member in before:
            member.end()

    def _hire_all(self, processes: int) -> None:
        self._members = [self._hire(slot) for slot in range(processes)]

    def _hire(self, slot: int) -> CrewMember:
        util.debug("added worker")
        standing = next_standing(self._context, self._title)
        return CrewMember(
            self._board, slot, standing, self._start, self._tasks_per_child, is_forked=self.is_forked
        )

    def __iter__(self) -> Iterator[CrewMember]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, slot: int) -> CrewMember:
        return self._members[slot]

    def idlest(self) -> CrewMember | None:
        """The worker that gets the next group; None: all have enough."""
        free = [member for member in self._members if member.can_take()]
        return min(free, key=_groups_of) if free else None

    def unoccupied(self) -> CrewMember | None:
        """A worker for a single call, when none of them has anything to do."""
        for member in self._members:
            if member.is_busy:
                return None
        first = self._members[0]
        if first.quota is not None:
            return None
        return first if first._pid is not None and not first.has_ended else self.idlest()

    @property
    def has_idle(self) -> bool:
        return any(member.can_take() and not member.is_busy for member in self._members if member.is_up)

    def to_collect(self) -> tuple[list[Group], bool]:
        """Groups whose answers come next; whether something else may happen meanwhile: a worker idles, or may hold
        back what others wait for."""
        groups: list[Group] = []
        restless = False
        for member in self._members:
            if member.groups:
                groups += member.to_collect()
                restless = restless or member.groups[0].is_awaited
            else:
                restless = True
        return groups, restless

    @property
    def holds_back(self) -> bool:
        """Whether outcomes exist that a slow call may keep behind it."""
        firsts = [member.groups[0] for member in self._members if member.groups]
        return any(group.is_awaited and self.started(group) > group.delivered + 1 for group in firsts)

    def posted(self, member: CrewMember) -> tuple[Group, int, bytes] | None:
        """Outcomes that have come before their group has ended, and from which byte of the letterbox on."""
        group = member.groups[0] if member.groups else None
        if group is None or not group.is_awaited:
            return None
        content = self._board.posted(member.slot, group.number, group.posted_bytes)
        return (group, group.posted_bytes, content) if content else None

    def held_up(self) -> list[CrewMember]:
        """Workers whose group may have outcomes, and which run the same call as when this was asked last."""
        found = []
        for member in self._members:
            if member.groups and member.groups[0].is_awaited:
                group = member.groups[0]
                at = group.number, self.started(group)
                if at == member.was_at:
                    found.append(member)
                member.was_at = at
        return found

    def started(self, group: Group) -> int:
        """How many calls of a group were started by its worker, dead or alive."""
        return min(self._board.started(group.member.slot, group.number, len(group.items)), group.kept)

    def is_at(self, group: Group) -> bool:
        """Whether its worker has begun it, and no other since."""
        return self._board.is_at(group.member.slot, group.number)

    def kept(self, group: Group) -> int:
        """How many of them its worker has not given back."""
        return self._board.kept(group.member.slot, group.number, len(group.items))

    def replace(self, member: CrewMember) -> None:
        self.check_session()
        if self._members[member.slot] is member:
            self._members[member.slot] = self._hire(member.slot)

    def check_session(self) -> None:
        """
        Raises:
            SessionError: that of these workers has ended.
            ObjectLostError: it has, and there is another one.
        """
        miniray.wait([self._members[0].hello], timeout=0)

    def found_dead(self) -> list[CrewMember]:
        """Those that have died with nothing to do, and are let go."""
        dead = [one for one in self._members if not one.is_busy and one.has_started() and not one.is_alive()]
        for member in dead:
            member.release()
        return dead

    def does_start(self) -> None:
        """A worker has answered: initializers do end."""
        self._failed_starts = 0

    def cannot_start(self, member: CrewMember, error: ActorDiedError) -> bool:
        """Whether the death of this one says that another in its place would die as well."""
        if member.has_started():
            return False
        self._failed_starts += 1
        return error.__cause__ is not None or self._failed_starts >= FAILED_STARTS

    def await_ends(self, *, killed: bool) -> None:
        """Wait for the ends of the processes; of those that were killed only if they had started."""
        deadline = monotonic() + (END_SECONDS if killed else JOIN_SECONDS)
        for member in self._members:
            pid = member.pid if not killed or member.has_started() else None
            if pid is not None:
                await_end(pid, max(0.0, deadline - monotonic()))


class CrewMember:
    """One worker process, from its start to its end."""

    daemon = False  # it may have children; see `standing.py`

    def __init__(
        self, board: Board, slot: int, standing: Standing, start: Any, quota: int | None, *, is_forked: bool
    ) -> None:
        board.clear(slot)
        self.slot = slot
        self.name = standing.name
        self.groups: deque[Group] = deque()
        self.loading: list[Group] = []  # their calls are being pickled
        self._loader = 0  # by this thread
        self._last = 0  # the number of the group that it got last
        self.quota: Fraction | None = None if quota is None else Fraction(quota)  # tasks that it may still get
        self.has_ended = False
        self.was_at = (0, 0)  # the group and its call that it ran when somebody looked
        self.sent_at = 0.0  # when it last got a group, or answered one
        self._pid: int | None = None
        self._exit_code: int | None = None
        self._methods: WeakKeyDictionary[Callee, tuple[Any, ...]] = WeakKeyDictionary()
        actor: Any = miniray.remote(PoolWorker).options(
            num_cpus=0, writable_arguments=True, raw_output=True, start="fork" if is_forked else "zygote"
        )
        self.actor = actor.remote(board.path, slot, standing, [start])
        self.hello = self.actor.pid.remote()
        calls = self.actor.run, self.actor.run_whole, self.actor.run_one, self.actor.run_parcels
        self._ways: tuple[Any, ...] = tuple([one.options(writable_arguments=True, name="Pool worker") for one in calls])

    def can_take(self) -> bool:
        groups = self.groups
        if self.has_ended or (self.quota is not None and self.quota <= 0):
            return False
        if self.loading:
            return self._lets_in()
        if not groups:
            return True
        if len(groups) >= MAX_GROUPS:
            return False
        return sum([group.expected for group in groups]) < PIPELINE_GROUPS * groups[-1].target

    def _lets_in(self) -> bool:
        """While one thread pickles a group for it no other does. But that runs users' code, which may bring a call and
        wait for it: this one goes before the group, and is numbered so."""
        return len(self.loading) == 1 and self._loader == get_ident() and self._last + 1 < self.loading[0].number

    def load(self, group: Group) -> None:
        """It is to get these calls, once they are pickled."""
        if self.loading:
            group.number = self._last + 1
        self.loading.append(group)
        self._loader = get_ident()
        if self.quota is not None:
            self.quota -= Fraction(len(group.items), group.source.chunk)

    def call_for(self, group: Group) -> Way:
        """The method that runs them, and its arguments, which are to be pickled under no lock."""
        source, callee = group.source, group.callee
        if source.argument is None and (callee.is_sent_once or callee.is_inherited):
            methods = self._methods.get(group.callee)
            if methods is None:
                of = group.callee.function
                methods = self._methods[group.callee] = tuple([one.options(function=of) for one in self._ways])
            function: tuple[Any, ...] = ()
        else:
            methods = self._ways
            function = (group.callee.function if source.argument is None else source.argument,)
        run, run_whole, run_one, run_parcels = methods
        how = LONGEST * group.target, group.packs_results, group.is_awaited
        if group.parcels:
            if group.packed_function is not None:
                function = (group.packed_function,)
            return run_parcels, (*function, group.number, source.mode, group.parcels, how)
        if type(group.items[0]) is Parcel:
            return run, (*function, group.number, source.mode, group.items[0].ref, how)
        args = group.single()
        if args is not None:
            return run_one, (*function, group.number, *args)
        if group.runs_whole:
            return run_whole, (*function, group.number, source.mode, group.items)
        return run, (*function, group.number, source.mode, group.items, how)

    def unload(self, group: Group) -> bool:
        """It does not get them; whether it was to."""
        if group not in self.loading:
            return False
        self.loading.remove(group)
        return True

    def push(self, group: Group, call: Any) -> None:
        """They are pickled, and go."""
        group.ref = call.remote()
        self.loading.remove(group)
        self._last = group.number
        if not self.groups:
            self.sent_at = monotonic()
        self.groups.append(group)

    def let_go(self) -> list[Group]:
        """It runs none of its groups any more."""
        groups = [*self.groups, *self.loading]
        self.groups.clear()
        self.loading.clear()
        return groups

    @property
    def is_busy(self) -> bool:
        return bool(self.groups or self.loading)

    @property
    def is_used_up(self) -> bool:
        """Whether it has run all tasks that it may, and is to be replaced."""
        return self.quota is not None and self.quota <= 0 and not self.is_busy and not self.has_ended

    def refund(self, group: Group, calls: int) -> None:
        """It has not run so many of the calls of a group."""
        if self.quota is not None:
            self.quota += Fraction(calls, group.source.chunk)

    def to_collect(self) -> Iterator[Group]:
        """The groups whose answers come next."""
        first = True
        for group in self.groups:
            if not group.is_claimed and (first or group.is_recalled):
                first = False
                yield group

    def is_stuck(self) -> bool:
        return bool(self.groups) and monotonic() - self.sent_at > RECALL_SECONDS

    def recall(self) -> None:
        """What waits behind the group that it runs is asked back; all, if it has not started yet."""
        for group in list(self.groups)[1 if self.is_up else 0 :]:
            if not (group.is_recalled or group.is_claimed):
                group.is_recalled = True
                miniray.cancel(group.ref, running=False)

    @property
    def is_up(self) -> bool:
        return self._pid is not None or self.has_started()

    def has_started(self) -> bool:
        """Whether its initializer has ended well."""
        try:
            self._pid = miniray.get(self.hello, timeout=0)
        except (MinirayError, OSError):
            return self._pid is not None
        return True

    def release(self) -> None:
        """The process ends by itself once it has answered what it has."""
        self.has_ended = True
        self.actor = None
        self._ways = ()
        self._methods.clear()

    def end(self) -> None:
        """The process ends at once, whatever it does."""
        if self.actor is not None:
            if self._exit_code is None:
                self._exit_code = -signal.SIGKILL
            try:
                miniray.kill(self.actor)
            except MinirayError:
                pass  # the session has ended, and the process with it
        self.release()

    def was_lost(self, error: ActorDiedError) -> None:
        """How it died, for those who ask."""
        self.has_ended = True
        told = re.search(r"was ended by signal (\d+)|exited with code (\d+)", str(error))
        if told is not None:
            self._exit_code = -int(told[1]) if told[1] else int(told[2])

    # ---- as a process ----

    @property
    def pid(self) -> int | None:
        """Of its process; blocks until that has started. None: it never has."""
        if self._pid is None:
            try:
                self._pid = miniray.get(self.hello)
            except MinirayError:
                return None
        return self._pid

    ident = pid

    def is_alive(self) -> bool:
        pid = self.pid
        return pid is not None and not await_end(pid, 0)

    @property
    def exitcode(self) -> int | None:
        """None while it lives; minus the signal that ended it, where one did."""
        if self.is_alive():
            return None
        return self._exit_code or 0

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        pid = self.pid
        if pid is not None:
            await_end(pid, timeout)

    def terminate(self) -> None:
        """SIGTERM; the pool puts another in its place."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; the pool puts another in its place."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.is_alive():
            os.kill(self.pid or 0, number)

    def __repr__(self) -> str:
        state = "starting" if self._pid is None else f"pid={self._pid}"
        return f"<PoolWorker name={self.name!r} {state}{' ended' if self.has_ended else ''}>"


def _groups_of(member: CrewMember) -> int:
    """One that has not started yet comes last: what it gets waits for that."""
    groups = len(member.groups) + len(member.loading)
    return groups if member.is_up else groups + MAX_GROUPS


def await_end(pid: int, seconds: float | None) -> bool:
    """Whether the process is gone by then."""
    try:
        descriptor = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))
    finally:
        os.close(descriptor)
