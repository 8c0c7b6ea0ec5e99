"""Leases: the right to push tasks of one scheduling class to one worker (PROTOCOL.md section 5).

One `SchedulingClass` for each distinct demand, with its queue, its leases and what it has asked for. Decided
here, as pure arithmetic on these rows:

- *Depth*. A lease holds as many unfinished tasks as fit into `PIPELINE_MICROSECONDS` of measured time, so that a
  worker of microsecond tasks never waits for its owner, and a long task hides nothing behind it.
- *Batching*. An idle worker gets its first task at once. To a busy one tasks go in batches of `BATCH_TASKS`, or
  when someone waits, or `FLUSH_SECONDS` after the first: a frame costs 10 us, a task in a full one 1 us.
- *Taking back*. When a worker is idle and nothing is queued, half of what has not started elsewhere is asked for.
- *Asking*. Requests grow with the leases held (2, then doubling), since most bursts end before many could help.
"""

from __future__ import annotations

from collections import deque

from miniray.core.ids import LeaseId, ProcessId, TaskId
from miniray.core.owner.tasks import Task
from miniray.core.record import Row
from miniray.core.resources import Demand

PIPELINE_MICROSECONDS = 2_000.0
MAX_DEPTH_TASKS = 256
BATCH_TASKS = 64
FLUSH_SECONDS = 0.001
MAX_REQUESTS = 16
LINGER_SECONDS = 0.1
TAKE_BACK_AFTER_SECONDS = 0.002
_SMOOTHING = 0.2


class Lease(Row):
    lease: LeaseId
    worker: ProcessId
    demand: Demand
    flight: dict[TaskId, Task] = {}  # pushed and unanswered, in the order in which they were pushed
    sequence: int = 0
    idle_since: float = 0.0
    pushed_at: float = 0.0  # when something was last pushed or answered: nothing moves here since
    taking_back: bool = False  # a `TakeBack` is out
    blocked: bool = False  # its worker waits inside a task and gives everything back
    revoked: bool = False
    lost_at: float | None = None  # its worker's link broke then; the cause of the death is awaited


class SchedulingClass(Row):
    demand: Demand
    queue: deque[Task]
    leases: dict[LeaseId, Lease] = {}
    requests: dict[int, None] = {}  # asked for and not answered, by number
    mean_microseconds: float = 0.0  # of one task; 0 while nothing was measured
    flush_at: float | None = None  # queued tasks of which a part waits for company
    busy: bool = False  # as of the last pump no lease was idle, so a submitted task just joins the queue

    @property
    def depth(self) -> int:
        mean = self.mean_microseconds
        if mean <= 0.0:
            return 1
        return max(1, min(MAX_DEPTH_TASKS, int(PIPELINE_MICROSECONDS / mean)))

    def measured(self, microseconds: float) -> None:
        mean = self.mean_microseconds
        self.mean_microseconds = mean + _SMOOTHING * (microseconds - mean) if mean else max(microseconds, 1.0)

    def room(self, lease: Lease) -> int:
        """How many more tasks this lease takes now."""
        if lease.lost_at is not None or lease.revoked or lease.blocked:
            return 0
        return self.depth - len(lease.flight)

    def choose(self, *, eager: bool) -> tuple[Lease, int] | None:
        """The lease to push to next, and how many; None when everything queued should wait.

        `eager`: someone waits, or the first queued task has waited long enough.
        """
        waiting = len(self.queue)
        best: Lease | None = None
        for lease in self.leases.values():
            if self.room(lease) > 0 and (best is None or len(lease.flight) < len(best.flight)):
                best = lease
        if best is None or not waiting:
            return None
        if not best.flight:
            return best, max(1, min(self._share(waiting), self.room(best), BATCH_TASKS))
        if not eager and waiting < BATCH_TASKS:
            return None
        count = min(self._share(waiting), self.room(best), BATCH_TASKS)
        if not eager and count < BATCH_TASKS // 2:
            return None  # a nearly full pipeline is refilled in one go, when half of it is answered
        return best, max(1, count)

    def _share(self, waiting: int) -> int:
        """A fair part of the queue for one lease: the last tasks of a burst are spread over all workers."""
        usable = sum(1 for lease in self.leases.values() if not (lease.lost_at is not None or lease.revoked or lease.blocked))
        return -(-waiting // max(1, usable))

    def more_requests(self) -> int:
        """How many further leases to ask for now."""
        backlog = len(self.queue) + sum(max(0, len(lease.flight) - 1) for lease in self.leases.values())
        idle = sum(1 for lease in self.leases.values() if not lease.flight and self.room(lease) > 0)
        wanted = min(backlog - idle, max(2, 2 * len(self.leases)), MAX_REQUESTS)
        return max(0, wanted - len(self.requests))

    def to_take_back(self, now: float) -> tuple[Lease, list[TaskId]] | None:
        """From whom an idle worker should have which unstarted tasks: the later half of the longest flight."""
        if self.queue or not any(not lease.flight and self.room(lease) > 0 for lease in self.leases.values()):
            return None
        longest: Lease | None = None
        for lease in self.leases.values():
            still = now - lease.pushed_at >= TAKE_BACK_AFTER_SECONDS
            if still and lease.lost_at is None and not lease.taking_back and len(lease.flight) > 1:
                if longest is None or len(lease.flight) > len(longest.flight):
                    longest = lease
        if longest is None:
            return None
        tasks = list(longest.flight)[1:]
        return longest, tasks[len(tasks) // 2 :]

    def idle_leases(self) -> list[Lease]:
        return [lease for lease in self.leases.values() if not lease.flight and lease.lost_at is None]
