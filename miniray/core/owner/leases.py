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

    @property
    def is_usable(self) -> bool:
        return not (self.blocked or self.revoked) and self.lost_at is None


class SchedulingClass(Row):
    demand: Demand
    queue: deque[Task]
    leases: dict[LeaseId, Lease] = {}
    idle: dict[LeaseId, Lease] = {}  # those that are usable and have nothing in flight; the last one used last
    requests: dict[int, None] = {}  # asked for and not answered, by number
    depth: int = 1  # unfinished tasks a lease may have
    mean_microseconds: float = 0.0  # of one task; 0 while nothing was measured

    def measured(self, microseconds: float) -> None:
        mean = self.mean_microseconds
        mean = mean + _SMOOTHING * (microseconds - mean) if mean else microseconds or 1.0
        self.mean_microseconds = mean
        fitting = PIPELINE_MICROSECONDS / mean if mean > 0.0 else MAX_DEPTH_TASKS
        self.depth = MAX_DEPTH_TASKS if fitting >= MAX_DEPTH_TASKS else int(fitting) or 1

    def choose(self, *, eager: bool) -> tuple[Lease, int] | None:
        """The lease to push to next, and how many; None when everything queued should wait.

        `eager`: someone waits, or the first queued task has waited long enough.
        """
        waiting = len(self.queue)
        if not waiting:
            return None
        if self.idle:
            return next(reversed(self.idle.values())), min(self._share(waiting), self.depth, BATCH_TASKS)
        if not eager and waiting < BATCH_TASKS:
            return None
        best: Lease | None = None
        for lease in self.leases.values():
            if len(lease.flight) < self.depth and lease.is_usable:
                if best is None or len(lease.flight) < len(best.flight):
                    best = lease
        if best is None:
            return None
        count = min(self._share(waiting), self.depth - len(best.flight), BATCH_TASKS)
        if not eager and count < BATCH_TASKS // 2:
            return None  # a nearly full pipeline is refilled in one go, when half of it is answered
        return best, count

    def _share(self, waiting: int) -> int:
        """A fair part of the queue for one lease: the last tasks of a burst are spread over all workers."""
        if waiting == 1 or len(self.leases) == 1:
            return waiting
        usable = sum(1 for lease in self.leases.values() if lease.is_usable)
        return -(-waiting // (usable or 1))

    @property
    def has_backlog(self) -> bool:
        """Whether a further worker would find something to do."""
        return bool(self.queue) or any(len(lease.flight) > 1 for lease in self.leases.values())

    def more_requests(self) -> int:
        """How many further leases to ask for now."""
        most = min(max(2, 2 * len(self.leases)), MAX_REQUESTS)
        if len(self.requests) >= most:
            return 0
        backlog = len(self.queue) + sum(len(lease.flight) - 1 for lease in self.leases.values() if lease.flight)
        return max(0, min(backlog - len(self.idle), most) - len(self.requests))

    def to_take_back(self, now: float) -> tuple[Lease, list[TaskId]] | None:
        """From whom an idle worker should have which unstarted tasks: the later half of the longest flight."""
        longest: Lease | None = None
        for lease in self.leases.values():
            if _is_stuck(lease) and lease.pushed_at + TAKE_BACK_AFTER_SECONDS <= now:
                if longest is None or len(lease.flight) > len(longest.flight):
                    longest = lease
        if longest is None:
            return None
        tasks = list(longest.flight)[1:]
        return longest, tasks[len(tasks) // 2 :]

    def take_back_at(self) -> float | None:
        """When it should be looked at again whether something can be taken back for an idle worker."""
        if not self.idle or self.queue:
            return None
        times = (lease.pushed_at for lease in self.leases.values() if _is_stuck(lease))
        first = min(times, default=None)
        return None if first is None else first + TAKE_BACK_AFTER_SECONDS


def _is_stuck(lease: Lease) -> bool:
    """Whether it has tasks that have not started, and that nobody has asked back."""
    return len(lease.flight) > 1 and not lease.taking_back and lease.lost_at is None
