"""What a task is, as its owner keeps it and as a worker gets it.

The owner's `TaskSpec` is frozen and says everything that a retry needs. A worker gets a `PushedTask`: the
same task with its top-level refs resolved to values. Payloads are pickles that no machine opens.
"""

from __future__ import annotations

from miniray.core.ids import FunctionId, ObjectId, ProcessId, TaskId
from miniray.core.failures import Failure
from miniray.core.record import Record
from miniray.core.resources import Demand


class Place(Record, frozen=True):
    """Where a stored object lies: in an extent of `holder`, at a page-aligned offset of the node's arena."""

    holder: ProcessId
    offset: int
    size_bytes: int


class Inline(Record, frozen=True, tag="I"):
    """A small value, carried in messages; `contains` names the refs inside it."""

    data: bytes
    contains: tuple[ObjectId, ...] = ()


class Stored(Record, frozen=True, tag="S"):
    """A large value in the arena."""

    place: Place
    contains: tuple[ObjectId, ...] = ()


class Failed(Record, frozen=True, tag="F"):
    """No value, and why."""

    failure: Failure


class ActorAt(Record, frozen=True, tag="A"):
    """The value of an actor's creation object: the process in which it lives, and which life that is."""

    process: ProcessId
    incarnation: int


Value = Inline | Stored | Failed | ActorAt


class TaskOptions(Record, frozen=True):
    """What `.options(...)` decided; one record is shared by all tasks of a remote function.

    Tasks of equal `demand` form one scheduling class: a lease serves any of them.
    """

    name: str
    demand: Demand = ()
    max_retries: int = 3  # how often it may run again after a crash (or a retried exception); -1: no limit
    retry_on: bytes = b""  # which exceptions are retried: b"" none, b"*" all, else a pickled tuple of types
    writable_arguments: bool = False  # large arguments arrive as private copy-on-write views
    raw_output: bool = False  # what it prints gets no prefix
    fork: bool = False  # an actor: its process is forked from the owner's, and inherits its arguments


class TaskSpec(Record, frozen=True):
    """A task as its owner keeps it."""

    task_id: TaskId
    function: FunctionId  # b"" for a call of an actor; unless its method is given this function, as first argument
    payload: bytes  # pickled (args, kwargs), top-level refs replaced by slots; b"" when it lies in the store
    options: TaskOptions
    num_returns: int = 1
    slots: tuple[ObjectId, ...] = ()  # top-level refs: resolved before the call, in the order of their slots
    refs: tuple[ObjectId, ...] = ()  # refs inside the arguments: passed by reference
    stored_payload: bool = False  # the last slot is not an argument but the payload itself
    actor: ObjectId | None = None  # call of this actor (named by its creation object)
    method: str = ""
    creates_actor: bool = False
    site: str = ""  # where it was called
    parent: TaskId | None = None  # the task that called, for cancel(recursive=True)


class PushedTask(Record, frozen=True):
    """A task as a worker gets it."""

    task_id: TaskId
    attempt: int
    function: FunctionId
    payload: bytes
    sequence: int = 0  # numbers the tasks of one lease; the worker writes it down when it starts the task
    num_returns: int = 1
    method: str = ""
    creates_actor: bool = False
    values: tuple[Value, ...] = ()  # of the slots
    slots: tuple[ObjectId, ...] = ()  # names of the slots: views are counted by name
    refs: tuple[ObjectId, ...] = ()  # every ref that arrives with it, to be held while it runs
    stored_payload: bool = False
    retry_on: bytes = b""
    at_most_once: bool = False  # its result leaves before the next task starts
    writable_arguments: bool = False
    raw_output: bool = False


class TaskResult(Record, frozen=True):
    """One execution's outcome, and what the worker still holds of what came with the task (PROTOCOL.md 4)."""

    task_id: TaskId
    attempt: int
    values: tuple[Value, ...]  # one for each return
    duration_microseconds: int = 0
    retry: bool = False  # the exception is one that `retry_on` asks to retry
    retained: tuple[ObjectId, ...] = ()  # refs of the submitter that the worker still holds: this registers it
    pending: bool = False  # some third party has not yet confirmed: keep the pins until `HandoffDone`
    pinned: bool = False  # the worker keeps a pin on what the values contain until `HandoffDone`
    lost: tuple[tuple[ObjectId, Place], ...] = ()  # arguments that could not be read there: it has not run


def contained(value: Value) -> tuple[ObjectId, ...]:
    """The refs inside a value; an exception may hold some, too."""
    if type(value) is Inline or type(value) is Stored:
        return value.contains
    return value.failure.contains if type(value) is Failed else ()
