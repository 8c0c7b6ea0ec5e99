"""A node's standing with the control store: registered there, or asking to be (PROTOCOL.md sections 2 and 8).

| state | what says so |
|---|---|
| AWAY | `_ask_at`: nobody is there; it is asked again then |
| ASKED | this node has registered on the link that there is, and has no answer yet |
| REGISTERED | `is_registered` |

- On each new link the node says all that it knows and the store may have lost; so what it had to say while the store
  was away is missing nowhere.
- The node goes on with its work meanwhile: nobody needs the store for a task, an object or a call.
- But not for ever: who has no answer for `MOST_AWAY_SECONDS` must end (`tick`). Who cannot reach the store, though
  it may live, must end at once: others will hear soon that this node is dead.
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.core.ids import ProcessId
from miniray.core.machine import Send
from miniray.core.messages import ProcessDied, RegisterNode
from miniray.core.node.other_nodes import OtherNodes
from miniray.core.record import Effect
from miniray.core.resources import Demand

ASK_SECONDS = 0.1  # between two attempts to find a store that is away
MOST_AWAY_SECONDS = 20.0
MAX_DEATHS_REMEMBERED = 4096


class ControlLink:
    """`control` is None in a session of one node: then nothing here ever happens."""

    def __init__(
        self, control: ProcessId | None, resources: Demand, others: OtherNodes, emit: Callable[[Effect], None]
    ) -> None:
        self._control = control
        self._resources = resources
        self._others = others
        self._emit = emit
        self._deaths: dict[ProcessId, ProcessDied] = {}  # of processes of this node
        self._there = False
        self._unregistered_since: float | None = None
        self._ask_at: float | None = None
        self.is_registered = False

    def register(self, now: float) -> None:
        assert self._control is not None
        self._there, self._ask_at = True, None
        self._is_not_registered(now)
        known = RegisterNode(self._resources, tuple(self._others.dead), tuple(self._deaths.values()))
        self._emit(Send(self._control, known))

    def registered(self) -> None:
        self.is_registered, self._unregistered_since = True, None

    def away(self, now: float) -> None:
        """There is no store now."""
        self._there, self._ask_at = False, now + ASK_SECONDS
        self._is_not_registered(now)

    def _is_not_registered(self, now: float) -> None:
        self.is_registered = False
        self._others.forget_what_was_told()
        if self._unregistered_since is None:
            self._unregistered_since = now

    def process_died(self, news: ProcessDied) -> None:
        if self._control is None:
            return
        if len(self._deaths) >= MAX_DEATHS_REMEMBERED:
            del self._deaths[next(iter(self._deaths))]
        self._deaths[news.process] = news
        if self._there:
            self._emit(Send(self._control, news))

    def tick(self, now: float) -> bool:
        """Ask again, if it is time. True: it has been away for too long, and this node must end."""
        since = self._unregistered_since
        if since is not None and since + MOST_AWAY_SECONDS <= now:
            self._unregistered_since = self._ask_at = None
            return True
        if self._ask_at is not None and self._ask_at <= now:
            self.register(now)
        return False

    def deadline(self) -> float | None:
        if self._unregistered_since is None:
            return None
        give_up_at = self._unregistered_since + MOST_AWAY_SECONDS
        return give_up_at if self._ask_at is None else min(self._ask_at, give_up_at)

    def statistics(self) -> dict[str, int]:
        return {"unregistered": int(self._unregistered_since is not None)}
