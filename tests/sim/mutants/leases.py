"""Leases, blocking, places and deaths at the node: wrong in one point each (PROTOCOL.md sections 4, 5 and 8)."""

from __future__ import annotations

from typing import Any

from miniray.core.ids import LeaseId
from miniray.core.machine import Send
from miniray.core.messages import LeaseEnded, LeaseStopped, NoViewsOf, PlacesClaimed
from miniray.core.node.allocator import Allocator
from miniray.core.node.extents import Extents
from miniray.core.node.lease_queue import LeaseQueue
from miniray.core.node.node_manager import NodeManager
from miniray.core.node.worker_pool import WorkerPool, WorkerState
from miniray.core.owner.dispatch import Dispatch
from miniray.core.owner.holding import Holding
from miniray.core.owner.places import Places
from miniray.core.record import replace
from miniray.core.resources import cpu_part
from miniray.core.task_spec import Stored
from miniray.core.worker.worker import Worker
from tests.sim.mutants import Wrong, mutant, nothing


@mutant(WorkerPool, "idle")
def a_leased_worker_is_granted_again(right: Wrong) -> Wrong:
    """One worker, two leases."""
    usable = (WorkerState.IDLE, WorkerState.LEASED)
    return lambda self: [row for row in self.rows.values() if row.state in usable]


@mutant(Dispatch, "granted")
def an_unwanted_grant_is_kept(right: Wrong) -> Wrong:
    """A grant that crossed the cancel of its request is not returned (17369)."""

    def wrong(self: Dispatch, now: float, message: Any, *, lost: bool) -> None:
        if message.request in self._requests:
            right(self, now, message, lost=lost)

    return wrong


@mutant(Dispatch, "granted")
def a_grant_on_a_lost_worker_is_used(right: Wrong) -> Wrong:
    """Tasks are pushed to a worker whose link has broken already."""
    return lambda self, now, message, *, lost: right(self, now, message, lost=False)


@mutant(Dispatch, "revoked")
def a_revoked_lease_is_kept(right: Wrong) -> Wrong:
    """Others starve, and the owner goes on pushing."""
    return nothing(right)


@mutant(Dispatch, "_give_up")
def an_idle_lease_is_not_returned(right: Wrong) -> Wrong:
    """An owner forgets a lease, and its node does not hear of it."""

    def wrong(self: Dispatch, lease: Any) -> None:
        emit, self._emit = self._emit, lambda effect: None
        right(self, lease)
        self._emit = emit

    return wrong


@mutant(Worker, "_on_push_tasks")
def a_push_is_run_whatever_its_lease(right: Wrong) -> Wrong:
    """A worker does not ask whether its node has told it this lease, or ended it."""
    return lambda self, now, message, peer: self._accept(now, peer, message.lease, message.tasks)


@mutant(Worker, "_on_lease_ended")
def an_ended_lease_is_not_forgotten(right: Wrong) -> Wrong:
    """A worker goes on running what is pushed under a lease that has ended."""

    def wrong(self: Worker, now: float, message: Any, peer: Any) -> None:
        owner = self._leases.get(message.lease)
        right(self, now, message, peer)
        if owner is not None:
            self._leases[message.lease] = owner

    return wrong


@mutant(Worker, "_on_lease_ended")
def a_lease_is_said_to_have_stopped_at_once(right: Wrong) -> Wrong:
    """A worker that still runs something of a dead owner says that it can serve others."""

    def wrong(self: Worker, now: float, message: Any, peer: Any) -> None:
        right(self, now, replace(message, orphaned=False), peer)
        if message.orphaned:
            self._emit(Send(self._node, LeaseStopped(message.lease)))

    return wrong


@mutant(Worker, "_on_lease_ended")
def a_lease_never_stops(right: Wrong) -> Wrong:
    """`LeaseStopped` is not sent: the worker is lost to others."""
    return lambda self, now, message, peer: right(self, now, LeaseEnded(message.lease), peer)


@mutant(Worker, "_on_awaited")
def who_blocks_gives_nothing_back(right: Wrong) -> Wrong:
    """Tasks wait behind one that waits (blocked_gives_back)."""

    def wrong(self: Worker, now: float, event: Any, peer: Any) -> None:
        remove, self._queue.remove_lease = self._queue.remove_lease, lambda lease: []  # type: ignore[method-assign]
        right(self, now, event, peer)
        self._queue.remove_lease = remove  # type: ignore[method-assign]

    return wrong


@mutant(Worker, "_on_push_tasks")
def a_push_that_crosses_blocked_is_kept(right: Wrong) -> Wrong:
    """What arrives after a worker has blocked waits behind the task that waits."""

    def wrong(self: Worker, now: float, message: Any, peer: Any) -> None:
        waits, self._waits = self._waits, 0
        right(self, now, message, peer)
        self._waits = waits

    return wrong


@mutant(NodeManager, "_on_blocked")
def a_blocked_worker_keeps_its_cpu(right: Wrong) -> Wrong:
    """Nested tasks need a CPU that the waiting parent has."""
    return nothing(right)


@mutant(LeaseQueue, "block")
def a_cpu_is_lent_twice(right: Wrong) -> Wrong:
    """A blocked worker's CPU is counted as free two times."""

    def wrong(self: LeaseQueue, row: Any) -> None:
        right(self, row)
        self.resources.give(cpu_part(row.demand))

    return wrong


@mutant(NodeManager, "_on_unblocked")
def the_debt_of_a_blocked_worker_is_not_paid(right: Wrong) -> Wrong:
    """A worker that runs again does not take its CPU back."""
    return nothing(right)


@mutant(NodeManager, "_end_leases_of")
def leases_of_a_dead_owner_last(right: Wrong) -> Wrong:
    """They are held for ever."""
    return nothing(right)


@mutant(NodeManager, "_on_process_ended")
def the_lease_of_a_dead_worker_lasts(right: Wrong) -> Wrong:
    """Its resources are never given back."""

    def wrong(self: NodeManager, now: float, event: Any, peer: Any) -> None:
        worker = self._pool.rows.get(event.process)
        if worker is not None:
            worker.lease = None
        right(self, now, event, peer)

    return wrong


@mutant(NodeManager, "_on_request_lease")
def the_dead_lease_workers(right: Wrong) -> Wrong:
    """A late request of a dead owner is granted (43975)."""

    def wrong(self: NodeManager, now: float, message: Any, peer: Any) -> None:
        was_there = peer in self._processes
        self._processes[peer] = None
        right(self, now, message, peer)
        if not was_there:
            del self._processes[peer]

    return wrong


@mutant(NodeManager, "_on_return_lease")
def a_lease_is_returned_by_its_worker(right: Wrong) -> Wrong:
    """The lease that ends is the one that the worker has now, not the one that is named (55469)."""

    def wrong(self: NodeManager, now: float, message: Any, peer: Any) -> None:
        named = message.lease in self._leases.granted
        newest = max(self._leases.granted, default=LeaseId(0))
        right(self, now, message if named else replace(message, lease=newest), peer)

    return wrong


@mutant(NodeManager, "_announce")
def nobody_hears_of_a_death(right: Wrong) -> Wrong:
    """A process dies, its node knows, and tells nobody."""
    return lambda self, event: self._extents.process_died(event.process, self._living())


# ---- the arena ----


@mutant(Places, "_on_claim_places", tasks=50)
def places_are_claimed_before_the_last_result_is_read(right: Wrong) -> Wrong:
    """A claim is answered while a result that names the place may be on its way (54904)."""

    def wrong(self: Places, now: float, message: Any, peer: Any) -> None:
        values = self._holding.objects.values
        dead = [
            (object_id, place)
            for object_id, place in message.objects
            if not (isinstance(value := values.get(object_id), Stored) and value.place == place)
        ]
        self._emit(Send(self._node, PlacesClaimed(dead)))

    return wrong


@mutant(Places, "_on_views_of")
def views_are_denied(right: Wrong) -> Wrong:
    """`NoViewsOf` is said at once, whatever this process looks at."""
    return lambda self, now, message, peer: self._emit(Send(self._node, NoViewsOf(message.owner)))


@mutant(Extents, "no_views")
def one_answer_buries_an_owner(right: Wrong) -> Wrong:
    """The places of a dead owner are freed when the first process has no views of them."""

    def wrong(self: Extents, message: Any, peer: Any, living: Any) -> None:
        pending = self._burials.get(message.owner)
        if pending is not None and peer in pending:
            pending.clear()
        right(self, message, peer, living)

    return wrong


@mutant(Places, "_on_owner_buried")
def a_burial_frees_nothing(right: Wrong) -> Wrong:
    """What a dead owner had in a living process's extents stays."""
    return nothing(right)


@mutant(Holding, "_free_place")
def a_place_is_freed_by_another_offset(right: Wrong) -> Wrong:
    """`FreePlaces` names the page behind."""
    return lambda self, object_id, place: right(self, object_id, replace(place, offset=place.offset + 4096))


@mutant(Holding, "_free_place")
def places_in_orphans_are_freed_at_the_dead(right: Wrong) -> Wrong:
    """The holder of the extent is dead, and the owner goes on talking to it."""

    def wrong(self: Holding, object_id: Any, place: Any) -> None:
        if place.holder not in self.lost:
            right(self, object_id, place)

    return wrong


@mutant(NodeManager, "_on_places_claimed")
def claims_are_not_heard(right: Wrong) -> Wrong:
    """The orphans of a dead process stay, though nobody knows what lies there."""
    return nothing(right)


@mutant(Allocator, "settle")
def a_settled_orphan_is_free(right: Wrong) -> Wrong:
    """An extent is given out again though something in it lives."""

    def wrong(self: Allocator, extent_offset: int) -> Any:
        extent = self._extents.get(extent_offset)
        if extent is not None and extent.orphaned:
            for offset in list(extent.kept):
                del extent.kept[offset], extent.places[offset], self._place_extents[offset]
        return right(self, extent_offset)

    return wrong
