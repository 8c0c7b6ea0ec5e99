"""Tasks: what this process has submitted and not yet seen end.

| state | where such a task is found |
|---|---|
| WAITING | under its unresolved arguments in `Objects` (a call also in its actor's queue) |
| QUEUED | in the queue of its scheduling class, or of its actor |
| PUSHED | in flight on one lease, or to one actor |
| LOST | its worker's link broke; in that lease's flight until the cause of the death is known |
| LIVING | in `living`: the creation of an actor that may be restarted has ended, and may run again |

A task has one outcome. `decided` says that it was told to the user already (cancel came first), while some
process still has the task: its arguments stay held until that process has answered or died.

An argument may be lost when it had been resolved already: then `unresolved` is above zero in any state, and the task
goes back to WAITING where it leaves its own, unless it ends without another attempt.
"""

from __future__ import annotations

from enum import Enum

from miniray.core.ids import LeaseId, ObjectId, TaskId
from miniray.core.owner.functions import Function
from miniray.core.record import Row
from miniray.core.task_spec import TaskSpec


class TaskState(Enum):
    WAITING = 0
    QUEUED = 1
    PUSHED = 2
    LOST = 3
    LIVING = 4


class Task(Row):
    spec: TaskSpec
    function: Function | None
    state: TaskState = TaskState.QUEUED
    attempt: int = 1
    retries_left: int = 0
    unresolved: int = 0
    lease: LeaseId = LeaseId(0)  # PUSHED, LOST: on which lease; 0 for calls of actors
    sequence: int = 0  # its number on that lease
    decided: bool = False
    held: tuple[ObjectId, ...] = ()  # argument holds: released once, as one
    stored: bool = False  # a value of it lies in the store
    remade: bool = False  # it has ended once, and runs again for those of its returns that have no value


class Tasks:
    def __init__(self) -> None:
        self.rows: dict[TaskId, Task] = {}
        self.living: dict[ObjectId, Task] = {}

    def children_of(self, parent: TaskId) -> list[TaskId]:
        return [task_id for task_id, task in self.rows.items() if task.spec.parent == parent]
