"""What every transport must do (`miniray.transport`), as checks that its author can run.

A transport's tests make a `World` and run each check of `TRANSPORT_CHECKS` in a fresh one:

    @pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        with closing(MyWorld()) as world:
            check(world)

All processes of a world live in this one, so that no fork is needed and a failing check can be stepped through. A
world that is simulated says so (`simulated = True`): checks of threads, descriptors and raw bytes pass it by.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from miniray.core.ids import ProcessId
from miniray.transport import (
    LINK_BUFFER_BYTES,
    Arrival,
    Frame,
    LinkDrained,
    LinkFull,
    LinkLost,
    LinkUp,
    Readable,
    Transport,
)


class World(Protocol):
    """Processes that can reach each other, and what each of them has received."""

    simulated: bool

    def process(self) -> Transport:
        """A new process, connected to whatever lets it reach the others."""

    def id_of(self, transport: Transport) -> ProcessId: ...

    def unknown_id(self) -> ProcessId:
        """An id that no process of this world has or will have."""

    def settle(self) -> None:
        """Poll every living process until nothing moves any more; keep what arrives (frames as bytes)."""

    def arrivals(self, transport: Transport) -> list[Arrival]:
        """Everything that `settle` has kept for this process, in order."""

    def kill(self, transport: Transport) -> None:
        """As if its process had died."""

    def send_garbage(self, sender: Transport, receiver: ProcessId, data: bytes) -> None:
        """Put raw bytes on the link (not called if the world is simulated)."""

    def close(self) -> None: ...


def frames_from(arrivals: list[Arrival], peer: ProcessId) -> list[bytes]:
    return [bytes(one.data) for one in arrivals if isinstance(one, Frame) and one.peer == peer]


def losses_of(arrivals: list[Arrival], peer: ProcessId) -> int:
    return sum(isinstance(one, LinkLost) and one.peer == peer for one in arrivals)


def _linked_pair(world: World) -> tuple[Transport, Transport, ProcessId, ProcessId]:
    """Two processes; the first has dialled the second."""
    first, second = world.process(), world.process()
    first.connect(world.id_of(second))
    world.settle()
    assert LinkUp(world.id_of(first)) in world.arrivals(second), "the far side hears of a new link"
    return first, second, world.id_of(first), world.id_of(second)


def frames_arrive_whole_and_in_order(world: World) -> None:
    first, second, first_id, second_id = _linked_pair(world)
    there = [bytes([index % 251]) * size for index, size in enumerate([0, 1, 300_000, 2, 5_000_000, 65_536, 0, 70_000])]
    back = [index.to_bytes(3, "big") * (index % 40) for index in range(5_000)]
    for frame in there:
        first.send(second_id, frame)
    for frame in back:
        second.send(first_id, frame)
    world.settle()
    assert frames_from(world.arrivals(second), first_id) == there
    assert frames_from(world.arrivals(first), second_id) == back


def frames_sent_while_dialling_are_kept(world: World) -> None:
    first, second = world.process(), world.process()
    first.connect(world.id_of(second))
    sent = [b"%d" % index for index in range(100)] + [bytes(1_000_000), b"end"]
    for frame in sent:
        first.send(world.id_of(second), frame)
    world.settle()
    assert frames_from(world.arrivals(second), world.id_of(first)) == sent


def a_second_connect_changes_nothing(world: World) -> None:
    first, second, first_id, second_id = _linked_pair(world)
    first.connect(second_id)
    second.connect(first_id)
    first.send(second_id, b"still the same")
    world.settle()
    assert frames_from(world.arrivals(second), first_id) == [b"still the same"]
    assert world.arrivals(second).count(LinkUp(first_id)) == 1
    assert not losses_of(world.arrivals(first), second_id) + losses_of(world.arrivals(second), first_id)


def two_that_dial_at_once_get_one_link(world: World) -> None:
    for _ in range(20):
        first, second = world.process(), world.process()
        first_id, second_id = world.id_of(first), world.id_of(second)
        first.connect(second_id)
        second.connect(first_id)
        first.send(second_id, b"from the first")
        second.send(first_id, b"from the second")
        world.settle()
        for transport, peer, sent in ((first, second_id, b"from the second"), (second, first_id, b"from the first")):
            seen = world.arrivals(transport)
            assert frames_from(seen, peer) == [sent]
            assert not losses_of(seen, peer)
            assert seen.count(LinkUp(peer)) <= 1


def a_dial_of_nobody_is_lost_once(world: World) -> None:
    transport, nobody = world.process(), world.unknown_id()
    transport.connect(nobody)
    transport.send(nobody, b"into the void")
    world.settle()
    transport.send(nobody, b"silently nothing")
    world.settle()
    assert losses_of(world.arrivals(transport), nobody) == 1
    assert LinkUp(nobody) not in world.arrivals(transport)


def what_arrived_before_the_break_is_delivered(world: World) -> None:
    first, second, first_id, second_id = _linked_pair(world)
    sent = [b"%d" % index for index in range(100)]  # few: what a dead process had queued itself is lost with it
    for frame in sent:
        first.send(second_id, frame)
    if world.simulated:
        world.settle()  # elsewhere the kernel holds them; a simulated network may lose what is under way
    world.kill(first)
    second.send(first_id, b"too late")
    world.settle()
    second.send(first_id, b"silently nothing")
    world.settle()
    seen: list[Arrival] = [
        one for one in world.arrivals(second) if not isinstance(one, Readable) and one.peer == first_id
    ]
    assert frames_from(seen, first_id) == sent
    assert losses_of(seen, first_id) == 1
    assert isinstance(seen[-1], LinkLost), "nothing of a peer after its loss"


def a_death_is_told_to_each_peer_once(world: World) -> None:
    victim = world.process()
    others = [world.process() for _ in range(5)]
    for other in others:
        other.connect(world.id_of(victim))
    world.settle()
    world.kill(victim)
    world.settle()
    for other in others:
        assert losses_of(world.arrivals(other), world.id_of(victim)) == 1


def a_disconnect_is_told_at_the_other_end_only(world: World) -> None:
    first, second, first_id, second_id = _linked_pair(world)
    first.send(second_id, b"last words")
    if world.simulated:
        world.settle()
    first.disconnect(second_id)
    first.disconnect(second_id)
    first.send(second_id, b"silently nothing")
    world.settle()
    assert frames_from(world.arrivals(second), first_id) == [b"last words"]
    assert losses_of(world.arrivals(second), first_id) == 1
    assert losses_of(world.arrivals(first), second_id) == 0


def a_link_can_be_made_anew(world: World) -> None:
    first, second, first_id, second_id = _linked_pair(world)
    for turn in range(5):
        caller, other, other_id = (first, second, second_id) if turn % 2 else (second, first, first_id)
        caller.disconnect(other_id)
        caller.connect(other_id)
        caller.send(other_id, b"again %d" % turn)
        world.settle()
        caller_id = first_id if turn % 2 else second_id
        assert frames_from(world.arrivals(other), caller_id)[-1:] == [b"again %d" % turn]
        assert not losses_of(world.arrivals(caller), other_id) > turn


def pressure_is_told(world: World) -> None:
    first, second, first_id, second_id = _linked_pair(world)
    piece = bytes(8 << 20)
    count = LINK_BUFFER_BYTES // len(piece) + 3
    for _ in range(count):
        first.send(second_id, piece)
    world.settle()
    seen = [one for one in world.arrivals(first) if isinstance(one, LinkFull | LinkDrained)]
    assert seen == [LinkFull(second_id), LinkDrained(second_id)]
    assert [len(frame) for frame in frames_from(world.arrivals(second), first_id)] == [len(piece)] * count


def wake_ends_a_poll(world: World) -> None:
    transport = world.process()
    world.settle()
    transport.wake()
    assert transport.poll(0 if world.simulated else 30) == []
    if world.simulated:
        return
    for delay in (0.0, 0.05):
        thread = threading.Timer(delay, transport.wake)
        began = time.monotonic()
        thread.start()
        assert transport.poll(30) == []
        thread.join()
        assert time.monotonic() - began < 10
    began = time.monotonic()
    assert transport.poll(0.02) == []
    assert time.monotonic() - began >= 0.015, "one wake ends one poll"


def a_watched_descriptor_is_told_once(world: World) -> None:
    if world.simulated:
        return
    transport = world.process()
    world.settle()
    reading, writing = os.pipe()
    try:
        transport.watch(reading, "token")
        assert transport.poll(0) == []
        os.write(writing, b"x")
        assert transport.poll(10) == [Readable("token")]
        assert transport.poll(0) == []
        transport.watch(reading, "again")
        assert transport.poll(10) == [Readable("again")]
    finally:
        os.close(reading)
        os.close(writing)


def garbage_breaks_its_link_only(world: World) -> None:
    if world.simulated:
        return
    for garbage in (b"\xff" * 64, b"\x01\x00\x00\x00\xee" + b"x", b"GET / HTTP/1.1\r\n\r\n"):
        first, second, first_id, second_id = _linked_pair(world)
        third = world.process()
        third.connect(second_id)
        first.send(second_id, b"good")
        world.settle()
        world.send_garbage(first, second_id, garbage)
        world.settle()
        third.send(second_id, b"unharmed")
        world.settle()
        seen = world.arrivals(second)
        assert frames_from(seen, first_id) == [b"good"]
        assert losses_of(seen, first_id) == 1
        assert losses_of(world.arrivals(first), second_id) == 1
        assert frames_from(seen, world.id_of(third)) == [b"unharmed"]


def close_is_idempotent(world: World) -> None:
    first, second, first_id, second_id = _linked_pair(world)
    world.kill(first)
    first.close()
    first.close()
    first.wake()
    first.send(second_id, b"silently nothing")
    first.disconnect(second_id)
    assert not [one for one in first.poll(0) if isinstance(one, Frame)]
    world.settle()
    assert losses_of(world.arrivals(second), first_id) == 1


TRANSPORT_CHECKS: list[Callable[[World], None]] = [
    frames_arrive_whole_and_in_order,
    frames_sent_while_dialling_are_kept,
    a_second_connect_changes_nothing,
    two_that_dial_at_once_get_one_link,
    a_dial_of_nobody_is_lost_once,
    what_arrived_before_the_break_is_delivered,
    a_death_is_told_to_each_peer_once,
    a_disconnect_is_told_at_the_other_end_only,
    a_link_can_be_made_anew,
    pressure_is_told,
    wake_ends_a_poll,
    a_watched_descriptor_is_told_once,
    garbage_breaks_its_link_only,
    close_is_idempotent,
]
