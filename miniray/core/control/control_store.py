"""The control store: what the nodes of a session must agree on, kept by one process (DESIGN.md section 8).

It is on no path of a task, an object or a call: while it is away, everything goes on but the news. It may crash at any
moment and begin again with what its log says; `Membership` says what that is, and why no more. Its parts have a table
each; here is the one table of what it reacts to. A session of one node has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from miniray.core.control.events import Logged, StoreStarted
from miniray.core.control.membership import Membership
from miniray.core.ids import ProcessId
from miniray.core.machine import LinkRenewed, PeerLost, Received, Tick
from miniray.core.messages import NodeAdded, NodeDied, NodeLoad, ProcessDied, RegisterNode
from miniray.core.record import Effect, Event, Message

Handler = Callable[[float, Any, ProcessId], None]


class ControlStore:
    """`log`: what is on disk, oldest first; nothing if this is its first life."""

    def __init__(self, me: ProcessId, log: Sequence[NodeAdded | NodeDied] = ()) -> None:
        self._me = me
        self._effects: list[Effect] = []
        self._membership = Membership(self._effects.append, log)
        self._on: dict[type[Event] | type[Message], Handler] = {
            StoreStarted: self._on_store_started,
            Logged: self._on_logged,
            RegisterNode: self._on_register_node,
            NodeLoad: self._on_node_load,
            ProcessDied: self._on_process_died,
            PeerLost: self._on_peer_lost,
            LinkRenewed: self._on_link_renewed,
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

    def _on_store_started(self, now: float, event: StoreStarted, peer: ProcessId) -> None:
        self._membership.begin()

    def _on_logged(self, now: float, event: Logged, peer: ProcessId) -> None:
        self._membership.logged(event.upto)

    def _on_register_node(self, now: float, message: RegisterNode, peer: ProcessId) -> None:
        self._membership.register(peer, message)

    def _on_node_load(self, now: float, message: NodeLoad, peer: ProcessId) -> None:
        self._membership.load(peer, message)

    def _on_process_died(self, now: float, message: ProcessDied, peer: ProcessId) -> None:
        self._membership.process_died(peer, message)

    def _on_peer_lost(self, now: float, event: PeerLost, peer: ProcessId) -> None:
        self._membership.lost(now, event.peer, gone=event.gone)

    def _on_link_renewed(self, now: float, event: LinkRenewed, peer: ProcessId) -> None:
        """Nothing: that node hears of it too, and registers again."""

    def _on_tick(self, now: float, event: Tick, peer: ProcessId) -> None:
        self._membership.tick(now)

    def deadline(self) -> float | None:
        return self._membership.deadline()

    def check(self) -> None:
        self._membership.check()

    def statistics(self) -> dict[str, int]:
        return self._membership.statistics()
