"""Copies that a node makes of other nodes' values: room, fetching, answers, burial. Events in, effects out."""

from __future__ import annotations

from miniray.core.failures import DeathCause, FailureKind
from miniray.core.ids import CONTROL_NUMBER, LeaseId, ObjectId, ProcessId, process_id, process_on, return_id, task_id
from miniray.core.machine import Received, Send, Tick
from miniray.core.messages import (
    CopyFailed,
    CopyMade,
    ExtentsReturned,
    FreeOrphans,
    MakeCopy,
    NodeDied,
    NoViewsOf,
    ProcessDied,
    ReclaimExtents,
    Register,
    RequestExtent,
    RequestLease,
)
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import BytesFetched, FetchBytes, FreeRange, ReserveExtent, StartWorker
from miniray.core.node.node_manager import NodeManager
from miniray.core.node.transfers import FETCH_AGAIN_SECONDS
from miniray.core.record import Effect, Event, Message
from miniray.core.resources import demand
from miniray.core.task_spec import Place

CONTROL = process_id(b"test", CONTROL_NUMBER)
HEAD, ME, THIRD = (process_id(b"test", index << 20) for index in range(3))
OWNER = process_on(HEAD, 1)
X, Y = (return_id(task_id(OWNER, number)) for number in (1, 2))
SOURCE = Place(process_on(THIRD, 2), 4096, 100)
UNIT = 64 << 10


class Node:
    """The second of three nodes, with one worker."""

    def __init__(self, units: int = 64) -> None:
        self.allocator = Allocator(units * UNIT, 0)
        self.machine = NodeManager(ME, demand({"CPU": 1}), self.allocator, 10, CONTROL)
        self.now = 1.0
        self.worker = process_on(ME, 2)

    def does(self, event: Event) -> list[Effect]:
        effects = self.machine.step(self.now, event)
        self.machine.check()
        self.allocator.check()
        return [one for one in effects if not (isinstance(one, Send) and one.peer == CONTROL)]

    def hears(self, message: Message, peer: ProcessId = CONTROL) -> list[Effect]:
        return self.does(Received(peer, message))

    def asked(self, number: int = 1, object_id: ObjectId = X, owner: ProcessId = OWNER) -> list[Effect]:
        return self.hears(MakeCopy(number, object_id, SOURCE), owner)

    def place(self, effects: list[Effect]) -> Place:
        (fetch,) = [one for one in effects if isinstance(one, FetchBytes)]
        return fetch.into

    def with_a_worker(self) -> None:
        effects = self.hears(RequestLease(1, demand({"CPU": 1})), OWNER)
        (start,) = [one for one in effects if isinstance(one, StartWorker)]
        self.worker = start.process
        self.hears(Register(7, False), self.worker)

    def is_empty(self) -> bool:
        return self.allocator.free_bytes == self.allocator.capacity_bytes


def test_a_copy_is_fetched_into_an_extent_of_its_own_size_and_told() -> None:
    node = Node()
    into = Place(ME, 0, 100)
    assert node.asked() == [FetchBytes(X, SOURCE, into)]
    assert node.allocator.extents_of(ME) == [(0, UNIT)]
    assert node.does(BytesFetched(into, True)) == [Send(OWNER, CopyMade(1, X, into))]


def test_it_is_freed_by_object_and_place_once() -> None:
    node = Node()
    into = node.place(node.asked())
    node.does(BytesFetched(into, True))
    assert node.hears(FreeOrphans([(Y, into)]), OWNER) == [], "another object lay there before"
    assert node.hears(FreeOrphans([(X, into)]), OWNER) == [FreeRange(0, UNIT)]
    assert node.hears(FreeOrphans([(X, into)]), OWNER) == []
    assert node.is_empty()


def test_what_cannot_be_read_is_tried_again_until_the_death_is_declared() -> None:
    node = Node()
    into = node.place(node.asked())
    assert node.does(BytesFetched(into, False)) == []
    assert node.machine.deadline() == node.now + FETCH_AGAIN_SECONDS
    node.now += FETCH_AGAIN_SECONDS
    assert node.does(Tick()) == [FetchBytes(X, SOURCE, into)]
    node.does(BytesFetched(into, False))
    told = node.hears(NodeDied(THIRD))
    assert told[:2] == [Send(OWNER, CopyFailed(1)), FreeRange(0, UNIT)]
    assert node.is_empty()
    assert node.asked(2)[:1] == [Send(OWNER, CopyFailed(2))], "nor is it asked for in vain"


def test_a_death_while_it_is_fetched_waits_for_the_end_of_that() -> None:
    node = Node()
    into = node.place(node.asked())
    assert not [one for one in node.hears(NodeDied(THIRD)) if isinstance(one, Send) and one.peer == OWNER]
    assert node.does(BytesFetched(into, False))[0] == Send(OWNER, CopyFailed(1))
    other = Node()
    into = other.place(other.asked())
    other.hears(NodeDied(THIRD))
    assert other.does(BytesFetched(into, True)) == [Send(OWNER, CopyMade(1, X, into))], "it was read before"


def test_without_room_holders_give_back_first_and_then_it_is_refused() -> None:
    node = Node(units=2)
    node.with_a_worker()
    assert [type(one) for one in node.hears(RequestExtent(2 * UNIT), node.worker)] == [ReserveExtent]
    assert node.asked() == [Send(node.worker, ReclaimExtents())]
    (refused,) = node.hears(ExtentsReturned([]), node.worker)
    assert isinstance(refused, Send) and isinstance(refused.message, CopyFailed)
    assert refused.message.failure is not None and refused.message.failure.kind is FailureKind.STORE_FULL
    node.asked(2)
    granted = node.hears(ExtentsReturned([0]), node.worker)
    assert [type(one) for one in granted] == [FreeRange, FetchBytes]


def test_with_a_dead_owner_its_copies_go_when_nobody_looks_at_them() -> None:
    node = Node()
    node.with_a_worker()
    landed = node.place(node.asked(1, X))
    node.does(BytesFetched(landed, True))
    fetching = node.place(node.asked(2, Y))
    node.hears(ProcessDied(OWNER, DeathCause(7, -9), LeaseId(0), 0))
    assert not node.is_empty(), "the worker may have views"
    assert FreeRange(landed.offset, UNIT) in node.hears(NoViewsOf(OWNER), node.worker)
    assert node.does(BytesFetched(fetching, True)) == [FreeRange(fetching.offset, UNIT)]
    assert node.asked(3) == [], "a late request of the dead"
    assert node.is_empty()


def test_all_owners_of_a_dead_node_are_buried_together() -> None:
    node = Node()
    into = node.place(node.asked())
    node.does(BytesFetched(into, True))
    told = node.hears(NodeDied(HEAD))
    assert FreeRange(0, UNIT) in told and node.is_empty()
