"""Staffing: which worker serves which request, and how many workers there are.

A request that can be served (`policies.py`) has an idle worker at once, or one that is started for whoever comes first;
one for a fork of the driver has its own (`forks.py`). One worker a CPU is kept, more of them end when they have idled
for a while. A supervisor gives up at a restart intensity instead of looping (OTP): when starting has failed some times
in a row, what waits is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import ProcessId
from miniray.core.machine import Send
from miniray.core.messages import ExitWorker, LeaseEnded, LeaseGranted, LeaseRefused, LeaseStarted, RevokeLease
from miniray.core.node.events import StartWorker
from miniray.core.node.forks import Forks
from miniray.core.node.lease_queue import LeaseQueue, Request
from miniray.core.node.policies import grantable, to_revoke
from miniray.core.node.worker_pool import Worker, WorkerPool, WorkerState
from miniray.core.record import Effect
from miniray.core.resources import UNIT

IDLE_WORKER_SECONDS = 2.0  # how long a worker beyond one per CPU waits for another lease
MAX_FAILED_STARTS = 5  # in a row; then requests are refused instead of tried for ever


class Staffing:
    def __init__(self, pool: WorkerPool, leases: LeaseQueue, max_workers: int, emit: Callable[[Effect], None]) -> None:
        self._pool = pool
        self._leases = leases
        self._forks = Forks(pool)
        self._max_workers = max_workers
        self._kept = -(-leases.resources.total.get("CPU", 0) // UNIT)
        self._failed_starts = 0
        self._emit = emit

    def begin(self) -> None:
        """One worker a CPU, before anybody asks."""
        for _ in range(self._kept):
            self._emit(StartWorker(self._pool.new().process))

    # ---- requests and workers ----

    def schedule(self) -> None:
        """Grant what fits on idle workers, start as many as are still wanted, ask back what others starve for."""
        served = grantable(self._leases)
        self._schedule_forks(served)
        idle, wanted = self._pool.idle(), [request for request in served if request.fork is None]
        for request, worker in zip(wanted, idle, strict=False):
            self._grant(request, worker)
        missing = len(wanted) - len(idle) - self._pool.starting_count()
        for _ in range(min(missing, self._max_workers - len(self._pool.rows))):
            self._emit(StartWorker(self._pool.new().process))
        full = len(self._pool.rows) >= self._max_workers
        revoke = to_revoke(self._leases, full=full) if self._leases.requests else None
        if revoke is not None:
            revoke.revoked = True
            self._emit(Send(revoke.owner, RevokeLease(revoke.lease)))

    def _schedule_forks(self, served: list[Request]) -> None:
        """A request for a fork of the driver has one at once, which is granted to it alone."""
        requests = self._leases.requests
        for worker in self._forks.unwanted(requests):
            self.dismiss(worker)
        for request in served:
            ready = self._forks.ready(request.key)
            if ready is not None:
                self._grant(request, ready)
        for key, request in self._forks.missing(requests):
            if len(self._pool.rows) < self._max_workers:
                self._emit(StartWorker(self._forks.new(key).process, request.fork))

    def _grant(self, request: Request, worker: Worker) -> None:
        row = self._leases.grant(request, worker.process)
        worker.state, worker.lease = WorkerState.LEASED, row
        self._emit(Send(worker.process, LeaseStarted(row.lease, row.owner)))
        self._emit(Send(row.owner, LeaseGranted(request.number, row.lease, worker.process)))

    def refuse(self, owner: ProcessId, number: int, message: str) -> None:
        self._emit(Send(owner, LeaseRefused(number, Failure(FailureKind.INFEASIBLE, "", message))))

    # ---- what becomes of a worker ----

    def registered(self, now: float, worker: Worker) -> None:
        if worker.state is WorkerState.STARTING:
            self._failed_starts = 0
            self._free(now, worker)
            self.schedule()

    def end_lease(self, now: float, worker: Worker, *, orphaned: bool = False) -> None:
        """A worker that may still run something of a dead owner serves nobody: what would wait behind that may be what
        it waits for."""
        assert worker.lease is not None
        self._leases.release(worker.lease.lease)
        self._emit(Send(worker.process, LeaseEnded(worker.lease.lease, orphaned)))
        self._free(now, worker)
        if orphaned:
            worker.state = WorkerState.STOPPING

    def stopped(self, now: float, worker: Worker) -> None:
        if worker.state is WorkerState.STOPPING:
            self._free(now, worker)
            self.schedule()

    def _free(self, now: float, worker: Worker) -> None:
        worker.state, worker.lease, worker.idle_since = WorkerState.IDLE, None, now

    def dismiss(self, worker: Worker) -> None:
        self._pool.leave(worker)
        self._emit(Send(worker.process, ExitWorker()))

    def gone(self, process: ProcessId) -> Worker | None:
        """It has ended, or was never there."""
        worker = self._pool.rows.pop(process, None)
        if worker is not None:
            self._forks.gone(worker)
        return worker

    def start_failed(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts < MAX_FAILED_STARTS:
            self.schedule()
            return
        message = f"no worker process could be started, {self._failed_starts} times in a row: {reason}"
        for request in list(self._leases.requests.values()):
            self.refuse(request.owner, request.number, message)
            self._leases.cancel(request.owner, request.number)

    # ---- time, proof ----

    def _spare(self) -> list[Worker]:
        """Idle workers beyond one per CPU."""
        idle = self._pool.idle()
        return idle[: max(0, len(idle) - self._kept)]

    def tick(self, now: float) -> None:
        for worker in self._spare():
            if worker.idle_since + IDLE_WORKER_SECONDS <= now:
                self.dismiss(worker)

    def deadline(self) -> float | None:
        return min((worker.idle_since + IDLE_WORKER_SECONDS for worker in self._spare()), default=None)

    def check(self) -> None:
        self._forks.check()
        for row in self._leases.granted.values():
            worker = self._pool.rows.get(row.worker)
            assert worker is not None and worker.lease is row, f"lease {row.lease} is on a worker that has another"
