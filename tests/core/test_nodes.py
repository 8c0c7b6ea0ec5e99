"""Several nodes: the control store's word, and what one node does about the others. Events in, effects out."""

from __future__ import annotations

from miniray.core.control.control_store import ControlStore
from miniray.core.control.membership import FENCE_SECONDS
from miniray.core.failures import DeathCause
from miniray.core.ids import CONTROL_NUMBER, LeaseId, ProcessId, node_of, process_id, process_on
from miniray.core.machine import PeerLost, Received, Send, Tick
from miniray.core.messages import (
    LeaseEnded,
    LeaseGranted,
    LeaseRefused,
    LoadOf,
    NodeAdded,
    NodeDied,
    NodeLoad,
    ProcessDied,
    Register,
    RegisterNode,
    RequestLease,
    Spillback,
    ViewsOf,
)
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import EndNode, NodeStarted, StartWorker
from miniray.core.node.node_manager import LEASES_PER_NODE, MAX_SPILLS, NodeManager
from miniray.core.node.other_nodes import LAPSE_SECONDS, LOAD_SECONDS
from miniray.core.record import Effect, Event, Message
from miniray.core.resources import Demand, demand

CONTROL = process_id(b"test", CONTROL_NUMBER)
HEAD, SECOND, THIRD = (process_id(b"test", index << 20) for index in range(3))
OWNER = process_on(HEAD, 1)
ONE_CPU, TWO_CPUS, GPU = demand({"CPU": 1}), demand({"CPU": 2}), demand({"GPU": 1})


def sent(effects: list[Effect], to: ProcessId, kind: type[Message]) -> list[Message]:
    found = [one.message for one in effects if isinstance(one, Send) and one.peer == to]
    return [one for one in found if type(one) is kind]


class Node:
    """The second node of three, whose driver is elsewhere."""

    def __init__(self, resources: Demand = ONE_CPU) -> None:
        self.machine = NodeManager(SECOND, resources, Allocator(1 << 22, 0), 10, CONTROL)
        self.now = 1.0
        self.started = self.step(NodeStarted())
        self.hear(NodeAdded(HEAD, ONE_CPU))
        self.hear(NodeAdded(THIRD, TWO_CPUS))

    def step(self, event: Event) -> list[Effect]:
        effects = self.machine.step(self.now, event)
        self.machine.check()
        return effects

    def hear(self, message: Message, peer: ProcessId = CONTROL) -> list[Effect]:
        return self.step(Received(peer, message))

    def a_worker(self, effects: list[Effect]) -> tuple[ProcessId, list[Effect]]:
        """Start the one that was asked for; its id, and what comes of its registration."""
        (start,) = [one for one in effects if isinstance(one, StartWorker)]
        return start.process, self.hear(Register(7, False), start.process)


# ---- the control store ----


def a_control_store() -> ControlStore:
    control = ControlStore(CONTROL)
    for node, resources in ((HEAD, ONE_CPU), (SECOND, TWO_CPUS)):
        control.step(0.0, Received(node, RegisterNode(resources)))
    return control


def test_every_node_hears_of_each_other_one() -> None:
    effects = a_control_store().step(0.0, Received(THIRD, RegisterNode(GPU)))
    assert sent(effects, THIRD, NodeAdded) == [NodeAdded(HEAD, ONE_CPU), NodeAdded(SECOND, TWO_CPUS)]
    assert sent(effects, HEAD, NodeAdded) == sent(effects, SECOND, NodeAdded) == [NodeAdded(THIRD, GPU)]


def test_a_lost_node_is_dead_only_after_it_has_had_time_to_end() -> None:
    control = a_control_store()
    assert control.step(3.0, PeerLost(SECOND, "cut")) == []
    assert control.deadline() == 3.0 + FENCE_SECONDS
    assert control.step(3.0 + FENCE_SECONDS, Tick()) == [Send(HEAD, NodeDied(SECOND))]
    assert control.deadline() is None and not any(control.statistics().values())
    assert control.step(9.0, PeerLost(SECOND, "again")) == [], "once and for ever"


def test_nothing_is_told_to_or_of_a_node_that_is_lost() -> None:
    control = a_control_store()
    control.step(3.0, PeerLost(SECOND, "cut"))
    effects = control.step(3.1, Received(THIRD, RegisterNode(GPU)))
    assert sent(effects, THIRD, NodeAdded) == [NodeAdded(HEAD, ONE_CPU)]
    assert not sent(effects, SECOND, NodeAdded)


def test_deaths_are_told_by_the_node_of_the_dead_alone() -> None:
    control = a_control_store()
    news = ProcessDied(process_on(SECOND, 4), DeathCause(7, -9), LeaseId(0), 0)
    assert control.step(1.0, Received(SECOND, news)) == [Send(HEAD, news)]
    assert control.step(1.0, Received(HEAD, news)) == []


# ---- a node among others ----


def test_a_node_registers_first_and_ends_with_its_link_to_the_control_store() -> None:
    node = Node()
    assert node.started[0] == Send(CONTROL, RegisterNode(ONE_CPU))
    assert node.step(PeerLost(CONTROL, "cut")) == [EndNode()]


def test_a_request_that_fits_is_served_here_and_the_lease_names_the_node() -> None:
    node = Node()
    worker, effects = node.a_worker(node.hear(RequestLease(5, ONE_CPU), OWNER))
    assert node_of(worker) == SECOND
    assert sent(effects, OWNER, LeaseGranted) == [LeaseGranted(5, LeaseId(LEASES_PER_NODE + 1), worker)]


def test_what_does_not_fit_now_is_sent_to_who_has_room_and_not_all_to_one() -> None:
    node = Node()
    node.a_worker(node.hear(RequestLease(1, ONE_CPU), OWNER))
    targets = [sent(node.hear(RequestLease(number, ONE_CPU), OWNER), OWNER, Spillback) for number in range(2, 6)]
    assert targets == [[Spillback(2, HEAD)], [Spillback(3, THIRD)], [Spillback(4, THIRD)], []]
    assert node.machine.statistics()["requests"] == 1, "when all are full, it waits here"


def test_what_waits_here_is_sent_on_when_others_have_room_again() -> None:
    node = Node()
    for node_of_others in (HEAD, THIRD):
        node.hear(LoadOf(node_of_others, (("CPU", 0),), 2))
    node.a_worker(node.hear(RequestLease(1, ONE_CPU), OWNER))
    assert not sent(node.hear(RequestLease(2, ONE_CPU), OWNER), OWNER, Spillback)
    assert sent(node.hear(LoadOf(THIRD, ONE_CPU, 0)), OWNER, Spillback) == [Spillback(2, THIRD)]
    assert node.machine.statistics()["requests"] == 0


def test_what_was_sent_to_a_node_that_says_nothing_counts_against_it_for_a_while_only() -> None:
    node = Node()
    node.hear(LoadOf(THIRD, (("CPU", 0),), 2))
    node.a_worker(node.hear(RequestLease(1, ONE_CPU), OWNER))
    assert sent(node.hear(RequestLease(2, ONE_CPU), OWNER), OWNER, Spillback) == [Spillback(2, HEAD)]
    assert not sent(node.hear(RequestLease(3, ONE_CPU, spilled=MAX_SPILLS), OWNER), OWNER, Spillback)
    node.now += LAPSE_SECONDS
    assert sent(node.step(Tick()), OWNER, Spillback) == [Spillback(3, HEAD)]


def test_a_request_that_was_sent_on_often_enough_stays() -> None:
    node = Node()
    node.a_worker(node.hear(RequestLease(1, ONE_CPU), OWNER))
    assert not sent(node.hear(RequestLease(2, ONE_CPU, spilled=MAX_SPILLS), OWNER), OWNER, Spillback)


def test_what_this_node_could_never_serve_goes_to_who_could_and_is_refused_if_nobody_can() -> None:
    node = Node()
    node.hear(LoadOf(THIRD, (("CPU", 0),), 3))
    assert sent(node.hear(RequestLease(1, TWO_CPUS), OWNER), OWNER, Spillback) == [Spillback(1, THIRD)]
    (refused,) = sent(node.hear(RequestLease(2, GPU), OWNER), OWNER, LeaseRefused)
    assert isinstance(refused, LeaseRefused) and "no node of the session" in refused.failure.message


def test_a_dead_owner_of_another_node_leases_nothing_and_loses_what_it_had() -> None:
    node = Node()
    worker, effects = node.a_worker(node.hear(RequestLease(1, ONE_CPU), OWNER))
    (granted,) = sent(effects, OWNER, LeaseGranted)
    assert isinstance(granted, LeaseGranted)
    died = ProcessDied(OWNER, DeathCause(7, -9), LeaseId(0), 0)
    effects = node.hear(died)
    assert sent(effects, worker, LeaseEnded) == [LeaseEnded(granted.lease, orphaned=True)]
    assert sent(effects, worker, ProcessDied) == [died] and sent(effects, worker, ViewsOf) == [ViewsOf(OWNER)]
    assert not sent(node.hear(died), worker, ProcessDied), "told once"
    node.hear(RequestLease(2, ONE_CPU), OWNER)
    assert node.machine.statistics()["requests"] == 0, "a late request of a dead owner leases nothing (43975)"


def test_with_a_node_all_its_owners_die() -> None:
    node = Node(TWO_CPUS)
    worker, _ = node.a_worker(node.hear(RequestLease(1, ONE_CPU), OWNER))
    node.hear(RequestLease(7, TWO_CPUS, spilled=MAX_SPILLS), process_on(HEAD, 5))
    effects = node.hear(NodeDied(HEAD))
    assert sent(effects, worker, NodeDied) == [NodeDied(HEAD)]
    assert [type(one) for one in sent(effects, worker, LeaseEnded)] == [LeaseEnded]
    assert sent(effects, worker, ViewsOf) == [ViewsOf(HEAD)]
    assert node.machine.statistics()["requests"] == node.machine.statistics()["granted"] == 0
    node.hear(RequestLease(8, ONE_CPU), process_on(HEAD, 9))
    assert node.machine.statistics()["requests"] == 0


def test_a_load_is_told_when_it_has_changed_and_not_too_often() -> None:
    node = Node()
    node.step(Tick())
    node.now += 10.0
    effects = node.hear(RequestLease(1, ONE_CPU), OWNER)
    assert sent(effects, CONTROL, NodeLoad) == [NodeLoad(ONE_CPU, 1)]
    _, effects = node.a_worker(effects)
    assert not sent(effects, CONTROL, NodeLoad), "too soon"
    assert node.machine.deadline() == node.now + LOAD_SECONDS
    node.now += LOAD_SECONDS
    assert sent(node.step(Tick()), CONTROL, NodeLoad) == [NodeLoad((("CPU", 0),), 0)]
    node.now += LAPSE_SECONDS
    node.step(Tick())
    assert node.machine.deadline() is None
