"""Several nodes: the control store's word, and what one node does about the others. Events in, effects out."""

from __future__ import annotations

from miniray.core.control.control_store import ControlStore
from miniray.core.control.events import Log, Logged, StoreStarted
from miniray.core.control.membership import FENCE_SECONDS, UNREACHABLE_FENCE_SECONDS
from miniray.core.failures import DeathCause
from miniray.core.ids import CONTROL_NUMBER, LeaseId, ProcessId, node_of, process_id, process_on
from miniray.core.machine import LinkRenewed, PeerLost, Received, Send, Tick
from miniray.core.messages import (
    AskRegistration,
    LeaseEnded,
    LeaseGranted,
    LeaseRefused,
    LoadOf,
    NodeAdded,
    NodeDied,
    NodeLoad,
    NodeRegistered,
    ProcessDied,
    Register,
    RegisterNode,
    RequestLease,
    Spillback,
    ViewsOf,
)
from miniray.core.node.allocator import Allocator
from miniray.core.node.control_link import ASK_SECONDS, MOST_AWAY_SECONDS
from miniray.core.node.events import EndNode, NodeStarted, ProcessEnded, StartWorker
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
        self.hear(NodeRegistered())
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


class Store:
    """The control store, on a disk that is fast unless told otherwise."""

    def __init__(self, *nodes: tuple[ProcessId, Demand]) -> None:
        self.disk: list[NodeAdded | NodeDied] = []
        self.is_slow = False
        self.machine = ControlStore(CONTROL)
        for node, resources in nodes:
            self.hear(node, RegisterNode(resources))

    def step(self, event: Event, now: float = 0.0) -> list[Effect]:
        effects = self.machine.step(now, event)
        logged = [one.record for one in effects if isinstance(one, Log)]
        told = [one for one in effects if not isinstance(one, Log)]
        self.machine.check()
        if logged and not self.is_slow:
            self.disk.extend(logged)
            told.extend(self.step(Logged(len(self.disk)), now))
        return told

    def hear(self, node: ProcessId, message: Message, now: float = 0.0) -> list[Effect]:
        return self.step(Received(node, message), now)

    def begins_again(self) -> list[Effect]:
        self.machine = ControlStore(CONTROL, self.disk)
        return self.step(StoreStarted())


def a_store() -> Store:
    return Store((HEAD, ONE_CPU), (SECOND, TWO_CPUS))


def test_every_node_hears_of_each_other_one() -> None:
    effects = a_store().hear(THIRD, RegisterNode(GPU))
    assert sent(effects, THIRD, NodeRegistered) == [NodeRegistered()]
    assert sent(effects, THIRD, NodeAdded) == [NodeAdded(HEAD, ONE_CPU), NodeAdded(SECOND, TWO_CPUS)]
    assert sent(effects, HEAD, NodeAdded) == sent(effects, SECOND, NodeAdded) == [NodeAdded(THIRD, GPU)]


def test_that_a_node_lives_is_told_when_it_is_on_disk() -> None:
    store = a_store()
    store.is_slow = True
    assert store.hear(THIRD, RegisterNode(GPU)) == []
    assert store.machine.statistics()["unlogged_records"] == 1
    effects = store.step(Logged(3))
    assert sent(effects, THIRD, NodeRegistered) and sent(effects, HEAD, NodeAdded) == [NodeAdded(THIRD, GPU)]


def test_a_death_is_told_whatever_the_disk_does() -> None:
    store = a_store()
    store.is_slow = True
    store.step(PeerLost(SECOND, "no such process", gone=True), 3.0)
    assert store.step(Tick(), 3.0 + FENCE_SECONDS) == [Send(HEAD, NodeDied(SECOND))]
    asked = store.begins_again()
    assert asked == [Send(HEAD, AskRegistration()), Send(SECOND, AskRegistration())]
    effects = store.hear(HEAD, RegisterNode(ONE_CPU, dead=(SECOND,)))
    assert sent(effects, HEAD, NodeRegistered)
    assert store.hear(SECOND, RegisterNode(TWO_CPUS)) == [Send(SECOND, NodeDied(SECOND))], "nothing dead lives again"


def test_a_node_whose_death_others_have_heard_ends_though_it_is_back_already() -> None:
    store = a_store()
    store.begins_again()
    store.hear(SECOND, RegisterNode(TWO_CPUS))
    effects = store.hear(HEAD, RegisterNode(ONE_CPU, dead=(SECOND,)))
    assert sent(effects, SECOND, NodeDied) == [NodeDied(SECOND)] and not sent(effects, HEAD, NodeAdded)


def test_who_is_dead_on_disk_stays_dead() -> None:
    store = a_store()
    store.step(PeerLost(SECOND, "no such process", gone=True), 3.0)
    store.step(Tick(), 3.0 + FENCE_SECONDS)
    assert store.begins_again() == [Send(HEAD, AskRegistration())]
    assert sent(store.hear(THIRD, RegisterNode(GPU)), THIRD, NodeDied) == [NodeDied(SECOND)]


def test_a_lost_node_is_dead_only_after_it_has_had_time_to_end() -> None:
    store = a_store()
    assert store.step(PeerLost(SECOND, "no such process", gone=True), 3.0) == []
    assert store.machine.deadline() == 3.0 + FENCE_SECONDS
    assert store.step(Tick(), 3.0 + FENCE_SECONDS) == [Send(HEAD, NodeDied(SECOND))]
    assert store.machine.deadline() is None and not any(store.machine.statistics().values())
    assert store.step(PeerLost(SECOND, "again"), 9.0) == [], "once and for ever"


def test_a_node_that_cannot_be_reached_has_its_time_to_end_or_to_come_back() -> None:
    store = a_store()
    store.step(PeerLost(SECOND, "cut"), 3.0)
    assert store.machine.deadline() == 3.0 + UNREACHABLE_FENCE_SECONDS
    assert sent(store.hear(SECOND, RegisterNode(TWO_CPUS), 4.0), SECOND, NodeRegistered)
    assert store.machine.deadline() is None and not any(store.machine.statistics().values())


def test_nothing_is_told_to_or_of_a_node_that_is_lost() -> None:
    store = a_store()
    store.step(PeerLost(SECOND, "cut"), 3.0)
    effects = store.hear(THIRD, RegisterNode(GPU), 3.1)
    assert sent(effects, THIRD, NodeAdded) == [NodeAdded(HEAD, ONE_CPU)]
    assert not [one for one in effects if isinstance(one, Send) and one.peer == SECOND]


def test_who_registers_again_is_told_all_that_is_known() -> None:
    store = a_store()
    died = ProcessDied(process_on(SECOND, 4), DeathCause(7, -9), LeaseId(0), 0)
    store.hear(SECOND, NodeLoad(ONE_CPU, 3))
    store.hear(SECOND, died)
    store.step(LinkRenewed(HEAD))
    effects = store.hear(HEAD, RegisterNode(ONE_CPU))
    assert sent(effects, HEAD, ProcessDied) == [died]
    assert sent(effects, HEAD, LoadOf) == [LoadOf(SECOND, ONE_CPU, 3)]
    store.begins_again()
    store.hear(HEAD, RegisterNode(ONE_CPU))
    effects = store.hear(SECOND, RegisterNode(TWO_CPUS, deaths=(died,)))
    assert sent(effects, HEAD, ProcessDied) == [died], "what is not in the log the nodes tell again"


def test_deaths_are_told_by_the_node_of_the_dead_alone() -> None:
    store = a_store()
    news = ProcessDied(process_on(SECOND, 4), DeathCause(7, -9), LeaseId(0), 0)
    assert store.hear(HEAD, news) == []
    assert store.hear(SECOND, news) == [Send(HEAD, news)]


# ---- a node among others ----


def test_a_node_registers_first_and_again_on_each_new_link() -> None:
    node = Node()
    assert node.started == [Send(CONTROL, RegisterNode(ONE_CPU))]
    node.hear(NodeDied(THIRD))
    again = Send(CONTROL, RegisterNode(ONE_CPU, dead=(THIRD,)))
    assert node.step(LinkRenewed(CONTROL)) == [again]
    assert node.hear(AskRegistration()) == [again]


def test_a_node_goes_on_while_the_control_store_is_away_and_tells_all_when_it_is_back() -> None:
    node = Node()
    worker, effects = node.a_worker(node.hear(RequestLease(1, ONE_CPU), OWNER))
    assert node.step(PeerLost(CONTROL, "no such process", gone=True)) == []
    cause = DeathCause(7, -9)
    effects = node.step(ProcessEnded(worker, cause, LeaseId(0), 0))
    assert not [one for one in effects if isinstance(one, Send) and one.peer == CONTROL]
    node.now += ASK_SECONDS
    assert node.machine.deadline() == node.now
    (again,) = sent(node.step(Tick()), CONTROL, RegisterNode)
    assert again == RegisterNode(ONE_CPU, deaths=(ProcessDied(worker, cause, LeaseId(0), 0),))
    node.now += LOAD_SECONDS
    assert sent(node.hear(NodeRegistered()), CONTROL, NodeLoad) == [NodeLoad(ONE_CPU, 0)], "loads are told anew"


def test_a_node_ends_when_the_control_store_is_away_for_too_long_or_cannot_be_reached() -> None:
    assert Node().step(PeerLost(CONTROL, "it cannot be reached")) == [EndNode()]
    node = Node()
    away_at = node.now
    node.step(PeerLost(CONTROL, "no such process", gone=True))
    for _ in range(3):
        node.now += ASK_SECONDS
        assert EndNode() not in node.step(Tick())
        node.step(PeerLost(CONTROL, "no such process", gone=True))
    node.now = away_at + MOST_AWAY_SECONDS
    assert EndNode() in node.step(Tick())
    assert node.machine.deadline() is None


def test_a_node_that_was_declared_dead_ends() -> None:
    assert EndNode() in Node().hear(NodeDied(SECOND))


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
