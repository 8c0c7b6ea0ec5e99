"""From a worker's answer to results and exceptions, as `multiprocessing.Pool` gives them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from multiprocessing import pool as _standard
from typing import Any

import miniray
from miniray.errors import (
    ActorDiedError,
    MinirayError,
    ObjectStoreFullError,
    ResultSerializationError,
    SerializationError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from miniray.pool.crew import CrewMember
from miniray.pool.groups import Group
from miniray.pool.worker import Raised

MaybeEncodingError: Any = vars(_standard)["MaybeEncodingError"]  # not declared by its stubs
RemoteTraceback: Any = vars(_standard)["RemoteTraceback"]

NOT_SENT: Sequence[Any] = (None,)
NOT_MEASURED = -1.0

Read = tuple[int, Sequence[Any], dict[int, BaseException], float]


def read(group: Group, member: CrewMember) -> Read:
    """How many calls have ended, their results, their exceptions by position, and the seconds that they took.

    Raises:
        TaskCancelledError: the group was taken back before it began.
        ActorDiedError, SessionError: the worker is gone, or the session.
        MinirayError: the worker could not read a group of several calls.
    """
    try:
        answer = miniray.get(group.ref, writable=True)
    except (ResultSerializationError, ObjectStoreFullError) as error:
        return _pick_all(group, member, error)
    except (TaskCancelledError, ActorDiedError):
        raise
    except TaskError as error:
        if len(group.items) > 1:
            raise
        return 1, NOT_SENT, {0: _with_traceback(error.cause or error, error.message)}, NOT_MEASURED
    if len(answer) == 2:
        result, seconds = answer
        return 1, (result,), {}, seconds
    done, results, raised, seconds = answer
    if not raised:
        return done, results, {}, seconds
    errors = {index: _exception(group, member, index, one) for index, one in raised.items()}
    return done, results, errors, seconds


def unsent(error: SerializationError) -> BaseException:
    """Arguments that could not be pickled: what pickle raised, with the path to the culprit as a note."""
    cause = error.__cause__
    if cause is None:
        return error
    cause.add_note(str(error))
    cause.__cause__ = cause.__context__ = None  # their frames hold the worker's handle: it would not end
    return cause.with_traceback(None)


def _exception(group: Group, member: CrewMember, index: int, raised: Raised) -> BaseException:
    text, dumped, name = raised
    if dumped:
        try:
            return _with_traceback(pickle.loads(dumped), text)
        except Exception as problem:
            return _with_traceback(MaybeEncodingError(problem, name), text)
    if dumped is not None:  # SystemExit and its like end no driver
        crashed = WorkerCrashedError(f"{group.callee.name} ended its process: it raised {name}")
        return _with_traceback(crashed, text)
    try:
        miniray.get(member.actor.pick.remote(group.number, index))
    except ActorDiedError:
        return _with_traceback(WorkerCrashedError(f"the worker died before its exception ({name}) was read"), text)
    except TaskError as error:
        cause = error.cause
        if cause is not None and type(cause).__name__ == name:
            return _with_traceback(cause, text)
        return _with_traceback(MaybeEncodingError(cause, name), text)
    except MinirayError as error:
        return _with_traceback(MaybeEncodingError(error, name), text)
    raise AssertionError("a call that raised has a result")


def _with_traceback(error: BaseException, text: str) -> BaseException:
    error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return error


def _pick_all(group: Group, member: CrewMember, problem: MinirayError) -> Read:
    """The results could not travel together: those that can, do so one by one."""
    if len(group.items) == 1:
        return 1, NOT_SENT, {0: _encoding_error(problem, "the result")}, NOT_MEASURED
    results: list[Any] = []
    errors: dict[int, BaseException] = {}
    count = miniray.get(member.actor.count_kept.remote(group.number))
    for index in range(count):
        try:
            results.append(miniray.get(member.actor.pick.remote(group.number, index), writable=True))
            continue
        except ActorDiedError:
            raise
        except (ResultSerializationError, ObjectStoreFullError) as error:
            errors[index] = _encoding_error(error, miniray.get(member.actor.describe.remote(group.number, index)))
        except TaskError as error:
            errors[index] = _with_traceback(error.cause or error, error.message)
        results.append(None)
    return count, results, errors, NOT_MEASURED


def _encoding_error(problem: MinirayError, shown: str) -> BaseException:
    if isinstance(problem, ObjectStoreFullError):
        return problem
    error: BaseException = MaybeEncodingError(str(problem), None)
    vars(error)["value"] = shown
    error.args = str(problem), shown
    return error
