"""Failures into exceptions: the one door (DESIGN.md, law 3). One row for each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from miniray._runtime.context import session_with
from miniray._serialization.exceptions import SubstituteError, deserialize_exception
from miniray.core.failures import Failure, FailureKind
from miniray.errors import (
    ActorDiedError,
    ActorUnavailableError,
    InfeasibleError,
    MinirayError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    ResultSerializationError,
    SessionError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)


def raise_failure(failure: Failure) -> NoReturn:
    """Raise what a failure means, with all that it tells."""
    error = _RAISE[failure.kind](failure)
    cause = deserialize_exception(failure.error) if failure.error else None
    try:
        raise error from cause
    finally:
        # A frame that holds what it raises is a cycle, and the callers' refs would wait for the collector.
        del error, cause


def _text(failure: Failure, what: str) -> str:
    lines = [what]
    is_told = what.startswith(f"{failure.task} ") or f"object {failure.task}" in what  # the second: no task, an object
    if failure.task and (failure.kind is FailureKind.WORKER_CRASHED or not is_told):
        attempts = f", attempt {failure.attempt} of {failure.attempts}" if failure.attempts > 1 else ""
        once = " (max_retries=0)" if failure.attempts == 1 and failure.kind is FailureKind.WORKER_CRASHED else ""
        lines.append(f"  task      {failure.task}{attempts}{once}")
    if failure.site:
        lines.append(f"  called    at {failure.site}")
    if failure.death is not None and failure.death.status == -9:
        is_actor = failure.kind is FailureKind.ACTOR_DIED
        who, option = ("kill(actor), ", "max_restarts") if is_actor else ("", "max_retries")
        lines.append(f"  perhaps   {who}the kernel's OOM killer, or somebody's kill -9; see {option}=")
    return "\n".join(lines)


def _task_error(failure: Failure) -> MinirayError:
    cause = deserialize_exception(failure.error)
    text = _text(failure, f"{failure.task}() raised {failure.message}")
    if isinstance(cause, SubstituteError) and cause.reason:
        text += f"\n  arrived   as its text, as it cannot be sent back: {cause.reason}; the rest is in cause.attributes"
    if failure.traceback:
        text += "\n\n" + failure.traceback.rstrip()
    return TaskError.of(text, cause)


def _plain(kind: type[MinirayError], what: str) -> Callable[[Failure], MinirayError]:
    def make(failure: Failure) -> MinirayError:
        session = session_with("num_cpus=, num_gpus=, resources=")
        text = _text(failure, what.format(task=failure.task, message=failure.message, session=session))
        if failure.error and failure.traceback:
            text += "\n\n" + failure.traceback.rstrip()
        return kind(text)

    return make


_RAISE: dict[FailureKind, Callable[[Failure], MinirayError]] = {
    FailureKind.TASK_ERROR: _task_error,
    FailureKind.WORKER_CRASHED: _plain(WorkerCrashedError, "{task} was lost: {message}"),
    FailureKind.ACTOR_DIED: _plain(ActorDiedError, "{task} failed, for its actor is dead: {message}"),
    FailureKind.ACTOR_UNAVAILABLE: _plain(ActorUnavailableError, "{task} may have run, or not: {message}"),
    FailureKind.CANCELLED: _plain(TaskCancelledError, "{task} was cancelled"),
    FailureKind.OWNER_DIED: _plain(OwnerDiedError, "{message}"),
    FailureKind.OBJECT_LOST: _plain(ObjectLostError, "{message}"),
    FailureKind.STORE_FULL: _plain(ObjectStoreFullError, "no room for the result of {task}: {message}"),
    FailureKind.UNSERIALIZABLE: _plain(ResultSerializationError, "{task} has run, but {message}"),
    FailureKind.INFEASIBLE: _plain(InfeasibleError, "{task} can never run: {message}; see {session}"),
    FailureKind.SESSION_ENDED: _plain(SessionError, "{message}"),
}
