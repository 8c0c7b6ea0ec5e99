"""Cancelling calls that run (`Executor(cancel_running=True)`).

The worker gets KeyboardInterrupt in the very call, and goes on with the next. One that does not come back within
`GRACE_SECONDS`, because it is in C code or swallows the interrupt, is killed, and another takes its place. Calls by
`submit` travel alone then: with others in one group, these would be struck, too. Those of a `map` are given up as one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

import miniray
from miniray.errors import MinirayError
from miniray.pool.crew_member import CrewMember
from miniray.pool.dispatch import Dispatcher
from miniray.pool.groups import Group

GRACE_SECONDS = 1.0


class _Strike(NamedTuple):
    group: Group
    answer: Any  # comes when the worker is done with it
    until: float  # then it is long enough


class Interrupts:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._struck: dict[CrewMember, list[_Strike]] = {}

    def strike(self, is_unwanted: Callable[[Group], bool]) -> None:
        """Workers stop with these groups. One that waits behind others is only taken back. But it may begin in this
        very moment, so it is watched, too."""
        with self._dispatcher.lock:
            try:
                for group in self._dispatcher.stop(is_unwanted):
                    self._watch(group.member, group)
            except MinirayError:
                pass  # the session has ended, and the workers with it

    def _watch(self, member: CrewMember, group: Group) -> None:
        strikes = self._struck.setdefault(member, [])
        strikes.append(_Strike(group, member.actor.pid.remote(), monotonic() + GRACE_SECONDS))
        if len(strikes) == 1:
            self._look_later(member)

    def _look_later(self, member: CrewMember) -> None:
        timer = threading.Timer(GRACE_SECONDS, self._look, (member,))
        timer.daemon = True
        timer.start()

    def _look(self, member: CrewMember) -> None:
        with self._dispatcher.lock:
            crew, now = self._dispatcher.crew, monotonic()
            strikes = self._struck.pop(member)
            try:
                strikes = [one for one in strikes if not miniray.wait([one.answer], timeout=0)[0]]
                if any(one.until <= now and crew.is_at(one.group) for one in strikes):
                    member.kill()
                    return
            except MinirayError:
                return  # the session has ended, and the worker with it
            if strikes:
                self._struck[member] = strikes
                self._look_later(member)
