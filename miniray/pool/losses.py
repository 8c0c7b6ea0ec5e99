"""Workers that are lost, and the pool that can run nothing any more.

A worker is lost by one road: a call to it raises `ActorDiedError`. The board then says what had started: that fails, or
is run again while it has retries left; the rest is simply run, and another worker takes the place.

A pool is given up when that is of no use: its workers die before they can work, it is strict, its session has ended,
it is terminated. All calls, now and later, then fail with the reason, each with a copy of its own.

All methods run under the pool's lock.
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.errors import ActorDiedError, MinirayError, ObjectLostError, SessionError, WorkerCrashedError
from miniray.pool.call_queue import CallQueue
from miniray.pool.crew import Crew
from miniray.pool.crew_member import CrewMember
from miniray.pool.groups import Group
from miniray.pool.outcomes import reason, session_error, start_error


class Losses:
    """
    Args:
        retries: how many more times a call is started whose worker died.
        is_strict: when a worker is lost all calls fail, now and later.
        on_broken: is told why nothing can be run any more; perhaps several times.
    """

    def __init__(
        self, queue: CallQueue, crew: Crew, retries: int, is_strict: bool, on_broken: Callable[[BaseException], None]
    ) -> None:
        self._queue = queue
        self._crew = crew
        self._retries = retries
        self._is_strict = is_strict
        self._on_broken = on_broken
        self.broken: BaseException | None = None  # why nothing can be run any more
        self.has_left = False  # the interpreter exits: workers have ended, and nobody is told

    def lost(self, member: CrewMember, error: ActorDiedError) -> None:
        """Its process is gone: what had started fails, what had not goes to others, another takes its place."""
        if self.has_left or (member.has_ended and not (member.groups or member.loading)):
            return
        member.was_lost(error)
        began_too_early = member.began_too_early
        if not began_too_early and self._crew.cannot_start(member, error):
            self.give_up(start_error(error))
            return
        if self._is_strict and not began_too_early:
            self.give_up(WorkerCrashedError(f"a worker was lost: {reason(error)}"))
            return
        for group in reversed(member.let_go()):
            started = self._crew.started(group)
            self._queue.put_back(group, started)
            if started:
                self._had_started(group, started, error)
        if self.broken is None:
            self.replace(member)

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

    def leave(self) -> None:
        """The interpreter exits: workers end, no others take their places, and what they ran has no outcome."""
        self.has_left = True
        for member in self._crew.everyone():
            member.end()

    def retire(self, member: CrewMember) -> None:
        """It has run all the tasks that it may."""
        member.release()
        if self._crew.is_forked and not self._queue.has_calls():
            self._crew.has_vacancies = True
        else:
            self.replace(member)

    def fill_vacancies(self) -> None:
        if self.broken is None and not self.has_left:
            for member in [one for one in self._crew if one.has_ended]:
                self.replace(member)
        self._crew.has_vacancies = False

    def hire_ahead(self) -> CrewMember | None:
        """As the crew does it, which nobody is to miss who does not need it yet."""
        try:
            return self._crew.hire_ahead(self._queue.has_calls())
        except MinirayError:  # whoever then needs it says so
            return None

    def replace(self, member: CrewMember) -> None:
        try:
            self._crew.replace(member)
        except MinirayError as error:
            self.give_up(error)

    def replace_the_dead(self) -> None:
        """A worker that dies without a call is not missed before it gets the next one; now somebody looks."""
        self.fill_vacancies()
        for member in () if self.has_left or self.broken else self._crew.found_dead():
            self.replace(member)

    def give_up(self, error: BaseException) -> None:
        """Nothing can be run any more: all calls, now and later, fail with this."""
        if isinstance(error, SessionError | ObjectLostError):
            error = session_error(error)
        if self.broken is None:
            self.broken = error
        for member in self._crew.everyone():
            for group in member.let_go():
                group.fail(group.kept, error)
            member.end()
        self._queue.abandon(error)
        self._on_broken(error)
