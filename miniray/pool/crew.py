"""The crew: the workers of a pool, as the pool sees them.

A worker has a few groups under way: one, if its calls are long, or as many as fit into `PIPELINE_SECONDS`, so that
it never waits for the pool. Groups of one worker run in order.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import miniray
from miniray.errors import MinirayError
from miniray.pool.board import Board
from miniray.pool.groups import Callee, Group
from miniray.pool.worker import PoolWorker

PIPELINE_SECONDS = 0.0025
MAX_GROUPS = 4  # under way at one worker
RECALL_SECONDS = 0.002  # a group that waits longer behind another is asked back when a worker idles


class CrewMember:
    """One worker process, from its start to its end."""

    def __init__(self, board: Board, slot: int, start: Any, quota: int | None) -> None:
        board.clear(slot)
        self.slot = slot
        self.groups: deque[Group] = deque()
        self.quota = quota  # tasks that it may still get (`maxtasksperchild`)
        self.has_ended = False
        self.sent_at = 0.0  # when it last got a group, or answered one
        self._pid: int | None = None
        self._methods: WeakKeyDictionary[Callee, tuple[Any, ...]] = WeakKeyDictionary()
        actor: Any = miniray.remote(PoolWorker).options(num_cpus=0, writable_arguments=True)
        self.actor = actor.remote(board.path, slot, start)
        self.hello = self.actor.pid.remote()
        calls = self.actor.run, self.actor.run_whole, self.actor.run_one
        self._ways: tuple[Any, ...] = tuple([one.options(writable_arguments=True, name="Pool worker") for one in calls])

    def can_take(self) -> bool:
        groups = self.groups
        if not groups:
            return not self.has_ended and self.quota != 0
        if len(groups) >= MAX_GROUPS or self.has_ended or self.quota == 0:
            return False
        return sum([group.expected for group in groups]) < PIPELINE_SECONDS

    def send(self, group: Group) -> None:
        """Pickles the calls, and runs users' code with it; raises what that raises."""
        source = group.source
        if source.argument is None and group.callee.is_sent_once:
            methods = self._methods.get(group.callee)
            if methods is None:
                of = group.callee.function
                methods = self._methods[group.callee] = tuple([one.options(function=of) for one in self._ways])
            function: tuple[Any, ...] = ()
        else:
            methods = self._ways
            function = (group.callee.function if source.argument is None else source.argument,)
        run, run_whole, run_one = methods
        args = group.single()
        if args is not None:
            group.ref = run_one.remote(*function, group.number, *args)
        else:
            method = run_whole if group.runs_whole else run
            group.ref = method.remote(*function, group.number, source.mode, group.items)
        if not self.groups:
            self.sent_at = monotonic()
        group.member = self
        self.groups.append(group)

    def to_collect(self) -> Iterator[Group]:
        """The groups whose answers come next."""
        first = True
        for group in self.groups:
            if not group.is_claimed and (first or group.is_recalled):
                first = False
                yield group

    def is_stuck(self) -> bool:
        return bool(self.groups) and monotonic() - self.sent_at > RECALL_SECONDS

    def has_started(self) -> bool:
        """Whether its initializer has ended well."""
        try:
            self._pid = miniray.get(self.hello, timeout=0)
        except (MinirayError, OSError):
            return self._pid is not None
        return True

    @property
    def pid(self) -> int | None:
        """Of its process; blocks until that has started. None: it never has."""
        if self._pid is None:
            try:
                self._pid = miniray.get(self.hello)
            except MinirayError:
                return None
        return self._pid

    def is_alive(self) -> bool:
        return not self.has_ended and self.pid is not None

    def release(self) -> None:
        """The process ends by itself once it has answered what it has."""
        self.has_ended = True
        self.actor = None
        self._ways = ()
        self._methods.clear()

    def kill(self) -> None:
        if self.actor is not None:
            try:
                miniray.kill(self.actor)
            except MinirayError:
                pass  # the session has ended, and the process with it
        self.release()

    def __repr__(self) -> str:
        return f"<PoolWorker pid={self._pid or 'starting'}{' ended' if self.has_ended else ''}>"


def await_end(pid: int, seconds: float) -> bool:
    """Whether the process is gone by then."""
    try:
        descriptor = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)
