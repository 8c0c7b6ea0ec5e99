"""Who is met for the first time after its node has died: nobody is dialled, and the wait ends at once."""

from __future__ import annotations

from typing import Any

from miniray._runtime.loop import Loop
from miniray.core.ids import DRIVER_NUMBER, LOCAL_BITS, ObjectId, ProcessId, process_id, process_on
from miniray.core.machine import PeerLost, Send
from miniray.core.messages import WhereIs
from miniray.core.record import Effect, Event

ME, DEAD_NODE = process_id(b"test", DRIVER_NUMBER), process_id(b"test", 1 << LOCAL_BITS)
THERE = process_on(DEAD_NODE, 2)


class Machine:
    """It asks once, and notes whom it has lost."""

    def __init__(self) -> None:
        self.lost: list[ProcessId] = []

    def handles(self) -> tuple[type[Event], ...]:
        return (PeerLost,)

    def step(self, now: float, event: Event) -> list[Effect]:
        assert isinstance(event, PeerLost)
        self.lost.append(event.peer)
        return [Send(event.peer, WhereIs(ObjectId(event.peer + bytes(10)), 0))]  # in vain


class Transport:
    def __init__(self) -> None:
        self.dialled: list[ProcessId] = []

    def connect(self, peer: ProcessId) -> None:
        self.dialled.append(peer)

    def send(self, peer: ProcessId, frame: Any) -> None: ...

    def disconnect(self, peer: ProcessId) -> None: ...


def test_nobody_on_a_dead_node_is_dialled() -> None:
    machine, transport = Machine(), Transport()
    loop = Loop(ME, (machine,), transport, lambda: 0.0, {}, lambda token: None, lambda peer, reason: None)  # type: ignore[arg-type]
    loop.disconnect_node(DEAD_NODE)
    loop.outboxes[THERE] = [WhereIs(ObjectId(THERE + bytes(10)), 0)]
    loop.flush()
    assert machine.lost == [THERE]
    assert transport.dialled == [] and not loop.outboxes
