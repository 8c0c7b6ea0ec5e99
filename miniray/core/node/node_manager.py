"""The node role: one host's processes, resources and arena (PROTOCOL.md sections 5 and 8).

It has workers started, grants leases on them (`staffing.py`), and says who died and how. It is not on the path of a
task: owners push to leased workers themselves. Every message about a lease names the lease. A process of this node
registers before it owns anything, so such an id that is unknown here is that of a dead one; of processes of other nodes
this one knows only the deaths. One of several nodes hears of the others from the control store, and sends requests on
to them; it goes on while the control store is away, but not for long (`control_link.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from miniray.core.ids import LeaseId, ProcessId, node_index, node_of
from miniray.core.machine import LinkRenewed, PeerLost, Received, Send, Tick
from miniray.core.messages import (
    AskRegistration,
    Blocked,
    CancelRequest,
    EndSession,
    ExtentsReturned,
    FreeOrphans,
    KillWorker,
    LeaseStopped,
    LoadOf,
    MakeCopy,
    NodeAdded,
    NodeDied,
    NodeRegistered,
    NoViewsOf,
    PlacesClaimed,
    ProcessDied,
    Register,
    RequestExtent,
    RequestLease,
    ReturnLease,
    Spillback,
    Unblocked,
)
from miniray.core.node.allocator import Allocator
from miniray.core.node.control_link import ControlLink
from miniray.core.node.events import (
    BytesFetched,
    EndNode,
    ExtentReserved,
    KillProcess,
    LedgerRead,
    NodeStarted,
    ProcessEnded,
    WorkerFailed,
)
from miniray.core.node.extents import Extents
from miniray.core.node.lease_queue import LeaseQueue, Request
from miniray.core.node.other_nodes import OtherNodes
from miniray.core.node.policies import grantable
from miniray.core.node.staffing import Staffing
from miniray.core.node.transfers import Transfers
from miniray.core.node.worker_pool import WorkerPool
from miniray.core.record import Effect, Event, Message
from miniray.core.resources import UNIT, Demand, ResourcePool

MAX_SPILLS = 2  # then a request is not sent on as it arrives: it waits for news, or for a while
LEASES_PER_NODE = 1 << 40  # the numbers of a node's leases begin at its index times this

Handler = Callable[[float, Any, ProcessId], None]


class NodeManager:
    def __init__(
        self,
        me: ProcessId,
        resources: Demand,
        allocator: Allocator,
        max_workers: int,
        control: ProcessId | None = None,
    ) -> None:
        self._me, self._control = me, control
        self._effects: list[Effect] = []
        self._emit = self._effects.append
        self._pool = WorkerPool(me)
        self._leases = LeaseQueue(ResourcePool(resources), node_index(me) * LEASES_PER_NODE)
        self._staffing = Staffing(self._pool, self._leases, max_workers, self._emit)
        self._others = OtherNodes(control, self._emit)
        self._control_link = ControlLink(control, tuple(self._leases.resources.total.items()), self._others, self._emit)
        self._transfers = Transfers(me, allocator, self._others.dead, self._emit)
        self._extents = Extents(allocator, self._transfers, self._emit)
        self._processes: dict[ProcessId, None] = {}  # registered and alive, the driver among them
        self._driver: ProcessId | None = None
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
            MakeCopy: self._on_make_copy,
            BytesFetched: self._on_bytes_fetched,
            EndSession: self._on_end_session,
            NodeStarted: self._on_node_started,
            AskRegistration: self._on_ask_registration,
            NodeRegistered: self._on_node_registered,
            NodeAdded: self._on_node_added,
            LoadOf: self._on_load_of,
            ProcessDied: self._on_process_died,
            NodeDied: self._on_node_died,
            ProcessEnded: self._on_process_ended,
            WorkerFailed: self._on_worker_failed,
            ExtentReserved: self._on_extent_reserved,
            LedgerRead: self._on_ledger_read,
            PeerLost: self._on_peer_lost,
            LinkRenewed: self._on_link_renewed,
            Tick: self._on_tick,
        }

    def handles(self) -> tuple[type[Event] | type[Message], ...]:
        return tuple(self._on)

    def step(self, now: float, event: Event) -> list[Effect]:
        if type(event) is Received:
            self._on[type(event.message)](now, event.message, event.peer)
        else:
            self._on[type(event)](now, event, self._me)
        if self._control_link.is_registered:
            self._others.report(now, self._leases.resources, len(self._leases.requests))
        effects = self._effects[:]
        self._effects.clear()
        return effects

    def _may_live(self, process: ProcessId) -> bool:
        return process in self._processes or (node_of(process) != self._me and self._others.may_live(process))

    def _living(self) -> list[ProcessId]:
        return list(self._processes)

    # ---- processes ----

    def _on_register(self, now: float, message: Register, peer: ProcessId) -> None:
        if message.is_driver:
            self._processes[peer] = None
            self._driver = peer
            self._staffing.begin()
            return
        worker = self._pool.rows.get(peer)
        if worker is None:
            return  # its reaper's news has overtaken this: the dead must not be waited for, nor lease anything
        self._processes[peer] = None
        for dead in self._others.dead:  # or it would dial for long whoever lived there
            self._emit(Send(peer, NodeDied(dead)))
        self._staffing.registered(now, worker)

    def _on_worker_failed(self, now: float, event: WorkerFailed, peer: ProcessId) -> None:
        self._staffing.gone(event.process)
        self._staffing.start_failed(event.reason)

    def _on_kill_worker(self, now: float, message: KillWorker, peer: ProcessId) -> None:
        if message.process in self._pool.rows:
            self._emit(KillProcess(message.process))

    def _on_process_ended(self, now: float, event: ProcessEnded, peer: ProcessId) -> None:
        died = event.process
        if died == self._driver:
            self._emit(EndNode())
            return
        worker = self._staffing.gone(died)
        if worker is None:
            return
        registered = self._processes.pop(died, 0) is None
        if worker.lease is not None:
            self._leases.release(worker.lease.lease)
        self._end_leases_of(now, died)
        if registered:
            self._announce(event)
        elif not event.cause.expected:
            self._staffing.start_failed(event.cause.describe())
        self._staffing.schedule()

    def _announce(self, event: ProcessEnded) -> None:
        news = ProcessDied(event.process, event.cause, event.lease, event.started)
        for process in self._processes:
            self._emit(Send(process, news))
        self._control_link.process_died(news)
        self._extents.process_died(event.process, self._living())

    def _end_leases_of(self, now: float, owner: ProcessId) -> None:
        """A dead owner's leases end; its workers serve others once they have stopped what it had given them."""
        for row in self._leases.owner_lost(owner):
            worker = self._pool.rows.get(row.worker)
            if row.for_actor:
                self._emit(KillProcess(row.worker))
            elif worker is not None:
                self._staffing.end_lease(now, worker, orphaned=True)

    def _on_peer_lost(self, now: float, event: PeerLost, peer: ProcessId) -> None:
        """The link to a process of this host broke: it is dead, or as good as dead (its reaper tells).

        Of a process of another node this one waits to be told.
        """
        if event.peer == self._control and event.gone:
            self._control_link.away(now)
        elif event.peer in (self._driver, self._control):
            self._emit(EndNode())
        elif event.peer in self._pool.rows:
            self._emit(KillProcess(event.peer))

    def _on_end_session(self, now: float, message: EndSession, peer: ProcessId) -> None:
        self._emit(EndNode())

    # ---- other nodes ----

    def _on_node_started(self, now: float, event: NodeStarted, peer: ProcessId) -> None:
        self._control_link.register(now)

    def _on_link_renewed(self, now: float, event: LinkRenewed, peer: ProcessId) -> None:
        """To the control store: no other link of a node is made again."""
        self._control_link.register(now)

    def _on_ask_registration(self, now: float, message: AskRegistration, peer: ProcessId) -> None:
        self._control_link.register(now)

    def _on_node_registered(self, now: float, message: NodeRegistered, peer: ProcessId) -> None:
        self._control_link.registered()

    def _on_node_added(self, now: float, message: NodeAdded, peer: ProcessId) -> None:
        self._others.added(message.node, message.resources)
        self._spill_queued(now)

    def _on_load_of(self, now: float, message: LoadOf, peer: ProcessId) -> None:
        self._others.load(message)
        self._spill_queued(now)

    def _on_process_died(self, now: float, message: ProcessDied, peer: ProcessId) -> None:
        """An owner of another node: what it has here ends as that of a dead owner of this one."""
        died = message.process
        if not self._others.process_died(died):
            return
        for process in self._processes:
            self._emit(Send(process, message))
        self._end_leases_of(now, died)
        self._extents.process_died(died, self._living())
        self._staffing.schedule()

    def _on_node_died(self, now: float, message: NodeDied, peer: ProcessId) -> None:
        node = message.node
        if node == self._me:
            self._emit(EndNode())  # others have heard so, and it is true for ever
            return
        if not self._others.node_died(node):
            return
        for process in self._processes:
            self._emit(Send(process, message))
        for owner in self._leases.owners_on(node):
            self._end_leases_of(now, owner)
        self._transfers.node_died(node)
        self._extents.node_died(node, self._living())
        self._staffing.schedule()

    def _spill_queued(self, now: float) -> None:
        """Something may be free elsewhere for what waits here; what only waits for a worker to start stays.

        However often it was sent on: what is known of others is old, and a request that may not move waits for ever.
        """
        served = {(one.owner, one.number): None for one in grantable(self._leases)}
        for key, request in list(self._leases.requests.items()):
            if key not in served:
                self._spill(now, request, even_busy=False)

    def _spill(self, now: float, request: Request, *, even_busy: bool) -> bool:
        """Have its owner ask another node, if this makes sense; it is not queued here then."""
        node = self._others.choose(request.demand, even_busy=even_busy) if request.fork is None else None
        if node is None:
            return False
        self._others.sent_to(now, node, request.demand)
        self._leases.cancel(request.owner, request.number)
        self._emit(Send(request.owner, Spillback(request.number, node)))
        return True

    # ---- leases ----

    def _on_request_lease(self, now: float, message: RequestLease, peer: ProcessId) -> None:
        if not self._may_live(peer):
            return  # a late request of a dead owner leases nothing (43975)
        request = Request(peer, message.request, message.demand, message.for_actor, message.spilled, message.fork)
        if message.fork is not None and peer != self._driver:
            self._staffing.refuse(peer, message.request, "only the driver of this node can be forked")
            return
        if not self._leases.resources.could_ever_fit(message.demand):
            if message.spilled >= MAX_SPILLS or not self._spill(now, request, even_busy=True):
                self._refuse_for_ever(request)
            return
        self._leases.add(request)
        if self._others.rows and message.spilled < MAX_SPILLS and request not in grantable(self._leases):
            self._spill(now, request, even_busy=False)
        self._staffing.schedule()
        if self._others.rows and self._leases.requests:
            self._others.look_again(now)

    def _refuse_for_ever(self, request: Request) -> None:
        total = self._leases.resources.total
        wanted = {name: quantity / UNIT for name, quantity in request.demand}
        has = {name: total.get(name, 0) / UNIT for name in wanted}
        who = "no node of the session has that; this one" if self._others.rows else "the whole session"
        message = f"it asks for {wanted}, and {who} has {has}: ask for less, or have more"
        self._staffing.refuse(request.owner, request.number, message)

    def _on_cancel_request(self, now: float, message: CancelRequest, peer: ProcessId) -> None:
        cancelled = self._leases.cancel(peer, message.request)
        if cancelled is not None and cancelled.fork is not None:
            self._staffing.schedule()  # what was forked for it

    def _on_return_lease(self, now: float, message: ReturnLease, peer: ProcessId) -> None:
        row = self._leases.granted.get(message.lease)
        if row is None or row.owner != peer:
            return
        worker = self._pool.rows.get(row.worker)
        if worker is None:
            return
        if message.spoilt:
            self._leases.release(row.lease)
            self._staffing.dismiss(worker)
        else:
            self._staffing.end_lease(now, worker)
        self._staffing.schedule()

    def _on_lease_stopped(self, now: float, message: LeaseStopped, peer: ProcessId) -> None:
        worker = self._pool.rows.get(peer)
        if worker is not None:
            self._staffing.stopped(now, worker)

    def _on_blocked(self, now: float, message: Blocked, peer: ProcessId) -> None:
        row = self._lease_of(message.lease, peer)
        if row is not None:
            self._leases.block(row)
            self._staffing.schedule()

    def _on_unblocked(self, now: float, message: Unblocked, peer: ProcessId) -> None:
        row = self._lease_of(message.lease, peer)
        if row is not None:
            self._leases.unblock(row)
            if self._others.rows and self._leases.requests:
                self._others.look_again(now)

    def _lease_of(self, lease: LeaseId, worker: ProcessId) -> Any:
        row = self._leases.granted.get(lease)
        return row if row is not None and row.worker == worker else None

    # ---- the arena ----

    def _on_request_extent(self, now: float, message: RequestExtent, peer: ProcessId) -> None:
        if peer in self._processes:  # else its end is known: what it got would never come back
            self._extents.request(now, peer, message.size_bytes, self._living())

    def _on_extent_reserved(self, now: float, event: ExtentReserved, peer: ProcessId) -> None:
        lives = event.holder in self._processes
        self._extents.reserved(event.holder, event.offset, event.size_bytes, done=event.done, lives=lives)

    def _on_extents_returned(self, now: float, message: ExtentsReturned, peer: ProcessId) -> None:
        self._extents.returned(peer, message.offsets)

    def _on_ledger_read(self, now: float, event: LedgerRead, peer: ProcessId) -> None:
        self._extents.ledger_read(event, self._may_live)

    def _on_places_claimed(self, now: float, message: PlacesClaimed, peer: ProcessId) -> None:
        self._extents.free(message.dead)

    def _on_free_orphans(self, now: float, message: FreeOrphans, peer: ProcessId) -> None:
        self._extents.free(message.objects)

    def _on_no_views_of(self, now: float, message: NoViewsOf, peer: ProcessId) -> None:
        self._extents.no_views(message, peer, self._living())

    def _on_make_copy(self, now: float, message: MakeCopy, peer: ProcessId) -> None:
        if self._may_live(peer):  # else it is buried, or about to be: what it got would never come back
            self._extents.make_copy(now, peer, message, self._living())

    def _on_bytes_fetched(self, now: float, event: BytesFetched, peer: ProcessId) -> None:
        self._transfers.fetched(now, event)

    # ---- time, proof ----

    def _on_tick(self, now: float, event: Tick, peer: ProcessId) -> None:
        if self._control_link.tick(now):
            self._emit(EndNode())
        self._extents.tick(now)
        self._transfers.tick(now)
        if self._others.lapsed(now):
            self._spill_queued(now)
        self._staffing.tick(now)

    def deadline(self) -> float | None:
        parts = (self._staffing, self._extents, self._others, self._transfers, self._control_link)
        return min((at for at in (part.deadline() for part in parts) if at is not None), default=None)

    def check(self) -> None:
        self._leases.check()
        self._staffing.check()

    def statistics(self) -> dict[str, int]:
        return {
            "requests": len(self._leases.requests),
            "granted": len(self._leases.granted),
            **self._extents.statistics(),
            **self._transfers.statistics(),
            **self._control_link.statistics(),
        }
