"""Structured identifiers: every id names its owner (PROTOCOL.md section 1).

    ProcessId  8 bytes: session prefix (4, drawn once per session) + number of the process in it (4)
    TaskId    14 bytes: ProcessId of the owner + its 48-bit counter
    ObjectId  18 bytes: TaskId + 32-bit index of the return; a `put` takes a TaskId of its own

- No table is needed to find an owner, and no randomness is drawn on the hot path.
- An id is never used twice: counters only grow, and a process number is never given again.
- Ids are plain `bytes`: a wrapper class would cost more than the call that it names.
"""

from __future__ import annotations

from typing import NewType

ProcessId = NewType("ProcessId", bytes)
TaskId = NewType("TaskId", bytes)
ObjectId = NewType("ObjectId", bytes)
FunctionId = NewType("FunctionId", bytes)
LeaseId = NewType("LeaseId", int)

PROCESS_ID_BYTES = 8
TASK_ID_BYTES = 14
OBJECT_ID_BYTES = 18

NODE_NUMBER = 0
DRIVER_NUMBER = 1

FIRST_RETURN = bytes(4)


def process_id(session: bytes, number: int) -> ProcessId:
    return ProcessId(session + number.to_bytes(4, "big"))


def process_number(process: ProcessId) -> int:
    return int.from_bytes(process[4:], "big")


def task_id(owner: ProcessId, counter: int) -> TaskId:
    return TaskId(owner + counter.to_bytes(6, "big"))


def return_id(task: TaskId, index: int = 0) -> ObjectId:
    return ObjectId(task + (index.to_bytes(4, "big") if index else FIRST_RETURN))


def task_of(object_id: ObjectId) -> TaskId:
    return TaskId(object_id[:TASK_ID_BYTES])


def owner_of(object_or_task: ObjectId | TaskId) -> ProcessId:
    return ProcessId(object_or_task[:PROCESS_ID_BYTES])


def show(identifier: bytes) -> str:
    """A short name for people: `p3` a process, `p1.t7` a task, `p1.t7.0` an object."""
    text = f"p{int.from_bytes(identifier[4:8], 'big')}"
    if len(identifier) >= TASK_ID_BYTES:
        text += f".t{int.from_bytes(identifier[8:14], 'big')}"
    if len(identifier) == OBJECT_ID_BYTES:
        text += f".{int.from_bytes(identifier[14:], 'big')}"
    return text
