"""The local transport: conformance, and what only it has (a broker, descriptors, signals, two threads)."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from miniray_transports.local import LocalTransport

from miniray.core.ids import NODE_NUMBER, ProcessId, process_id
from miniray.testing.conformance import TRANSPORT_CHECKS, World, frames_from
from miniray.transport import Arrival, Frame, LinkLost, LinkUp, Transport, load

SESSION = b"test"


class LocalWorld:
    """Every process of a host, in this one."""

    simulated = False

    def __init__(self) -> None:
        self.node_id = process_id(SESSION, NODE_NUMBER)
        self.node = LocalTransport(self.node_id)
        self._ids: dict[Transport, ProcessId] = {self.node: self.node_id}
        self._arrivals: dict[Transport, list[Arrival]] = {self.node: []}
        self._living: list[LocalTransport] = [self.node]
        self._number = 0

    def process(self) -> LocalTransport:
        self._number += 1
        me = process_id(SESSION, self._number)
        here, there = socket.socketpair()
        transport = LocalTransport(me, self.node_id, here)
        self.node.adopt(me, there)
        self._ids[transport], self._arrivals[transport] = me, []
        self._living.append(transport)
        return transport

    def id_of(self, transport: Transport) -> ProcessId:
        return self._ids[transport]

    def unknown_id(self) -> ProcessId:
        return process_id(SESSION, 999_999)

    def settle(self) -> None:
        quiet = 0
        while quiet < 3:
            quiet += 1
            for transport in self._living:
                arrived = transport.poll(0)
                if arrived or any(link.queue for link in transport._links.values() if link.connection is not None):
                    quiet = 0
                for one in arrived:
                    self._arrivals[transport].append(
                        Frame(one.peer, bytes(one.data)) if isinstance(one, Frame) else one
                    )

    def arrivals(self, transport: Transport) -> list[Arrival]:
        return self._arrivals[transport]

    def kill(self, transport: Transport) -> None:
        self._living = [one for one in self._living if one is not transport]
        transport.close()

    def send_garbage(self, sender: Transport, receiver: ProcessId, data: bytes) -> None:
        assert isinstance(sender, LocalTransport)
        connection = sender._links[receiver].connection
        assert connection is not None
        connection.send(data)

    def close(self) -> None:
        for transport in self._living:
            transport.close()


@pytest.fixture
def world() -> Iterator[LocalWorld]:
    gc.collect()  # else what earlier tests have left closes its descriptors in the middle
    before = os.listdir("/proc/self/fd")
    made = LocalWorld()
    yield made
    made.close()
    assert os.listdir("/proc/self/fd") == before, "a descriptor was left open"


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: object, world: World) -> None:
    assert callable(check)
    check(world)


def test_it_is_what_the_name_loads() -> None:
    assert load("local") is LocalTransport


def pair(world: LocalWorld) -> tuple[LocalTransport, LocalTransport, ProcessId, ProcessId]:
    first, second = world.process(), world.process()
    first.connect(world.id_of(second))
    world.settle()
    return first, second, world.id_of(first), world.id_of(second)


def test_the_end_of_the_node_is_told_and_ends_dials(world: LocalWorld) -> None:
    first, second, _, second_id = pair(world)
    first.connect(process_id(SESSION, 77))
    world.kill(world.node)
    world.settle()
    first.connect(process_id(SESSION, 78))
    first.send(second_id, b"direct links outlive it")
    world.settle()
    lost = [one.peer for one in world.arrivals(first) if isinstance(one, LinkLost)]
    assert sorted(lost) == [world.node_id, process_id(SESSION, 77), process_id(SESSION, 78)]
    assert frames_from(world.arrivals(second), world.id_of(first)) == [b"direct links outlive it"]


def test_introductions_keep_their_place_among_frames(world: LocalWorld) -> None:
    """Also when the broker's link is full and the introduction has to queue."""
    first, second = world.process(), world.process()
    first_id, second_id = world.id_of(first), world.id_of(second)
    world.settle()
    for _ in range(3):
        world.node.send(second_id, bytes(500_000))
    first.connect(second_id)
    first.poll(0)
    for _ in range(20):
        world.node.poll(0)
    world.node.send(second_id, b"after")
    world.settle()
    seen = world.arrivals(second)
    kinds = [len(one.data) if isinstance(one, Frame) else type(one) for one in seen]
    assert kinds == [500_000, 500_000, 500_000, LinkUp, 5]
    assert LinkUp(second_id) in world.arrivals(first)
    assert seen[3] == LinkUp(first_id)


@pytest.mark.parametrize("claim", [b"\x08\0\0\0\x04" + b"impostor", b"\x02\0\0\0\0hi", b"\0\0\0\x01\0" + b"x" * 500])
def test_a_link_that_leads_elsewhere_breaks(world: LocalWorld, claim: bytes) -> None:
    transport = world.process()
    here, there = socket.socketpair()
    with here:
        peer = process_id(SESSION, 500)
        transport._add(peer, there, b"\x08\0\0\0\x04" + world.id_of(transport))
        here.send(claim)
        world.settle()
        assert [type(one) for one in world.arrivals(transport)] == [LinkLost]


def test_control_frames_have_no_place_on_direct_links(world: LocalWorld) -> None:
    first, second, first_id, second_id = pair(world)
    world.send_garbage(first, second_id, b"\x08\0\0\0\x02" + world.unknown_id())
    world.settle()
    assert [one for one in world.arrivals(second) if isinstance(one, LinkLost)]
    assert world.unknown_id() not in second._links


def test_frames_cut_anywhere_are_put_together(world: LocalWorld) -> None:
    first, second, first_id, second_id = pair(world)
    frames = [b"", b"a", bytes(300), bytes(140_000), b"b" * 131_067, b"c" * 131_068, b"end"]
    stream = b"".join(len(one).to_bytes(4, "little") + b"\0" + one for one in frames)
    cut = 1
    while stream:
        world.send_garbage(first, second_id, stream[:cut])
        world.settle()
        stream, cut = stream[cut:], cut % 4 + 1 if len(stream) % 9 or cut < 5 else 1
        if len(stream) > 400:
            cut = min(len(stream) - 400, 100_000)
    assert frames_from(world.arrivals(second), first_id) == frames


def test_many_links_share_one_buffer(world: LocalWorld) -> None:
    hub = world.process()
    hub_id = world.id_of(hub)
    others = [world.process() for _ in range(12)]
    for other in others:
        other.connect(hub_id)
    world.settle()
    sent = [bytes([index]) * 40_000 for index in range(12)]
    for _ in range(3):
        for other, frame in zip(others, sent, strict=True):
            other.send(hub_id, frame)
            other.send(hub_id, b"small")
    world.settle()
    for other, frame in zip(others, sent, strict=True):
        assert frames_from(world.arrivals(hub), world.id_of(other)) == [frame, b"small"] * 3


def test_send_and_poll_overlap_in_two_threads(world: LocalWorld) -> None:
    """The sender fills the kernel's buffer over and over while another thread polls the same transport."""
    first, second, first_id, second_id = pair(world)
    count, stop = 3_000, threading.Event()
    received: list[bytes] = []

    def poll_first() -> None:
        while not stop.is_set():
            first.poll(0.01)

    def read_second() -> None:
        deadline = time.monotonic() + 30
        while len(received) < count and time.monotonic() < deadline:
            received.extend(bytes(one.data) for one in second.poll(0.1) if isinstance(one, Frame))

    threads = [threading.Thread(target=poll_first), threading.Thread(target=read_second)]
    for thread in threads:
        thread.start()
    for index in range(count):
        first.send(second_id, index.to_bytes(4, "big") * (1 + index % 7 * 3_000))
    threads[1].join()
    stop.set()
    threads[0].join()
    assert received == [index.to_bytes(4, "big") * (1 + index % 7 * 3_000) for index in range(count)]


class Struck(Exception):
    pass


def test_a_handler_that_raises_out_of_poll_loses_no_frame(world: LocalWorld) -> None:
    """Hundreds of signals into both directions: `poll` reads, parses and flushes what a child echoes."""
    here, there = socket.socketpair()
    count, size = 2_000, 3_000
    child = os.fork()
    if child == 0:
        try:
            here.close()
            while data := there.recv(65_536):
                there.sendall(data)
        finally:
            os._exit(0)
    there.close()
    transport = LocalTransport(process_id(SESSION, 900), world.node_id, here)
    armed, struck = False, 0

    def strike(*_: object) -> None:
        nonlocal struck
        if armed:
            struck += 1
            raise Struck

    previous = signal.signal(signal.SIGALRM, strike)
    received: list[bytes] = []
    sent = [index.to_bytes(4, "big") * (size // 4 * (1 + index % 3)) for index in range(count)]
    try:
        for frame in sent:
            transport.send(world.node_id, frame)
        signal.setitimer(signal.ITIMER_REAL, 0.0004, 0.0004)
        deadline = time.monotonic() + 30
        while len(received) < count and time.monotonic() < deadline:
            arrivals: list[Arrival] = []
            try:
                armed = True
                arrivals = transport.poll(0.2)
                armed = False
            except Struck:
                armed = False
            received.extend(bytes(one.data) for one in arrivals if isinstance(one, Frame))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        transport.close()
        os.waitpid(child, 0)
    assert received == sent
    assert struck > 3


@pytest.fixture
def no_collections() -> Iterator[None]:
    """What earlier tests have left has finalisers, which would be struck as well, and count as moments."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def poll_struck_at(transport: LocalTransport, moment: int) -> tuple[list[Arrival], bool]:
    """One poll; an exception is raised where a signal handler could run for the `moment`th time: after a call."""
    count = 0

    def strike(frame: object, event: str, argument: object) -> None:
        nonlocal count
        if event in ("c_return", "call", "c_exception"):
            count += 1
            if count == moment:
                raise Struck

    arrivals: list[Arrival] = []
    sys.setprofile(strike)
    try:
        arrivals = transport.poll(0)
    except Struck:
        return arrivals, True
    finally:
        sys.setprofile(None)
    return arrivals, False


@pytest.mark.parametrize("plain", [True, False], ids=["recv_into", "recvmsg_into"])
def test_a_handler_may_raise_after_any_call_of_poll(plain: bool, no_collections: None) -> None:
    """Every such moment in turn, with whole, cut, large and many frames coming in and a queue going out."""
    node_id, peer_id = process_id(SESSION, 0), process_id(SESSION, 1)
    incoming = [b"one", bytes(140_000), b"two", b"", bytes(200_000), b"last"]
    stream = b"".join(len(one).to_bytes(4, "little") + b"\0" + one for one in incoming)
    outgoing = [index.to_bytes(2, "big") * 30_000 for index in range(12)]
    moment, struck = 0, True
    while struck:
        moment += 1
        struck = False
        here, there = socket.socketpair()
        there.setblocking(False)
        transport = LocalTransport(peer_id) if plain else LocalTransport(peer_id, node_id, here)
        if plain:
            transport.adopt(node_id, here)
        received, echoed, position, alone = [], bytearray(), 0, 0
        for frame in outgoing:
            transport.send(node_id, frame)
        for turn in range(40):
            chunk = (3, 7, 1_000, 150_000)[turn % 4]
            with suppress(BlockingIOError):
                position += there.send(stream[position : position + chunk])
            if position == len(stream) and turn > 20 and turn % 2:
                there.send(b"\5\0\0\0\0alone")  # one read, one whole frame
                alone += 1
            arrivals, now = poll_struck_at(transport, moment) if turn % 2 else (transport.poll(0), False)
            struck = struck or now
            received += [bytes(one.data) for one in arrivals if isinstance(one, Frame)]
            with suppress(BlockingIOError):
                echoed += there.recv(200_000)
        received += [bytes(one.data) for one in transport.poll(0) if isinstance(one, Frame)]
        transport.close()
        there.close()
        assert alone > 3
        assert received == incoming + [b"alone"] * alone, f"struck at moment {moment}"
        assert echoed == b"".join(len(one).to_bytes(4, "little") + b"\0" + one for one in outgoing)
    assert moment > 20


def test_a_descriptor_that_finds_no_room_costs_that_link_only(world: LocalWorld) -> None:
    import resource

    first, second = world.process(), world.process()
    first_id, second_id = world.id_of(first), world.id_of(second)
    first.connect(second_id)
    world.node.poll(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        spare = []
        try:
            while True:
                spare.append(os.dup(0))
        except OSError:
            pass
        first.send(world.node_id, b"x")
        lost = first.poll(1)
        for descriptor in spare:
            os.close(descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [type(one) for one in lost] == [LinkLost]
    world.settle()
    first.connect(second_id)
    first.send(second_id, b"now")
    world.settle()
    assert frames_from(world.arrivals(second), first_id)[-1:] == [b"now"]


def test_forget_in_a_forked_child_breaks_nothing(world: LocalWorld) -> None:
    first, second, first_id, second_id = pair(world)
    child = os.fork()
    if child == 0:
        first.forget()
        second.forget()
        os._exit(0)
    os.waitpid(child, 0)
    first.send(second_id, b"still here")
    world.settle()
    assert frames_from(world.arrivals(second), first_id) == [b"still here"]
