"""The worker pool: the processes of this node, and what each is doing.

| state | meaning |
|---|---|
| STARTING | forked, not registered yet |
| IDLE | registered, without a lease |
| LEASED | serves one owner's lease, or is an actor |
| STOPPING | its lease's owner is dead, and something of it may still run |
| EXITING | left the pool; told to end when nobody needs it |

The driver is in the table of processes, not in the pool. Process numbers are never given twice.
"""

from __future__ import annotations

from enum import Enum

from miniray.core.ids import DRIVER_NUMBER, ProcessId, process_on
from miniray.core.node.lease_queue import Granted, RequestKey
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
    forked_for: RequestKey | None = None  # it serves that request alone (`forks.py`)


class WorkerPool:
    def __init__(self, node: ProcessId) -> None:
        self._node = node
        self._next_number = DRIVER_NUMBER + 1
        self.rows: dict[ProcessId, Worker] = {}

    def new(self, forked_for: RequestKey | None = None) -> Worker:
        process = process_on(self._node, self._next_number)
        self._next_number += 1
        row = self.rows[process] = Worker(process, forked_for=forked_for)
        return row

    def idle(self) -> list[Worker]:
        """Those that may serve anybody."""
        return [row for row in self.rows.values() if row.state is WorkerState.IDLE and row.forked_for is None]

    def starting_count(self) -> int:
        return sum(1 for row in self.rows.values() if row.state is WorkerState.STARTING and row.forked_for is None)

    def leave(self, row: Worker) -> None:
        """Before a worker is told to exit it leaves the pool, so that no lease can meet its end (15411)."""
        row.state = WorkerState.EXITING
        row.lease = None
