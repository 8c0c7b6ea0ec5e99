"""From a worker's answer to results and exceptions, as `multiprocessing.Pool` gives them."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Sequence
from multiprocessing import pool as _standard
from typing import Any

import miniray
from miniray.errors import (
    ActorDiedError,
    MinirayError,
    ObjectLostError,
    ObjectStoreFullError,
    ResultSerializationError,
    SerializationError,
    SessionError,
    TaskError,
    WorkerCrashedError,
    WorkerInitializerError,
)
from miniray.pool.crew import CrewMember
from miniray.pool.groups import Group
from miniray.pool_worker.board import BOX_BYTES
from miniray.pool_worker.worker import Raised, RaisedEarly

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
    except TaskError as error:  # first: it may be an instance of any of the others, too
        if len(group.items) > 1:
            raise
        unread = _harmless(group, error.cause or error, has_run=False)
        return 1, NOT_SENT, {0: _with_traceback(unread, error.message)}, NOT_MEASURED
    except (ResultSerializationError, ObjectStoreFullError, SystemExit) as error:  # the last: by users' __setstate__
        if miniray.raised_by_handler(error):
            raise
        return _pick_all(group, member, error)
    if len(answer) == 2:
        result, seconds = answer
        return 1, [result], {}, seconds
    done, results, packed, raised, seconds, _ = answer
    errors = {index: _exception(group, member, index, one) for index, one in raised.items()} if raised else {}
    for index in packed:
        if index not in errors:
            try:
                results[index] = pickle.loads(results[index])
            except (Exception, SystemExit) as error:
                if miniray.raised_by_handler(error):
                    raise
                results[index] = _pick(group, member, index, errors)
    return done, results, errors, seconds


def read_posted(group: Group, start: int, content: bytes) -> tuple[int, list[Any], dict[int, BaseException]]:
    """What stood in the letterbox of the outcomes of a group, from a byte on: where it ends, results, exceptions. What
    cannot be read like this, and all behind it, comes again."""
    results: list[Any] = []
    errors: dict[int, BaseException] = {}
    file = io.BytesIO(content)
    while file.tell() < len(content):
        try:
            found = pickle.load(file)
        except (Exception, SystemExit) as error:
            if miniray.raised_by_handler(error):
                raise
            return BOX_BYTES, results, errors
        if type(found) is RaisedEarly:
            errors[len(results)] = _exception(group, group.member, group.delivered + len(results), found.raised)
            found = None
        results.append(found)
    return start + len(content), results, errors


def unsent(error: MinirayError) -> BaseException:
    """Arguments that could not be pickled: what pickle raised, with the path to the culprit as a note."""
    cause = error.__cause__
    if cause is None:
        return error
    cause.add_note(str(error))
    cause.__cause__ = cause.__context__ = None  # their frames hold the worker's handle: it would not end
    return cause.with_traceback(None)


def _exception(group: Group, member: CrewMember, index: int, raised: Raised) -> BaseException:
    text, dumped, name = raised
    if dumped is not None:
        try:
            return _with_traceback(_harmless(group, pickle.loads(dumped)), text)
        except Exception as problem:
            if miniray.raised_by_handler(problem):
                raise
            return _with_traceback(MaybeEncodingError(problem, name), text)
    try:
        miniray.get(member.actor.pick.remote(group.number, index))
    except TaskError as error:
        cause = error.cause
        if cause is not None and type(cause).__name__ == name:
            return _with_traceback(_harmless(group, cause), text)
        return _with_traceback(_untravelled(cause or error), text)
    except ActorDiedError:
        return _with_traceback(WorkerCrashedError(f"the worker died before its exception ({name}) was read"), text)
    except MinirayError as error:
        return _with_traceback(MaybeEncodingError(error, name), text)
    raise AssertionError("a call that raised has a result")


def _harmless(group: Group, error: BaseException, *, has_run: bool = True) -> BaseException:
    """SystemExit, KeyboardInterrupt: what a call raises ends no driver, unless the source says so; nor does what comes
    of unpickling."""
    if isinstance(error, Exception) or (has_run and group.source.raises_exits):
        return error
    text = f": {error}" if str(error) else ""
    return TaskError(f"{group.callee.name} raised {type(error).__name__}{text}")


def _with_traceback(error: BaseException, text: str) -> BaseException:
    error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return error


def _pick_all(group: Group, member: CrewMember, problem: MinirayError | SystemExit) -> Read:
    """The results could not travel together: those that can, do so one by one."""
    if len(group.items) == 1:
        return 1, NOT_SENT, {0: _encoding_error(group, member, 0, problem)}, NOT_MEASURED
    errors: dict[int, BaseException] = {}
    count = miniray.get(member.actor.count_kept.remote(group.number))
    return count, [_pick(group, member, index, errors) for index in range(count)], errors, NOT_MEASURED


def _pick(group: Group, member: CrewMember, index: int, errors: dict[int, BaseException]) -> Any:
    """One result, by itself; None, and one error more, if there is none."""
    try:
        return miniray.get(member.actor.pick.remote(group.number, index), writable=True)
    except TaskError as error:
        errors[index] = _with_traceback(_harmless(group, error.cause or error), error.message)
    except (ResultSerializationError, ObjectStoreFullError, SystemExit) as error:
        if miniray.raised_by_handler(error):
            raise
        errors[index] = _encoding_error(group, member, index, error)
    return None


def _encoding_error(
    group: Group, member: CrewMember, index: int, problem: MinirayError | SystemExit
) -> BaseException:
    """As the standard pool tells it; the path to the culprit comes as a note."""
    if isinstance(problem, ObjectStoreFullError):
        return problem
    error: BaseException = MaybeEncodingError(problem.__cause__ or problem, None)
    error.__cause__ = problem
    details: Any = error
    details.value = miniray.get(member.actor.describe.remote(group.number, index))
    error.args = details.exc, details.value
    path = str(problem).partition("\n")[0].partition(": value")[2]
    error.add_note("the result" + re.sub(r"^ -> \[1\] -> \[\d+\]", "", path))  # of the lists that it travelled in
    return error


def _untravelled(told: BaseException) -> BaseException:
    """Of an exception that could not be pickled itself: its name, its text, and what the reason is."""
    reason = getattr(told, "reason", "") or "this exception cannot be pickled"
    error: BaseException = MaybeEncodingError(SerializationError(reason), None)
    details: Any = error
    details.value = str(told)
    error.args = details.exc, details.value
    return error


def reason(error: ActorDiedError) -> str:
    """How the worker's process ended."""
    first = str(error).partition("\n")[0]
    return first.rpartition("is gone: ")[2].partition(";")[0]


def start_error(error: ActorDiedError) -> WorkerInitializerError:
    """A worker that never got through its initializer."""
    cause = error.__cause__
    if cause is None:
        return WorkerInitializerError(f"workers die before the initializer has ended ({reason(error)})")
    made = WorkerInitializerError(f"the pool's initializer raised {type(cause).__name__}: {cause}")
    made.__cause__ = cause
    return made


def session_error(error: SessionError | ObjectLostError) -> SessionError:
    """Workers live as long as their session; a later one, where nothing of an earlier is known, has none of them."""
    kind = type(error) if isinstance(error, SessionError) else SessionError
    return kind(f"its workers' session has ended: make a new Pool or Executor ({error})")
