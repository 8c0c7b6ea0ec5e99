"""Errors of an executor: miniray's own, which are the standard library's as well.

A program that was written for `ProcessPoolExecutor` has `except BrokenProcessPool`, and makes a new executor there: it
goes on to work, though this executor needs no replacement.
"""

from __future__ import annotations

from concurrent.futures import process as _standard
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from miniray.errors import MinirayError, WorkerCrashedError, WorkerInitializerError
from miniray.pool.outcomes import MaybeEncodingError, RemoteTraceback

_RemoteTraceback: Any = vars(_standard)["_RemoteTraceback"]  # not declared by its stubs

UNUSABLE = "A child process terminated abruptly, the process pool is not usable anymore"
ABRUPT = "A process in the process pool was terminated abruptly while the future was running or pending."


class CallLostError(WorkerCrashedError, BrokenProcessPool):
    """The process that ran the call died. The executor goes on with another."""


class InitializerError(WorkerInitializerError, BrokenProcessPool):
    """The executor's initializer raised, or ended its process. The executor can run nothing."""


_STANDARD: dict[type[BaseException], type[MinirayError]] = {
    WorkerCrashedError: CallLostError,
    WorkerInitializerError: InitializerError,
}


def as_standard(error: BaseException) -> BaseException:
    """The same error, as `ProcessPoolExecutor` would raise it."""
    cause: Any = error.__cause__
    if type(cause) is RemoteTraceback:
        cause = _RemoteTraceback(cause.tb)
    elif type(error) is MaybeEncodingError and isinstance(cause, MinirayError):
        return _of_pickling(error, cause)
    kind = _STANDARD.get(type(error))
    if kind is not None:
        error = kind(*error.args)
    error.__cause__ = cause
    return error


def _of_pickling(error: BaseException, problem: MinirayError) -> BaseException:
    """What pickle said of a result, with the path to the culprit as a note."""
    found = problem.__cause__
    if not isinstance(found, Exception):
        return problem
    for note in getattr(error, "__notes__", ()):
        found.add_note(note)
    return found
