"""Structured identifiers: every id names its owner (PROTOCOL.md section 1).

    ProcessId  8 bytes: session prefix (4, drawn once per session) + number of the process in it (4)
               number: index of the node (12 bits) + local number (20 bits): 0 the node process itself, 1 its
               driver, from 2 on its workers; index 4095: the control store
    TaskId    14 bytes: ProcessId of the owner + its 48-bit counter
    ObjectId  18 bytes: TaskId + 32-bit index of the return; a `put` takes a TaskId of its own

A value that is put for another owner has an id in that owner's name, made by its creator: the counter's highest bit is
set, the rest of it is the creator's number, and the creator counts by the index. An owner never counts so far itself.

- No table is needed to find an owner, or the node of a process, and no randomness is drawn on the hot path.
- An id is never used twice: counters only grow, and a process number is never given again. A node that was declared
  dead comes back under a new index.
- Ids are plain `bytes`: a wrapper class would cost more than the call that it names.
"""

from __future__ import annotations

from typing import NewType

ProcessId = NewType("ProcessId", bytes)
TaskId = NewType("TaskId", bytes)
ObjectId = NewType("ObjectId", bytes)
FunctionId = NewType("FunctionId", bytes)
LeaseId = NewType("LeaseId", int)

SESSION_BYTES = 4
PROCESS_ID_BYTES = 8
TASK_ID_BYTES = 14
OBJECT_ID_BYTES = 18

NODE_NUMBER = 0
DRIVER_NUMBER = 1

LOCAL_BITS = 20
CONTROL_INDEX = 4095
CONTROL_NUMBER = CONTROL_INDEX << LOCAL_BITS

FIRST_RETURN = bytes(4)
_GIVEN = 1 << 47  # of the counter


def process_id(session: bytes, number: int) -> ProcessId:
    return ProcessId(session + number.to_bytes(4, "big"))


def process_number(process: ProcessId) -> int:
    return int.from_bytes(process[4:], "big")


def node_of(identifier: ProcessId | TaskId | ObjectId) -> ProcessId:
    """The node process of the node where this process, or the owner of this, lives."""
    return process_id(identifier[:4], node_index(identifier) << LOCAL_BITS)


def node_index(identifier: ProcessId | TaskId | ObjectId) -> int:
    return int.from_bytes(identifier[4:8], "big") >> LOCAL_BITS


def same_node(first: ProcessId | ObjectId, second: ProcessId | ObjectId) -> bool:
    """Whether two processes, or owners, live on one node: `node_of` at a tenth of its price."""
    return first[4] == second[4] and first[5] >> 4 == second[5] >> 4


def local_number(process: ProcessId) -> int:
    """Its number on its node."""
    return process_number(process) & ((1 << LOCAL_BITS) - 1)


def process_on(node: ProcessId, local: int) -> ProcessId:
    """The process with this local number on that node."""
    assert 0 <= local < 1 << LOCAL_BITS, "a node has no more process numbers left"
    return process_id(node[:4], process_number(node_of(node)) + local)


def task_id(owner: ProcessId, counter: int) -> TaskId:
    return TaskId(owner + counter.to_bytes(6, "big"))


def return_id(task: TaskId, index: int = 0) -> ObjectId:
    return ObjectId(task + (index.to_bytes(4, "big") if index else FIRST_RETURN))


def given_id(owner: ProcessId, creator: ProcessId, counter: int) -> ObjectId:
    """The id of the `counter`th value (from 1) that `creator` puts for `owner`."""
    return ObjectId(task_id(owner, _GIVEN | process_number(creator)) + counter.to_bytes(4, "big"))


def return_index(object_id: ObjectId) -> int:
    return int.from_bytes(object_id[TASK_ID_BYTES:], "big")


def task_of(object_id: ObjectId) -> TaskId:
    return TaskId(object_id[:TASK_ID_BYTES])


def owner_of(object_or_task: ObjectId | TaskId) -> ProcessId:
    return ProcessId(object_or_task[:PROCESS_ID_BYTES])


def show(identifier: bytes) -> str:
    """A short name for people: `p3` a process, `n2.p3` one of node 2, `p1.t7` a task, `p1.t7.0` an object, `p3.p1.4` an
    object that p1 gave p3."""
    text = _show_number(process_number(ProcessId(identifier[:PROCESS_ID_BYTES])))
    if len(identifier) >= TASK_ID_BYTES:
        counter = int.from_bytes(identifier[8:14], "big")
        text += f".{_show_number(counter ^ _GIVEN)}" if counter & _GIVEN else f".t{counter}"
    if len(identifier) == OBJECT_ID_BYTES:
        text += f".{int.from_bytes(identifier[14:], 'big')}"
    return text


def _show_number(number: int) -> str:
    index, local = number >> LOCAL_BITS, number & ((1 << LOCAL_BITS) - 1)
    node = "" if index == 0 else "control." if index == CONTROL_INDEX else f"n{index}."
    return f"{node}p{local}"
