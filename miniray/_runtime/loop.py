"""The loop: the only caller of `step` (DESIGN.md section 3). The simulator runs this very file.

A *turn* steps the machines with one event, performs their effects in order, and goes on with whatever that gave
(messages between the roles of this process, results of effects) until nothing is left. Turns are made under the
state lock (`driving.py`). Messages to one peer leave in the order in which they were decided: they gather in one
outbox a peer, and `flush` encodes each outbox into one frame.

A peer's nonsense becomes "peer lost" here, and nothing of a lost peer is let through: not to the machines, and not
to the transport.

Whether a link broke or the peer is dead only another link can tell: this asks for one, and greets on it with an empty
frame. The first frame of a peer on a new link is the proof that it lives: `LinkRenewed`. When nobody is there it is
lost. Until then what is sent to it goes nowhere, like all that was under way. Links to the process of a node are not
made again, but to and from the control store: it may begin again with the same id, and who is dead is its own word. So
between these two no loss is for ever here. That the other cannot be reached is told at once: a node must end then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from miniray._runtime.wire import BadMessageError, decode, encode
from miniray.core.ids import CONTROL_INDEX, NODE_NUMBER, ProcessId, local_number, node_index, node_of
from miniray.core.machine import LinkRenewed, Machine, PeerLost, Received, Send, Tick
from miniray.core.record import Effect, Event, Message
from miniray.transport import Arrival, Clock, Frame, LinkLost, LinkUp, Readable, Transport

MAX_RENEWALS = 8  # links to one peer that break before it has greeted, in a row; then it is lost

Step = Callable[[float, Event], list[Effect]]
Perform = Callable[[Any], Event | None]
Observe = Callable[[int, float, Event, list[Effect]], None]


class Loop:
    """Joins the machines of one process to its transport.

    Args:
        perform: what does each effect; the event that comes of it at once, if any, is part of the same turn.
        on_readable: what a watched descriptor's token means, as an event.
        on_lost: what the process itself does when it loses a peer (its node: it ends), after its machines.
        observe: called after each step with its number, time, event and effects; a run that can be told again.
    """

    def __init__(
        self,
        me: ProcessId,
        machines: Sequence[Machine],
        transport: Transport,
        clock: Clock,
        perform: Mapping[type[Effect], Perform],
        on_readable: Callable[[Any], Event | None],
        on_lost: Callable[[ProcessId, str], None],
        observe: Observe | None = None,
    ) -> None:
        self._me = me
        self._machines = tuple(machines)
        self._transport = transport
        self.clock = clock
        self._perform = perform
        self._on_readable = on_readable
        self._on_lost = on_lost
        self._observe = observe
        self._number = 0
        self._routes: dict[type[Event] | type[Message], tuple[Step, ...]] = {}
        for machine in machines:
            for kind in machine.handles():
                self._routes[kind] = (*self._routes.get(kind, ()), machine.step)
        self.outboxes: dict[ProcessId, list[Message]] = {}
        self._linked: dict[ProcessId, None] = {}
        self._lost: dict[ProcessId, None] = {}
        self._renewing: dict[ProcessId, int] = {}  # links that broke: how many others were asked for
        self._dead_nodes: dict[ProcessId, None] = {}

    # ---- turns ----

    def turn(self, event: Event) -> None:
        """Step with `event`, and with all that follows from it in this process."""
        follow = [event]
        for event in follow:  # it grows meanwhile
            kind: type[Event] | type[Message] = type(event)
            if kind is Received:
                kind = type(event.message)  # type: ignore[attr-defined]
            steps = self._routes.get(kind)
            if steps is not None:
                now = self.clock()
                for step in steps:
                    self._number += 1
                    effects = step(now, event)
                    if self._observe is not None:
                        self._observe(self._number, now, event, effects)
                    if effects:
                        self._do(effects, follow)

    def _do(self, effects: list[Effect], follow: list[Event]) -> None:
        outboxes = self.outboxes
        for effect in effects:
            if type(effect) is Send:
                peer = effect.peer
                if peer in outboxes:
                    outboxes[peer].append(effect.message)
                elif peer != self._me:
                    outboxes[peer] = [effect.message]
                else:
                    follow.append(Received(peer, effect.message))
            else:
                result = self._perform[type(effect)](effect)
                if result is not None:
                    follow.append(result)

    def flush(self) -> None:
        """Send what the turns have decided, one frame to each peer; nothing goes to a peer that is lost."""
        outboxes, self.outboxes = self.outboxes, {}
        dead: list[ProcessId] = []
        for peer, messages in outboxes.items():
            if peer in self._linked:
                self._transport.send(peer, encode(messages))
            elif peer in self._lost or peer in self._renewing:
                continue
            elif self._dead_nodes and node_of(peer) in self._dead_nodes:
                dead.append(peer)
            else:
                self._linked[peer] = None
                self._transport.connect(peer)
                self._transport.send(peer, encode(messages))
        if dead:  # met for the first time: it would be dialled in vain, and for long if it was cut off
            for peer in dead:
                self.lose(peer, "its node is dead")
            self.flush()

    # ---- what arrives ----

    def receive(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            if type(arrival) is Frame:
                peer = arrival.peer
                if peer in self._lost:
                    continue
                if self._renewing and peer in self._renewing:
                    self._renewed(peer)
                try:
                    messages = decode(arrival.data)
                except BadMessageError as error:
                    self._transport.disconnect(peer)
                    self.lose(peer, f"it sent what is no message: {error}")
                    continue
                for message in messages:
                    self.turn(Received(peer, message))
            elif type(arrival) is LinkLost:
                self._link_lost(arrival)
            elif type(arrival) is LinkUp:
                self._link_up(arrival.peer)
            elif type(arrival) is Readable:
                event = self._on_readable(arrival.token)
                if event is not None:
                    self.turn(event)

    def _link_up(self, peer: ProcessId) -> None:
        if self._dead_nodes and node_of(peer) in self._dead_nodes:
            self.disconnect(peer)  # it was under way when the death was told
        elif peer in self._lost:
            self._transport.disconnect(peer)
        elif peer in self._renewing:
            self._transport.send(peer, encode([]))
        elif peer not in self._linked:
            self._linked[peer] = None
            if self._may_come_back(peer):
                self._transport.send(peer, encode([]))  # it may have asked for another link, and wait for this

    def _link_lost(self, arrival: LinkLost) -> None:
        """Ask for another link, unless nobody is there, or this process or the peer is not one that makes them anew."""
        peer = arrival.peer
        tries = self._renewing.get(peer, 0)
        if self._may_come_back(peer):
            is_lost = arrival.unreachable
        else:
            is_lost = tries == MAX_RENEWALS or NODE_NUMBER in (local_number(peer), local_number(self._me))
        if is_lost or arrival.refused or peer in self._lost or LinkRenewed not in self._routes:
            self.lose(peer, arrival.reason, gone=arrival.refused)
            return
        self._renewing[peer] = tries + 1
        self._linked.pop(peer, None)
        self.outboxes.pop(peer, None)
        self._transport.connect(peer)

    def _renewed(self, peer: ProcessId) -> None:
        del self._renewing[peer]
        self._linked[peer] = None
        self.outboxes.pop(peer, None)
        self.turn(LinkRenewed(peer))

    def _may_come_back(self, peer: ProcessId) -> bool:
        return CONTROL_INDEX in (node_index(peer), node_index(self._me))

    def lose(self, peer: ProcessId, reason: str, *, gone: bool = False) -> None:
        """The link to `peer` is gone: tell the machines once, and let nothing more through."""
        if peer in self._lost:
            return
        if not self._may_come_back(peer):
            self._lost[peer] = None
        self._renewing.pop(peer, None)
        self._linked.pop(peer, None)
        self.outboxes.pop(peer, None)
        self.turn(PeerLost(peer, reason, gone))
        self._on_lost(peer, reason)

    def disconnect(self, peer: ProcessId) -> None:
        self._transport.disconnect(peer)
        self.lose(peer, "its node says that it is dead")

    def disconnect_node(self, node: ProcessId) -> None:
        """No process of that node lives any more, linked or not."""
        self._dead_nodes[node] = None
        for peer in [one for one in (*self._linked, *self._renewing) if node_of(one) == node]:
            self.disconnect(peer)

    # ---- time ----

    def deadline(self) -> float | None:
        first: float | None = None
        for machine in self._machines:
            deadline = machine.deadline()
            if deadline is not None and (first is None or deadline < first):
                first = deadline
        return first

    def tick(self) -> None:
        """Step `Tick` into each machine whose deadline has come."""
        now = self.clock()
        for machine in self._machines:
            deadline = machine.deadline()
            if deadline is not None and deadline <= now:
                event = Tick()
                self._number += 1
                effects = machine.step(now, event)
                if self._observe is not None:
                    self._observe(self._number, now, event, effects)
                follow: list[Event] = []
                self._do(effects, follow)
                for following in follow:
                    self.turn(following)

    # ---- proof ----

    def check(self) -> None:
        for machine in self._machines:
            machine.check()

    def statistics(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for machine in self._machines:
            merged.update(machine.statistics())
        return merged
