"""The simulated transport: conformance, and what only it has (choices decide what survives a cut)."""

from __future__ import annotations

import pytest
from miniray_transports.sim.network import Network, SimulatedTransport

from miniray.core.ids import ProcessId, process_id
from miniray.testing.choices import RecordedChoices, SeededChoices
from miniray.testing.conformance import TRANSPORT_CHECKS, frames_from, losses_of
from miniray.transport import Arrival, Choices, Transport, load

SESSION = b"test"


class SimulatedWorld:
    simulated = True

    def __init__(self, choices: Choices) -> None:
        self.network: Network = SimulatedTransport.network(lambda _, __: choices.choose(1000, "delay") / 1000, choices)
        self._arrivals: dict[SimulatedTransport, list[Arrival]] = {}
        self._number = 0

    def process(self) -> SimulatedTransport:
        self._number += 1
        transport = SimulatedTransport(process_id(SESSION, self._number), self.network)
        self._arrivals[transport] = []
        return transport

    def id_of(self, transport: Transport) -> ProcessId:
        assert isinstance(transport, SimulatedTransport)
        return transport.me

    def unknown_id(self) -> ProcessId:
        return process_id(SESSION, 999_999)

    def settle(self) -> None:
        while self.network.timeline.step():
            pass
        for transport, seen in self._arrivals.items():
            seen.extend(transport.poll(0))

    def arrivals(self, transport: Transport) -> list[Arrival]:
        assert isinstance(transport, SimulatedTransport)
        return self._arrivals[transport]

    def kill(self, transport: Transport) -> None:
        assert isinstance(transport, SimulatedTransport)
        transport.crash()

    def send_garbage(self, sender: Transport, receiver: ProcessId, data: bytes) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for transport in self._arrivals:
            transport.close()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: object, seed: int) -> None:
    assert callable(check)
    world = SimulatedWorld(SeededChoices(seed))
    check(world)
    world.close()


def test_it_is_what_the_name_loads() -> None:
    assert load("simulated") is SimulatedTransport


@pytest.mark.parametrize("kept", range(4))
def test_a_beginning_of_what_is_under_way_survives_a_crash(kept: int) -> None:
    # three pieces to the second are under way (the link itself and two frames): four delays, then the cut
    world = SimulatedWorld(RecordedChoices([1, 1, 1, 1, kept]))
    first, second = world.process(), world.process()
    first.connect(second.me)
    first.send(second.me, b"one")
    first.send(second.me, b"two")
    second.connect(first.me)
    second.send(first.me, b"never read")
    first.crash()
    world.settle()
    assert frames_from(world.arrivals(second), first.me) == [b"one", b"two"][: max(0, kept - 1)]
    assert losses_of(world.arrivals(second), first.me) == 1
    assert world.arrivals(first) == []


def test_nothing_overtakes_though_delays_differ() -> None:
    world = SimulatedWorld(SeededChoices(7))
    first, second = world.process(), world.process()
    first.connect(second.me)
    sent = [b"%d" % index for index in range(200)]
    for frame in sent:
        first.send(second.me, frame)
    world.settle()
    assert frames_from(world.arrivals(second), first.me) == sent
