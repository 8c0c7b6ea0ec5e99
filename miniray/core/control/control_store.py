"""The control store: what the nodes of a session must agree on, kept by one process (DESIGN.md section 8).

It is on no path of a task, an object or a call. Its parts have a table each; here is the one table of what it reacts
to. A session of one node has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from miniray.core.control.membership import Membership
from miniray.core.ids import ProcessId
from miniray.core.machine import PeerLost, Received, Tick
from miniray.core.messages import NodeLoad, ProcessDied, RegisterNode
from miniray.core.record import Effect, Event, Message

Handler = Callable[[float, Any, ProcessId], None]


class ControlStore:
    def __init__(self, me: ProcessId) -> None:
        self._me = me
        self._effects: list[Effect] = []
        self._membership = Membership(self._effects.append)
        self._on: dict[type[Event] | type[Message], Handler] = {
            RegisterNode: self._on_register_node,
            NodeLoad: self._on_node_load,
            ProcessDied: self._on_process_died,
            PeerLost: self._on_peer_lost,
            Tick: self._on_tick,
        }

    def handles(self) -> tuple[type[Event] | type[Message], ...]:
        return tuple(self._on)

    def step(self, now: float, event: Event) -> list[Effect]:
        if type(event) is Received:
            self._on[type(event.message)](now, event.message, event.peer)
        else:
            self._on[type(event)](now, event, self._me)
        effects = self._effects[:]
        self._effects.clear()
        return effects

    def _on_register_node(self, now: float, message: RegisterNode, peer: ProcessId) -> None:
        self._membership.register(peer, message)

    def _on_node_load(self, now: float, message: NodeLoad, peer: ProcessId) -> None:
        self._membership.load(peer, message)

    def _on_process_died(self, now: float, message: ProcessDied, peer: ProcessId) -> None:
        self._membership.process_died(peer, message)

    def _on_peer_lost(self, now: float, event: PeerLost, peer: ProcessId) -> None:
        self._membership.lost(now, event.peer)

    def _on_tick(self, now: float, event: Tick, peer: ProcessId) -> None:
        self._membership.tick(now)

    def deadline(self) -> float | None:
        return self._membership.deadline()

    def check(self) -> None:
        """Its tables have nothing to contradict each other yet."""

    def statistics(self) -> dict[str, int]:
        return self._membership.statistics()
