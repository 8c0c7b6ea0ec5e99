"""One worker of a pool, as the pool sees it; and as its users do, to whom it is like a process.

It has a few groups under way: one, if its calls are long, or several, if they are short, so that it never waits for the
pool. They run in order.

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
from functools import cache
from math import inf
from threading import get_ident
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import miniray
from miniray.errors import ActorDiedError, MinirayError
from miniray.pool_worker.board import Board
from miniray.pool.groups import Callee, Group
from miniray.pool_worker.parcels import Parcel
from miniray.pool_worker.standing import Standing
from miniray.pool_worker.worker import PoolWorker

PIPELINE_GROUPS = 1.7  # a worker that has work for less gets another group
LONGEST = 2.0  # a group that lasts so many times longer than it should ends after the call at hand
MAX_GROUPS = 4  # under way at one worker
RECALL_SECONDS = 0.002  # a group that waits longer behind another is asked back when a worker idles
AHEAD_SECONDS = 0.1  # before its last task has ended another worker starts: that takes 10 to 40 ms, and an initializer

Way = tuple[Any, tuple[Any, ...]]  # a method of the worker, and its arguments


@cache
def _actor_class(start: str) -> Any:
    """Made once: it takes as long as all else that the pool does for a new worker."""
    return miniray.remote(PoolWorker).options(num_cpus=0, writable_arguments=True, raw_output=True, start=start)


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
        self._quota_seconds = inf  # which take about so long
        self.was_ahead = False  # it has begun while another had its place
        self.has_ended = False
        self.was_at = (0, 0)  # the group and its call that it ran when somebody looked
        self.sent_at = 0.0  # when it last got a group, or answered one
        self._pid: int | None = None
        self._exit_code: int | None = None
        self._last_words: Any = None  # of a process that is gone: the ref fails, and says how it ended
        self._methods: WeakKeyDictionary[Callee, tuple[Any, ...]] = WeakKeyDictionary()
        actor = _actor_class("fork" if is_forked else "zygote")
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
            self._quota_seconds = group.callee.expected(int(self.quota * group.source.chunk))

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
        args = group.single()
        if args is not None:
            return run_one, (*function, group.number, *args)
        if group.runs_whole:
            return run_whole, (*function, group.number, source.mode, group.items)
        how = LONGEST * group.target, group.packs_results, group.is_awaited
        if group.parcels:
            if group.packed_function is not None:
                function = (group.packed_function,)
            return run_parcels, (*function, group.number, source.mode, group.parcels, how)
        items = group.items[0].ref if type(group.items[0]) is Parcel else group.items
        return run, (*function, group.number, source.mode, items, how)

    def unload(self, group: Group) -> bool:
        """It does not get them; whether it was to."""
        if group not in self.loading:
            return False
        self.loading.remove(group)
        return True

    def push(self, group: Group, call: Any) -> None:
        """They are pickled, and go."""
        group.ref = call.remote()
        group.parcels = group.packed_function = None
        self.loading.remove(group)
        self._last = group.number
        if not self.groups:
            self.sent_at = monotonic()
        self.groups.append(group)

    def let_go(self) -> list[Group]:
        """It runs none of its groups any more."""
        groups = self.under_way()
        self.groups.clear()
        self.loading.clear()
        return groups

    def under_way(self) -> list[Group]:
        """What it runs, and what it is to get."""
        return [*self.groups, *self.loading]

    def backlog(self) -> int:
        """Groups that are ahead of the next. One that has not started yet comes last: what it gets waits for that."""
        groups = len(self.groups) + len(self.loading)
        return groups if self.is_up else groups + MAX_GROUPS

    @property
    def is_busy(self) -> bool:
        return bool(self.groups or self.loading)

    @property
    def is_used_up(self) -> bool:
        """Whether it has run all tasks that it may, and is to be replaced."""
        return self.quota is not None and self.quota <= 0 and not self.is_busy and not self.has_ended

    def nears_its_end(self, may_get_more: bool) -> bool:
        """Whether it works, and is soon to be replaced. `may_get_more`: also one that lacks some of its tasks."""
        if self.quota is None or self.has_ended:
            return False
        is_near = self.quota <= 0 or (may_get_more and self._quota_seconds < AHEAD_SECONDS)
        return is_near and self.is_up

    def learn(self, callee: Callee) -> None:
        """What this function imports is imported before it is called. Under no lock, since it may be pickled anew; and
        if that fails, its calls will say so."""
        actor = self.actor
        if callee.is_sent_once and actor is not None:
            try:
                actor.learn.options(function=callee.function).remote()
            except MinirayError:
                pass

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

    def has_started(self, seconds: float = 0.0) -> bool:
        """Whether its initializer has ended well, by then."""
        try:
            self._pid = miniray.get(self.hello, timeout=seconds)
        except (MinirayError, OSError):
            return self._pid is not None
        return True

    @property
    def began_too_early(self) -> bool:
        """Whether it may have failed for want of what the other still had: then the next one need not."""
        return self.was_ahead and not self.has_started()

    def is_lost(self) -> bool:
        """Whether it is known to have died, before its initializer had ended or behind that."""
        return bool(miniray.wait([self.hello], timeout=0)[0]) and not self.is_alive()

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
        self._note_exit(error)

    def bury(self) -> None:
        """It is gone, and had nothing to do."""
        self._ask_how()
        self.release()

    def _ask_how(self) -> None:
        """It is gone, and no call has told how: the next one will."""
        if self._exit_code is None and self._last_words is None and self.actor is not None:
            try:
                self._last_words = self.actor.pid.remote()
            except ActorDiedError as error:
                self._note_exit(error)
            except MinirayError:
                pass  # the session has ended, and nobody knows

    def _note_exit(self, error: ActorDiedError) -> None:
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
        self._ask_how()
        if self._exit_code is None and self._last_words is not None:
            try:
                miniray.get(self._last_words)
            except ActorDiedError as error:
                self._note_exit(error)
            except MinirayError:
                pass
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
