"""Failure as data: each way to fail is one row here, one in `_api/raising.py`, one class in `errors.py`.

A failure is decided in a machine, travels as a value's content, and becomes an exception at one door only.
The error of a user's code travels pickled inside it and is unpickled by the thread that asks.
"""

from __future__ import annotations

from enum import Enum

from miniray.core.ids import ObjectId, ProcessId
from miniray.core.record import Record


class FailureKind(Enum):
    TASK_ERROR = "task error"  # the user's code raised: `error` is the pickled exception, `traceback` its text
    WORKER_CRASHED = "worker crashed"  # the process that ran it died
    ACTOR_DIED = "actor died"  # the actor's process died, was killed, or its constructor raised
    ACTOR_UNAVAILABLE = "actor unavailable"  # it lives, and the link to it broke while the call was under way
    CANCELLED = "cancelled"
    OWNER_DIED = "owner died"  # nobody can say any more where the value is
    OBJECT_LOST = "object lost"  # the value was freed, or lost on its way
    STORE_FULL = "store full"  # the result had no room
    UNSERIALIZABLE = "result not serializable"  # the task returned what cannot be pickled
    INFEASIBLE = "infeasible"  # no node could ever serve the demand
    SESSION_ENDED = "session ended"  # shutdown, or the node process died


class DeathCause(Record, frozen=True):
    """How a process ended, as its reaper saw it."""

    pid: int
    status: int  # exit code, or minus the signal (as `subprocess` tells it); UNKNOWN_STATUS if nobody saw
    expected: bool = False  # it was told to end

    def describe(self) -> str:
        if self.status == NODE_DIED_STATUS:
            return "the node on which it ran has died"
        if self.status == UNKNOWN_STATUS:
            return f"worker {self.pid} was lost"
        if self.status < 0:
            return f"worker {self.pid} was ended by signal {-self.status}"
        return f"worker {self.pid} exited with code {self.status}"


UNKNOWN_STATUS = 1 << 16
NODE_DIED_STATUS = UNKNOWN_STATUS + 1


class Failure(Record, frozen=True):
    """Why a value will never be there.

    `task` and `site` say what failed and where it was called; `attempt` of `attempts` which time it was.
    """

    kind: FailureKind
    task: str  # name of the function, method or actor
    message: str  # one sentence: what happened
    error: bytes = b""  # TASK_ERROR, ACTOR_DIED of a constructor, UNSERIALIZABLE: the pickled exception
    traceback: str = ""
    site: str = ""  # "file.py:31 in main"
    attempt: int = 0
    attempts: int = 0
    death: DeathCause | None = None
    process: ProcessId | None = None
    contains: tuple[ObjectId, ...] = ()  # the refs inside `error`
