"""One host of a simulated cluster: its node process, its arena, its workers, and what its system does for the node.

It stands for `node_main.py` and the zygote: it starts processes a little later, kills them after a moment, and reaps
them. What happens to a process is decided by the cluster, which has the choices and the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from miniray._runtime.functions import FunctionImporter
from miniray._runtime.perform import rows_for
from miniray._store.arena import Arena, round_up
from miniray._store.client import StoreClient
from miniray.core.failures import DeathCause
from miniray.core.ids import (
    DRIVER_NUMBER,
    LeaseId,
    ProcessId,
    TaskId,
    local_number,
    node_of,
    process_number,
    process_on,
)
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import BytesFetched, FetchBytes, NodeStarted, ProcessEnded, WorkerFailed
from miniray.core.node.node_manager import NodeManager
from miniray.core.owner.events import ProcessStarted
from miniray.core.owner.owner import Owner
from miniray.core.resources import Demand
from miniray.core.worker.worker import Worker
from miniray.testing.simulated import CrashNow, SimulatedDrives, SimulatedExecutor, SimulatedProcess
from miniray.testing.threads import WatchedProcess

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster

MAX_WORKERS = 200
START_SECONDS = 0.001
FIRST_PID = 1000


class SimulatedHost:
    """`me` is the id of its node process."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        me: ProcessId,
        resources: Demand,
        arena_bytes: int,
        control: ProcessId | None,
    ) -> None:
        self._cluster = cluster
        self._stands_until = 0.0
        self.me = me
        self.resources = resources
        self.arena = Arena.create(arena_bytes)
        self.allocator = Allocator(self.arena.capacity_bytes, self.arena.first_offset)
        self._starts_failed = 0
        self._doomed: dict[ProcessId, None] = {}  # killed before they began
        self.node = cluster.processes[me] = SimulatedProcess(cluster, me)
        self.node_manager = NodeManager(me, resources, self.allocator, MAX_WORKERS, control)
        self.node.join((self.node_manager,), rows_for(hosts=self), lambda peer, reason: None)
        if control is not None:
            cluster.posted(self.node, NodeStarted())

    # ---- effects of the node ----

    def start(self, process: ProcessId, fork: TaskId | None) -> None:
        """It begins a little later. A fork of the driver is as any other here: what it would inherit it is sent."""
        cluster = self._cluster
        # A node gives up after five in a row.
        one_in = 0 if self._starts_failed else cluster.present_faults.one_failed_start_in
        if one_in and not cluster.choices.choose(one_in, "start fails"):
            self._starts_failed += 1
            cluster.tell(process, "StartFailed", reason="no memory")
            failed = WorkerFailed(process, "no memory")
            self.after(cluster.draw_lag(), lambda: cluster.posted(self.node, failed))
            return
        self.after(START_SECONDS + cluster.draw_lag(), lambda: self._begin_worker(process))

    def kill(self, process: ProcessId) -> None:
        """SIGKILL, which takes a moment."""
        cluster = self._cluster
        home = cluster.processes.get(process)
        if home is None:
            self._doomed[process] = None
        else:
            lag = cluster.draw_lag()
            self.after(lag, lambda: cluster.crash(home, -9, "killed") if home.alive else None)

    def fetch(self, effect: FetchBytes) -> None:
        """Another host's bytes arrive after a while, if it still lives then."""
        cluster, source, into = self._cluster, effect.source, effect.into
        room = round_up(into.size_bytes or 1)

        def land() -> None:
            host = cluster.hosts.get(node_of(source.holder))
            there = host is not None and host.node.alive and cluster.network.reaches(self.me, host.me)
            done = there and self.arena.reserve(into.offset, room)
            if done and host is not None:
                found = host.arena.view[source.offset : source.offset + source.size_bytes]
                self.arena.view[into.offset : into.offset + into.size_bytes] = found
            cluster.posted(self.node, BytesFetched(into, done))

        cluster.strikes.copy_begins(source.holder, self.me)
        cluster.timeline.after(cluster.draw_lag() + cluster.draw_lag(), land)

    def end(self) -> None:
        """The driver is gone, or the control store cannot be reached: all that runs here ends. It may be told twice in
        one look at what has arrived, as `node_main.py` may be."""
        if self.me != self._cluster.head.me and self.node.alive:
            self._cluster.crash_host(self)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """What its system does: when the node stands still, that does, too."""
        timeline = self._cluster.timeline

        def act() -> None:
            if timeline.now < self._stands_until:
                timeline.at(self._stands_until, act)
            else:
                action()

        timeline.after(seconds, act)

    def stand_still(self, seconds: float) -> None:
        """All that runs here; its processes go on in any order."""
        cluster = self._cluster
        self._stands_until = max(self._stands_until, cluster.timeline.now + seconds)
        for home in cluster.processes.values():
            if node_of(home.me) == self.me:
                home.stand_still(seconds + cluster.draw_lag())

    # ---- processes ----

    def start_driver(self) -> SimulatedProcess:
        home = self._process(process_on(self.me, DRIVER_NUMBER))
        assert home.process is not None
        home.join((home.process.owner,), rows_for(process=home.process), lambda peer, reason: None)
        home.process.run_by(SimulatedDrives(home), home.loop)
        home.process.may_fork = True
        self._cluster.posted(home, ProcessStarted(_pid(home.me), True))
        return home

    def _begin_worker(self, me: ProcessId) -> None:
        if not self.node.alive:
            return
        home = self._process(me)
        process = home.process
        assert process is not None
        process.tells_waits = True
        executor = home.executor = SimulatedExecutor(home, self.arena.status_word(local_number(me)).write)
        rows = rows_for(process=process, runs=executor)
        home.join((Worker(me, self.me), process.owner), rows, self._lost_by_a_worker)
        process.run_by(SimulatedDrives(home), home.loop)
        home.may_crash = True
        if me in self._doomed:
            self._cluster.crash(home, -9, "killed")
            return

        def main() -> None:
            process.post(ProcessStarted(_pid(me), False))
            executor.serve()
            self.report_end(home, 0)
            home.end(crashed=False)
            self._cluster.living.unwind_soon(home.fibers)

        home.start_fiber(main)

    def _lost_by_a_worker(self, peer: ProcessId, reason: str) -> None:
        """A worker ends with its node process (`worker_main.py`)."""
        if peer == self.me:
            raise CrashNow

    def _process(self, me: ProcessId) -> SimulatedProcess:
        home = self._cluster.processes[me] = SimulatedProcess(self._cluster, me)
        owner = Owner(me, self.me, self._cluster.max_lineage_bytes)
        home.process = WatchedProcess(self._cluster.threads, me, owner, StoreClient(self.arena, me))
        home.process.calls_back = home.call_back
        home.process.importer = FunctionImporter(isolated=True)
        return home

    def report_end(self, home: SimulatedProcess, status: int) -> None:
        """The reaper tells the node, after a moment."""
        cluster = self._cluster

        def report() -> None:
            lease, started = self.arena.read_status(local_number(home.me))
            cause = DeathCause(_pid(home.me), status)
            cluster.posted(self.node, ProcessEnded(home.me, cause, LeaseId(lease), started))
            cluster.processes.pop(home.me, None)

        self.after(cluster.draw_lag(), report)


def _pid(process: ProcessId) -> int:
    return FIRST_PID + process_number(process)
