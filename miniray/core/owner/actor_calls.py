"""Calls of actors, at the caller: one queue for each actor that this process calls.

- Calls leave in the order in which they were made: a call whose arguments are not ready holds back those after
  it; one that fails or is cancelled meanwhile just leaves the queue, so a gap can never block (PROTOCOL.md 7).
- An actor is named by its creation object, and its address is that object's value; so a handle is a ref, and
  finding an actor is a `WhereIs` like any other. No second mechanism.
- The link to the actor's process is in order, and each incarnation has a process of its own, whose id is never given
  again: so calls carry no numbers, and what an old incarnation answers is known by its link.
"""

from __future__ import annotations

from collections import deque

from miniray.core.ids import ObjectId, ProcessId, TaskId
from miniray.core.owner.tasks import Task
from miniray.core.record import Row


class Actor(Row):
    actor: ObjectId
    queue: deque[Task]
    process: ProcessId | None = None  # None: not yet known, or it is being restarted
    lost_at: float | None = None  # the link broke then; the cause of the death is awaited
    flight: dict[TaskId, Task] = {}

    def take_ready(self, limit: int) -> list[Task]:
        """The calls at the head that may leave now."""
        ready: list[Task] = []
        while self.queue and not self.queue[0].unresolved and len(ready) < limit:
            ready.append(self.queue.popleft())
        return ready


class ActorCalls:
    def __init__(self) -> None:
        self.rows: dict[ObjectId, Actor] = {}

    def at(self, process: ProcessId) -> list[Actor]:
        return [row for row in self.rows.values() if row.process == process]
