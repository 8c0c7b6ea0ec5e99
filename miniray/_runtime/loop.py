"""The loop: the only caller of `step` (DESIGN.md section 3). The simulator runs this very file.

A *turn* steps the machines with one event, performs their effects in order, and goes on with whatever that gave
(messages between the roles of this process, results of effects) until nothing is left. Turns are made under the
state lock (`driving.py`). Messages to one peer leave in the order in which they were decided: they gather in one
outbox a peer, and `flush` encodes each outbox into one frame.

A peer's nonsense becomes "peer lost" here, and nothing of a lost peer is let through: not to the machines, and not
to the transport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from miniray._runtime.wire import BadMessageError, decode, encode
from miniray.core.ids import ProcessId, node_of
from miniray.core.machine import Machine, PeerLost, Received, Send, Tick
from miniray.core.record import Effect, Event, Message
from miniray.transport import Arrival, Clock, Frame, LinkLost, LinkUp, Readable, Transport

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
        for peer, messages in outboxes.items():
            if peer in self._linked:
                self._transport.send(peer, encode(messages))
            elif peer not in self._lost:
                self._linked[peer] = None
                self._transport.connect(peer)
                self._transport.send(peer, encode(messages))

    # ---- what arrives ----

    def receive(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            if type(arrival) is Frame:
                peer = arrival.peer
                if peer in self._lost:
                    continue
                try:
                    messages = decode(arrival.data)
                except BadMessageError as error:
                    self._transport.disconnect(peer)
                    self.lose(peer, f"it sent what is no message: {error}")
                    continue
                for message in messages:
                    self.turn(Received(peer, message))
            elif type(arrival) is LinkLost:
                self.lose(arrival.peer, arrival.reason)
            elif type(arrival) is LinkUp:
                self._linked[arrival.peer] = None
                if self._dead_nodes and node_of(arrival.peer) in self._dead_nodes:
                    self.disconnect(arrival.peer)  # it was under way when the death was told
            elif type(arrival) is Readable:
                event = self._on_readable(arrival.token)
                if event is not None:
                    self.turn(event)

    def lose(self, peer: ProcessId, reason: str) -> None:
        """The link to `peer` is gone: tell the machines once, and let nothing more through."""
        if peer in self._lost:
            return
        self._lost[peer] = None
        self._linked.pop(peer, None)
        self.outboxes.pop(peer, None)
        self.turn(PeerLost(peer, reason))
        self._on_lost(peer, reason)

    def disconnect(self, peer: ProcessId) -> None:
        self._transport.disconnect(peer)
        self.lose(peer, "its node says that it is dead")

    def disconnect_node(self, node: ProcessId) -> None:
        """No process of that node lives any more, linked or not."""
        self._dead_nodes[node] = None
        for peer in [one for one in self._linked if node_of(one) == node]:
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
