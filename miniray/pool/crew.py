"""The crew: all workers of a pool; who of them gets the next group, and who takes whose place.

With a quota of tasks a worker that nears its end has a successor, which starts while the last calls run: its start, its
initializer and its imports take longer than most of these. There is one at most, and it gets no call before somebody
leaves, so never do more run calls than the pool has processes.

What a forked worker inherits is what the standard pool's would: there it is forked when its predecessor has ended, by
another thread. Here a successor is forked ahead only while calls wait that it may get; so whatever the program had set
when it brought them is there. Where none wait the place stays vacant, until somebody brings one or nothing is done for
a while. A program that changes something between two calls has a worker that knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import get_context, util
from multiprocessing.context import BaseContext
from time import monotonic
from typing import Any

import miniray
from miniray.errors import ActorDiedError, SerializationError, SessionError
from miniray.pool_worker.board import Board, Posted
from miniray.pool.crew_member import CrewMember, await_end
from miniray.pool.groups import Group
from miniray.pool.inheritance import find_in_main, find_shared, is_fork_context
from miniray.pool_worker.standing import next_standing

JOIN_SECONDS = 10.0  # how long `join` waits for processes whose work is done
END_SECONDS = 1.0  # how long `terminate` waits for those that it has killed
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
        self._board = Board(processes if tasks_per_child is None else processes + 1)
        self._tasks_per_child = tasks_per_child
        self._context: BaseContext = context or get_context()
        self._title = title
        self._failed_starts = 0
        self.recycles = tasks_per_child is not None
        self._successor: CrewMember | None = None
        self._free_slot = processes  # of the board: the next successor's
        self.has_vacancies = False
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
        before, put, was_forked = self.everyone(), self._start, self.is_forked
        self._start, self.is_forked = self._given, True
        try:
            self._hire_all(len(self._members))
        except BaseException:  # or there can be no more processes
            self._start, self.is_forked = put, was_forked
            raise
        self._successor, self._free_slot = None, len(self._members)
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
        """Those that get calls."""
        return iter(self._members)

    def everyone(self) -> list[CrewMember]:
        return [*self._members] if self._successor is None else [*self._members, self._successor]

    def grow(self, processes: int) -> None:
        """To so many workers; never to fewer.

        Raises:
            SessionError, ObjectLostError: as `check_session`.
        """
        self.check_session()
        for slot in self._board.extend(max(0, processes - len(self._members))):
            self._members.append(self._hire(slot))

    def idlest(self) -> CrewMember | None:
        """The worker that gets the next group; None: all have enough."""
        free = [member for member in self._members if member.can_take()]
        return min(free, key=CrewMember.backlog) if free else None

    def unoccupied(self) -> CrewMember | None:
        """A worker for a single call, when none of them has anything to do."""
        for member in self._members:
            if member.is_busy:
                return None
        first = self._members[0]
        if first.quota is not None:
            return None
        return first if first.is_up and not first.has_ended else self.idlest()

    @property
    def has_idle(self) -> bool:
        """Whether there is somebody to run what waits behind a slow call elsewhere, or would be as soon as that waits
        here."""
        free = (member.can_take() and not member.is_busy for member in self._members if member.is_up)
        return self.has_vacancies or any(free)

    def to_collect(self) -> tuple[list[Group], bool]:
        """Groups whose answers come next; whether something else may happen meanwhile: a worker idles, or may hold
        back what others wait for."""
        groups: list[Group] = []
        restless = False
        for member in self._members:
            if member.groups:
                groups += member.to_collect()
                restless = restless or member.groups[0].is_awaited or (self.recycles and not member.is_up)
            else:
                restless = True
        return groups, restless

    @property
    def holds_back(self) -> bool:
        """Whether outcomes exist that a slow call may keep behind it."""
        firsts = [member.groups[0] for member in self._members if member.groups]
        return any(group.is_awaited and self.started(group) > group.delivered + 1 for group in firsts)

    def posted(self, member: CrewMember) -> tuple[Group, Posted] | None:
        """Outcomes that have come before their group has ended."""
        group = member.groups[0] if member.groups else None
        if group is None or not group.is_awaited:
            return None
        posted = self._board.posted(member.slot, group.number, group.delivered)
        return None if posted is None else (group, posted)

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
        if member in self._members:
            self._members[self._members.index(member)] = self._succeed(member)

    def _succeed(self, member: CrewMember) -> CrewMember:
        if member.began_too_early:
            return self._hire(member.slot)
        successor, self._successor = self._successor, None
        if successor is None or successor.is_lost():  # if the next one's initializer raises, too, all hear of it
            return self._hire(member.slot)
        self._free_slot = member.slot
        return successor

    def hire_ahead(self, calls_wait: bool) -> CrewMember | None:
        """A successor, if one is needed soon, and is not there yet."""
        successor = self._successor
        if self.is_forked and not calls_wait:
            if successor is not None:
                self._successor = None
                successor.release()  # not `end`: its initializer may run, and hold a lock
            return None
        # Who may get more has none forked: the calls that wait are often few, go to others, and that was for nothing.
        may_get_more = calls_wait and not self.is_forked
        if successor is None and any(member.nears_its_end(may_get_more) for member in self._members):
            self._successor = self._hire(self._free_slot)
            self._successor.was_ahead = True
            return self._successor
        return None

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
            member.bury()
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
        """Wait for the ends of the processes. One that was killed may never have started; or it has, just before, and
        that is on its way: either is told soon."""
        deadline = monotonic() + (END_SECONDS if killed else JOIN_SECONDS)
        for member in self.everyone():
            must_start = not killed and member is not self._successor  # whose initializer may never end
            pid = member.pid if must_start or member.has_started(max(0.0, deadline - monotonic())) else None
            if pid is not None:
                await_end(pid, max(0.0, deadline - monotonic()))
