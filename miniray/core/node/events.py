"""What the node role is told by its own process, and what it asks its own process to do."""

from __future__ import annotations

from miniray.core.failures import DeathCause
from miniray.core.ids import LeaseId, ObjectId, ProcessId, TaskId
from miniray.core.record import Effect, Event
from miniray.core.task_spec import Place


class WorkerFailed(Event, frozen=True):
    """The process could not be started."""

    process: ProcessId
    reason: str


class ProcessEnded(Event, frozen=True):
    """Its reaper has seen it end; `lease` and `started` are what its status word says."""

    process: ProcessId
    cause: DeathCause
    lease: LeaseId
    started: int


class ExtentReserved(Event, frozen=True):
    """The answer to `ReserveExtent`; not `done`: the system has no memory for it."""

    holder: ProcessId
    offset: int
    size_bytes: int
    done: bool


class LedgerRead(Event, frozen=True):
    """What lies sealed in one extent of a dead process."""

    extent_offset: int
    objects: list[tuple[ObjectId, Place]]


class BytesFetched(Event, frozen=True):
    """The answer to `FetchBytes`. Not `done`: nothing could be read there, or there is no memory here (`full`)."""

    into: Place
    done: bool
    full: bool = False


class NodeStarted(Event, frozen=True):
    """This process has begun, as one of several nodes: it registers with the control store."""


# ---- effects ----


class StartWorker(Effect, frozen=True):
    """Fork a worker; it registers, or `WorkerFailed` or `ProcessEnded` comes back. `fork`: from the driver, for this
    creation of an actor; else from the zygote."""

    process: ProcessId
    fork: TaskId | None = None


class KillProcess(Effect, frozen=True):
    """End it at once (SIGKILL by pidfd); `ProcessEnded` comes back."""

    process: ProcessId


class ReserveExtent(Effect, frozen=True):
    """Reserve memory for a range of the arena before anybody writes to it: never a SIGBUS."""

    holder: ProcessId
    offset: int
    size_bytes: int


class ReadLedger(Effect, frozen=True):
    """Read the ledger of a dead process's extent; `LedgerRead` comes back."""

    extent_offset: int


class FetchBytes(Effect, frozen=True):
    """Reserve memory for `into`, and copy another node's bytes there; `BytesFetched` comes back."""

    object_id: ObjectId
    source: Place
    into: Place


class FreeRange(Effect, frozen=True):
    """Nothing lives in this range of the arena any more: give its pages back to the system."""

    offset: int
    size_bytes: int


class EndNode(Effect, frozen=True):
    """Kill every process of the session, and end."""
