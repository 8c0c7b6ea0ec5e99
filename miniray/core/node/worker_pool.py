"""The worker pool: the processes of this node, and what each is doing.

| state | meaning |
|---|---|
| STARTING | forked, not registered yet |
| IDLE | registered, without a lease |
| LEASED | serves one owner's lease, or is an actor |
| STOPPING | its lease's owner is dead, and something of it may still run |
| EXITING | left the pool; told to end when nobody needs it |

A worker that was forked from the driver is kept for the request that it was forked for: it has inherited what that
one needs, and is ended when the request or its lease is.

The driver is in the table of processes, not in the pool. Process numbers are never given twice.
"""

from __future__ import annotations

from enum import Enum

from miniray.core.ids import DRIVER_NUMBER, ProcessId, process_on
from miniray.core.node.lease_queue import Granted
from miniray.core.record import Row


class WorkerState(Enum):
    STARTING = 0
    IDLE = 1
    LEASED = 2
    STOPPING = 3
    EXITING = 4


class Worker(Row):
    process: ProcessId
    state: WorkerState = WorkerState.STARTING
    lease: Granted | None = None
    idle_since: float = 0.0
    kept_for: tuple[ProcessId, int] | None = None  # the request for which the driver has forked it


class WorkerPool:
    def __init__(self, node: ProcessId) -> None:
        self._node = node
        self._next_number = DRIVER_NUMBER + 1
        self.rows: dict[ProcessId, Worker] = {}

    def new(self, kept_for: tuple[ProcessId, int] | None = None) -> Worker:
        process = process_on(self._node, self._next_number)
        self._next_number += 1
        row = self.rows[process] = Worker(process, kept_for=kept_for)
        return row

    def idle(self) -> list[Worker]:
        """Those that may serve anybody."""
        return [row for row in self.rows.values() if row.state is WorkerState.IDLE and row.kept_for is None]

    def starting_count(self) -> int:
        return sum(1 for row in self.rows.values() if row.state is WorkerState.STARTING and row.kept_for is None)

    def kept(self) -> dict[tuple[ProcessId, int], Worker]:
        """The workers that wait for one request each, by that; some are only starting."""
        waiting = (WorkerState.STARTING, WorkerState.IDLE)
        return {
            row.kept_for: row for row in self.rows.values() if row.kept_for is not None and row.state in waiting
        }

    def leave(self, row: Worker) -> None:
        """Before a worker is told to exit it leaves the pool, so that no lease can meet its end (15411)."""
        row.state = WorkerState.EXITING
        row.lease = None
