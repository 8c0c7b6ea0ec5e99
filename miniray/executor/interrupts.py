"""Cancelling calls that run (`Executor(cancel_running=True)`).

The worker gets KeyboardInterrupt in the very call, and goes on with the next. One that does not come back within
`GRACE_SECONDS`, because it is in C code or swallows the interrupt, is killed, and another takes its place. Such calls
travel alone: with others in one group, these would be struck, too.
"""

from __future__ import annotations

import threading
from typing import Any

import miniray
from miniray.errors import MinirayError
from miniray.pool.crew import CrewMember
from miniray.pool.dispatch import Dispatcher
from miniray.pool.groups import Group

GRACE_SECONDS = 1.0


class Interrupts:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        # the call that was struck last, and an answer that comes when the worker has stopped with it
        self._awaited: dict[CrewMember, tuple[Group, Any]] = {}

    def strike(self, token: Any) -> None:
        """The worker that has this call stops with it."""
        with self._dispatcher.lock:
            for member in self._dispatcher.crew:
                for group in member.groups:
                    if group.tokens[0] is token and member.actor is not None:
                        miniray.cancel(group.ref)
                        if not self._dispatcher.crew.is_at(group):
                            return  # it waits behind others, and is only taken back
                        is_watched = member in self._awaited
                        self._awaited[member] = group, member.actor.pid.remote()
                        if not is_watched:
                            self._look_later(member)
                        return

    def _look_later(self, member: CrewMember) -> None:
        timer = threading.Timer(GRACE_SECONDS, self._look, (member, self._awaited[member][1]))
        timer.daemon = True
        timer.start()

    def _look(self, member: CrewMember, answer: Any) -> None:
        with self._dispatcher.lock:
            group, latest = self._awaited[member]
            if latest is not answer:  # it was struck again, and has a second from then on
                self._look_later(member)
                return
            del self._awaited[member]
            try:
                if self._dispatcher.crew.is_at(group) and not miniray.wait([answer], timeout=0)[0]:
                    member.kill()
            except MinirayError:
                pass  # the session has ended, and the worker with it
