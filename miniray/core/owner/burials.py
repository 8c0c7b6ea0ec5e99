"""Burials: what of the dead ends in each part of the owner role (PROTOCOL.md section 8).

`deaths.py` knows who is gone; here all parts are told, once, and in one order:

- A link that has ended ends what was counted for that process and what was awaited of it, and what runs there is LOST.
- News of the death says what had started there. It counts when the link has been read to its end (`deaths.py`), and
  only then is anything run again.
- With a node die its processes, before anything is made again: what would be sent to them spends a retry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miniray.core.ids import ProcessId, node_of
from miniray.core.machine import PeerLost
from miniray.core.messages import CopyFailed, NodeDied, ProcessDied
from miniray.core.owner.actors import Actors
from miniray.core.owner.adoption import Adoption
from miniray.core.owner.completion import Completion
from miniray.core.owner.deaths import Deaths, died_with_its_node
from miniray.core.owner.dispatch import Dispatch
from miniray.core.owner.events import Disconnect, DisconnectNode
from miniray.core.owner.holding import Holding
from miniray.core.owner.places import Places
from miniray.core.owner.remaking import Remaking
from miniray.core.record import Effect, Event, Message

Handler = Callable[[float, Any, ProcessId], None]


class Burials:
    def __init__(
        self,
        deaths: Deaths,
        holding: Holding,
        completion: Completion,
        dispatch: Dispatch,
        actors: Actors,
        places: Places,
        adoption: Adoption,
        remaking: Remaking,
        emit: Callable[[Effect], None],
    ) -> None:
        self._deaths = deaths
        self._holding = holding
        self._functions = completion.functions
        self._learned = completion.learned
        self._dispatch = dispatch
        self._actors = actors
        self._places = places
        self._adoption = adoption
        self._remaking = remaking
        self._emit = emit
        self.on: Mapping[type[Event] | type[Message], Handler] = {
            PeerLost: self._on_peer_lost,
            ProcessDied: self._on_process_died,
            NodeDied: self._on_node_died,
            CopyFailed: self._on_copy_failed,
        }

    def _on_peer_lost(self, now: float, event: PeerLost, peer: ProcessId) -> None:
        lost = event.peer
        self._learned(self._holding.peer_lost(lost))
        self._adoption.owner_lost(lost)
        self._functions.worker_lost(lost)
        self._link_ended(now, lost)
        death = self._deaths.link_ended(lost)
        if death is not None:
            self._bury(now, death)
        self._places.link_ended(now)

    def _on_process_died(self, now: float, message: ProcessDied, peer: ProcessId) -> None:
        """The link to it is first drained to its end; only then does the death count (PROTOCOL.md section 2)."""
        link_has_ended = message.process in self._holding.lost
        self._deaths.told(now, message, link_has_ended=link_has_ended)
        if link_has_ended:
            self._bury(now, message)

    def _on_node_died(self, now: float, message: NodeDied, peer: ProcessId) -> None:
        """Links to it need no draining: it had ended for some time when this was declared."""
        node = message.node
        if node in self._deaths.nodes:
            return
        self._deaths.nodes[node] = None
        self._dispatch.node_died(node)
        lost = [one for one in self._holding.lost if node_of(one) == node]
        for process in dict.fromkeys([*lost, *self._dispatch.workers_on(node), *self._actors.processes_on(node)]):
            if process not in self._holding.lost:
                self._link_ended(now, process)
            self._bury(now, died_with_its_node(process))
        self._remaking.node_died(node)
        self._emit(DisconnectNode(node))

    def _on_copy_failed(self, now: float, message: CopyFailed, peer: ProcessId) -> None:
        """Its node has heard of a death that this one may not have heard of yet."""
        source = self._holding.copies.source_node(message.number, peer)
        if source is not None and message.failure is None:
            self._on_node_died(now, NodeDied(source), peer)
        self._remaking.copy_failed(message, peer)

    def _link_ended(self, now: float, process: ProcessId) -> None:
        self._dispatch.worker_lost(now, process)
        self._actors.process_lost(now, process)

    def _bury(self, now: float, death: ProcessDied) -> None:
        self._dispatch.worker_died(now, death.process, death)
        self._actors.process_died(death.process, death)

    def tick(self, now: float) -> None:
        for died in self._deaths.drained(now):
            self._emit(Disconnect(died))
