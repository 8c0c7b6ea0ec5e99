"""What the worker role is told by its own process, and what it asks its own process to do."""

from __future__ import annotations

from miniray.core.ids import FunctionId, LeaseId, ObjectId, ProcessId, TaskId
from miniray.core.record import Effect, Event
from miniray.core.task_spec import PushedTask, Value


class TaskFinished(Event, frozen=True):
    """The user's code has returned or raised; its result still exists in memory (so its refs do, too)."""

    task_id: TaskId
    attempt: int
    values: tuple[Value, ...]
    duration_microseconds: int
    retry: bool = False  # an exception that `retry_on` names


class RunTask(Effect, frozen=True):
    """Run it in the main thread, when that is free; `TaskFinished` comes back."""

    lease: LeaseId  # with the task's sequence, written into the status word when it starts
    task: PushedTask


class InstallFunction(Effect, frozen=True):
    """Remember a definition; it is unpickled when the first task needs it."""

    function: FunctionId
    owner: ProcessId
    value: Value
    object_id: ObjectId | None = None  # the name of a stored one


class DropFunction(Effect, frozen=True):
    function: FunctionId
    owner: ProcessId


class InterruptTask(Effect, frozen=True):
    """Raise KeyboardInterrupt in the main thread, if this very task runs there, or when it begins."""

    task_id: TaskId


class ForgetInstance(Effect, frozen=True):
    """Nobody will call this process's actor any more: let its state go, and with it the refs that it keeps."""


class ExitProcess(Effect, frozen=True):
    """Nobody needs this process any more."""
