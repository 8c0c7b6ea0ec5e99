"""The node role: one host's processes, resources and arena (PROTOCOL.md sections 5 and 8).

It starts workers, grants leases on them, and says who died and how. It is not on the path of a task: owners push
to leased workers themselves. Every message about a lease names the lease. A process registers before it owns
anything, so an id that is unknown here is that of a dead one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import LeaseId, ProcessId
from miniray.core.machine import PeerLost, Received, Send, Tick
from miniray.core.messages import (
    Blocked,
    CancelRequest,
    EndSession,
    ExitWorker,
    ExtentsReturned,
    FreeOrphans,
    KillWorker,
    LeaseEnded,
    LeaseGranted,
    LeaseRefused,
    LeaseStarted,
    LeaseStopped,
    NoViewsOf,
    PlacesClaimed,
    ProcessDied,
    Register,
    RequestExtent,
    RequestLease,
    ReturnLease,
    RevokeLease,
    Unblocked,
)
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import (
    EndNode,
    ExtentReserved,
    KillProcess,
    LedgerRead,
    ProcessEnded,
    StartWorker,
    WorkerFailed,
)
from miniray.core.node.extents import Extents
from miniray.core.node.lease_queue import LeaseQueue, Request
from miniray.core.node.policies import grantable, to_revoke
from miniray.core.node.worker_pool import Worker, WorkerPool, WorkerState
from miniray.core.record import Effect, Event, Message
from miniray.core.resources import UNIT, Demand, ResourcePool

IDLE_WORKER_SECONDS = 2.0  # how long a worker beyond one per CPU waits for another lease
MAX_FAILED_STARTS = 5  # in a row; then requests are refused instead of tried for ever

Handler = Callable[[float, Any, ProcessId], None]


class NodeManager:
    def __init__(self, me: ProcessId, resources: Demand, allocator: Allocator, max_workers: int) -> None:
        self._me = me
        self._max_workers = max_workers
        self._effects: list[Effect] = []
        self._emit = self._effects.append
        self._pool = WorkerPool(me)
        self._leases = LeaseQueue(ResourcePool(resources))
        self._extents = Extents(allocator, self._emit)
        self._processes: dict[ProcessId, None] = {}  # registered and alive, the driver among them
        self._driver: ProcessId | None = None
        self._failed_starts = 0
        self._prestart = -(-dict(resources).get("CPU", 0) // UNIT)
        self._on: dict[type[Event] | type[Message], Handler] = {
            Register: self._on_register,
            RequestLease: self._on_request_lease,
            CancelRequest: self._on_cancel_request,
            ReturnLease: self._on_return_lease,
            KillWorker: self._on_kill_worker,
            LeaseStopped: self._on_lease_stopped,
            Blocked: self._on_blocked,
            Unblocked: self._on_unblocked,
            RequestExtent: self._on_request_extent,
            ExtentsReturned: self._on_extents_returned,
            FreeOrphans: self._on_free_orphans,
            PlacesClaimed: self._on_places_claimed,
            NoViewsOf: self._on_no_views_of,
            EndSession: self._on_end_session,
            ProcessEnded: self._on_process_ended,
            WorkerFailed: self._on_worker_failed,
            ExtentReserved: self._on_extent_reserved,
            LedgerRead: self._on_ledger_read,
            PeerLost: self._on_peer_lost,
            Tick: self._on_tick,
        }

    def handles(self) -> tuple[type[Event] | type[Message], ...]:
        return tuple(self._on)

    def step(self, now: float, event: Event) -> list[Effect]:
        if type(event) is Received:
            self._on[type(event.message)](now, event.message, event.peer)
        else:
            self._on[type(event)](now, event, self._me)
        effects = self._effects[:]
        self._effects.clear()
        return effects

    def _living(self) -> list[ProcessId]:
        return list(self._processes)

    # ---- processes ----

    def _on_register(self, now: float, message: Register, peer: ProcessId) -> None:
        self._processes[peer] = None
        if message.is_driver:
            self._driver = peer
            for _ in range(self._prestart):
                self._emit(StartWorker(self._pool.new().process))
            return
        worker = self._pool.rows.get(peer)
        if worker is not None and worker.state is WorkerState.STARTING:
            self._failed_starts = 0
            worker.state = WorkerState.IDLE
            worker.idle_since = now
            self._schedule(now)

    def _on_worker_failed(self, now: float, event: WorkerFailed, peer: ProcessId) -> None:
        self._pool.rows.pop(event.process, None)
        self._start_failed(now, event.reason)

    def _start_failed(self, now: float, reason: str) -> None:
        """A supervisor gives up at a restart intensity instead of looping (OTP)."""
        self._failed_starts += 1
        if self._failed_starts < MAX_FAILED_STARTS:
            self._schedule(now)
            return
        message = f"no worker process could be started, {self._failed_starts} times in a row: {reason}"
        for request in list(self._leases.requests.values()):
            self._refuse(request.owner, request.number, message)
            self._leases.cancel(request.owner, request.number)

    def _refuse(self, owner: ProcessId, number: int, message: str) -> None:
        self._emit(Send(owner, LeaseRefused(number, Failure(FailureKind.INFEASIBLE, "", message))))

    def _on_kill_worker(self, now: float, message: KillWorker, peer: ProcessId) -> None:
        if message.process in self._pool.rows:
            self._emit(KillProcess(message.process))

    def _on_process_ended(self, now: float, event: ProcessEnded, peer: ProcessId) -> None:
        died = event.process
        if died == self._driver:
            self._emit(EndNode())
            return
        worker = self._pool.rows.pop(died, None)
        if worker is None:
            return
        registered = self._processes.pop(died, 0) is None
        if worker.lease is not None:
            self._leases.release(worker.lease.lease)
        self._end_leases_of(now, died)
        if registered:
            self._announce(event)
        elif not event.cause.expected:
            self._start_failed(now, event.cause.describe())
        self._schedule(now)

    def _announce(self, event: ProcessEnded) -> None:
        for process in self._processes:
            self._emit(Send(process, ProcessDied(event.process, event.cause, event.lease, event.started)))
        self._extents.process_died(event.process, self._living())

    def _end_leases_of(self, now: float, owner: ProcessId) -> None:
        """A dead owner's leases end; its workers serve others once they have stopped what it had given them."""
        for row in self._leases.owner_lost(owner):
            worker = self._pool.rows.get(row.worker)
            if row.for_actor:
                self._emit(KillProcess(row.worker))
            elif worker is not None:
                self._end_lease(now, worker, orphaned=True)

    def _on_peer_lost(self, now: float, event: PeerLost, peer: ProcessId) -> None:
        """The link to a process of this host broke: it is dead, or as good as dead (its reaper tells)."""
        if event.peer == self._driver:
            self._emit(EndNode())
        elif event.peer in self._pool.rows:
            self._emit(KillProcess(event.peer))

    def _on_end_session(self, now: float, message: EndSession, peer: ProcessId) -> None:
        self._emit(EndNode())

    # ---- leases ----

    def _on_request_lease(self, now: float, message: RequestLease, peer: ProcessId) -> None:
        if peer not in self._processes:
            return  # a late request of a dead owner leases nothing (43975)
        if not self._leases.resources.could_ever_fit(message.demand):
            total = {name: quantity / UNIT for name, quantity in self._leases.resources.total.items()}
            wanted = {name: quantity / UNIT for name, quantity in message.demand}
            self._refuse(peer, message.request, f"it asks for {wanted}, and the whole session has {total}")
            return
        self._leases.add(Request(peer, message.request, message.demand, message.for_actor))
        self._schedule(now)

    def _on_cancel_request(self, now: float, message: CancelRequest, peer: ProcessId) -> None:
        self._leases.cancel(peer, message.request)

    def _schedule(self, now: float) -> None:
        """Grant what fits on idle workers, start as many as are still wanted, ask back what others starve for."""
        wanted = grantable(self._leases)
        idle = self._pool.idle()
        for request, worker in zip(wanted, idle, strict=False):
            row = self._leases.grant(request, worker.process)
            worker.state, worker.lease = WorkerState.LEASED, row
            self._emit(Send(worker.process, LeaseStarted(row.lease, row.owner)))
            self._emit(Send(row.owner, LeaseGranted(request.number, row.lease, worker.process)))
        missing = len(wanted) - len(idle) - self._pool.starting_count()
        for _ in range(min(missing, self._max_workers - len(self._pool.rows))):
            self._emit(StartWorker(self._pool.new().process))
        revoke = to_revoke(self._leases) if self._leases.requests else None
        if revoke is not None:
            revoke.revoked = True
            self._emit(Send(revoke.owner, RevokeLease(revoke.lease)))

    def _on_return_lease(self, now: float, message: ReturnLease, peer: ProcessId) -> None:
        row = self._leases.granted.get(message.lease)
        if row is None or row.owner != peer:
            return
        worker = self._pool.rows.get(row.worker)
        if worker is None:
            return
        if message.spoilt:
            self._leases.release(row.lease)
            self._dismiss(worker)
        else:
            self._end_lease(now, worker)
        self._schedule(now)

    def _end_lease(self, now: float, worker: Worker, *, orphaned: bool = False) -> None:
        """A worker that may still run something of a dead owner serves nobody: what would wait behind that may be what
        it waits for."""
        assert worker.lease is not None
        self._leases.release(worker.lease.lease)
        self._emit(Send(worker.process, LeaseEnded(worker.lease.lease, orphaned)))
        worker.state = WorkerState.STOPPING if orphaned else WorkerState.IDLE
        worker.lease, worker.idle_since = None, now

    def _on_lease_stopped(self, now: float, message: LeaseStopped, peer: ProcessId) -> None:
        worker = self._pool.rows.get(peer)
        if worker is not None and worker.state is WorkerState.STOPPING:
            worker.state, worker.idle_since = WorkerState.IDLE, now
            self._schedule(now)

    def _dismiss(self, worker: Worker) -> None:
        self._pool.leave(worker)
        self._emit(Send(worker.process, ExitWorker()))

    def _on_blocked(self, now: float, message: Blocked, peer: ProcessId) -> None:
        row = self._lease_of(message.lease, peer)
        if row is not None:
            self._leases.block(row)
            self._schedule(now)

    def _on_unblocked(self, now: float, message: Unblocked, peer: ProcessId) -> None:
        row = self._lease_of(message.lease, peer)
        if row is not None:
            self._leases.unblock(row)

    def _lease_of(self, lease: LeaseId, worker: ProcessId) -> Any:
        row = self._leases.granted.get(lease)
        return row if row is not None and row.worker == worker else None

    # ---- the arena ----

    def _on_request_extent(self, now: float, message: RequestExtent, peer: ProcessId) -> None:
        self._extents.request(now, peer, message.size_bytes, self._living())

    def _on_extent_reserved(self, now: float, event: ExtentReserved, peer: ProcessId) -> None:
        lives = event.holder in self._processes
        self._extents.reserved(event.holder, event.offset, event.size_bytes, done=event.done, lives=lives)

    def _on_extents_returned(self, now: float, message: ExtentsReturned, peer: ProcessId) -> None:
        self._extents.returned(peer, message.offsets)

    def _on_ledger_read(self, now: float, event: LedgerRead, peer: ProcessId) -> None:
        self._extents.ledger_read(event, self._living())

    def _on_places_claimed(self, now: float, message: PlacesClaimed, peer: ProcessId) -> None:
        self._extents.free(message.dead)

    def _on_free_orphans(self, now: float, message: FreeOrphans, peer: ProcessId) -> None:
        self._extents.free(message.objects)

    def _on_no_views_of(self, now: float, message: NoViewsOf, peer: ProcessId) -> None:
        self._extents.no_views(message, peer, self._living())

    # ---- time, proof ----

    def _spare(self) -> list[Worker]:
        """Idle workers beyond one per CPU."""
        idle = self._pool.idle()
        return idle[: max(0, len(idle) - self._prestart)]

    def _on_tick(self, now: float, event: Tick, peer: ProcessId) -> None:
        self._extents.tick(now)
        for worker in self._spare():
            if worker.idle_since + IDLE_WORKER_SECONDS <= now:
                self._dismiss(worker)

    def deadline(self) -> float | None:
        times = [worker.idle_since + IDLE_WORKER_SECONDS for worker in self._spare()]
        until = self._extents.deadline()
        return min(times + ([until] if until is not None else []), default=None)

    def check(self) -> None:
        self._leases.check()
        for row in self._leases.granted.values():
            worker = self._pool.rows.get(row.worker)
            assert worker is not None and worker.lease is row, f"lease {row.lease} is on a worker that has another"

    def statistics(self) -> dict[str, int]:
        return {
            "requests": len(self._leases.requests),
            "granted": len(self._leases.granted),
            **self._extents.statistics(),
        }
