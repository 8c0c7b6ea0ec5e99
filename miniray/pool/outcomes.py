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
    ObjectLostError,
    ObjectStoreFullError,
    ResultSerializationError,
    SerializationError,
    SessionError,
    TaskError,
    WorkerCrashedError,
    WorkerInitializerError,
)
from miniray.pool.groups import Group
from miniray.pool_worker.board import Posted
from miniray.pool_worker.worker import Raised, RaisedEarly

MaybeEncodingError: Any = vars(_standard)["MaybeEncodingError"]  # not declared by its stubs
RemoteTraceback: Any = vars(_standard)["RemoteTraceback"]

NOT_SENT: Sequence[Any] = (None,)
NOT_MEASURED = -1.0
LET_GO = "<let go before it failed>"
UNREAD = "<it cannot be read here>"
DIED = "the worker died before its result was read"

Read = tuple[int, Sequence[Any], dict[int, BaseException], float]


class NotTogetherError(Exception):
    """The results of a group cannot travel in one answer, for this `problem`: they have to be separated."""

    def __init__(self, problem: MinirayError | SystemExit) -> None:
        super().__init__(problem)
        problem.__traceback__ = None  # whose frames hold the group, which will hold this
        self.problem = problem


def read(group: Group) -> Read:
    """How many calls have ended, their results, their exceptions by position, and the seconds that they took.

    Raises:
        NotTogetherError: see there; `group.ref` is to be what separates them.
        TaskCancelledError: the group was taken back before it began.
        ActorDiedError, SessionError: the worker is gone, or the session.
        MinirayError: the worker could not read a group of several calls.
    """
    if group.problem is not None:
        return _read_separated(group, group.problem)
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
        raise NotTogetherError(error) from None
    if len(answer) == 2:
        result, seconds = answer
        return 1, [result], {}, seconds
    done, results, packed, raised, seconds, _ = answer
    errors = {index: _exception(group, one) for index, one in raised.items()} if raised else {}
    for index in packed:
        if index >= group.delivered and index not in errors:
            try:
                results[index] = pickle.loads(results[index])
            except (Exception, SystemExit) as error:
                if miniray.raised_by_handler(error):
                    raise
                results[index], errors[index] = None, _unreadable(error)
    return done, results, errors, seconds


def read_posted(group: Group, posted: Posted) -> tuple[list[Any], dict[int, BaseException]]:
    """Results and exceptions that stood in the letterbox, each by itself."""
    results: list[Any] = []
    errors: dict[int, BaseException] = {}
    for data in posted.pickles():
        found: Any = None
        try:
            found = pickle.loads(data)
        except (Exception, SystemExit) as error:
            if miniray.raised_by_handler(error):
                raise
            errors[len(results)] = _unreadable(error)
        if type(found) is RaisedEarly:
            errors[len(results)] = _exception(group, found.raised)
            found = None
        results.append(found)
    return results, errors


def unsent(error: MinirayError) -> BaseException:
    """Arguments that could not be pickled: what pickle raised, with the path to the culprit as a note."""
    cause = error.__cause__
    if cause is None:
        return error
    cause.add_note(str(error))
    cause.__cause__ = cause.__context__ = None  # their frames hold the worker's handle: it would not end
    return cause.with_traceback(None)


def _exception(group: Group, raised: Raised) -> BaseException:
    text, dumped, refs, name = raised
    try:
        error: BaseException = pickle.loads(dumped) if refs is None else miniray.unpack_error(dumped)
    except (Exception, SystemExit) as problem:
        if miniray.raised_by_handler(problem):
            raise
        return _with_traceback(MaybeEncodingError(problem, name), text)
    error = _harmless(group, error if type(error).__name__ == name else _untravelled(error))
    return _with_traceback(error, text)


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


def _read_separated(group: Group, problem: MinirayError | SystemExit) -> Read:
    """Those results that can travel, do so one by one."""
    answer = miniray.get(group.ref)
    if answer is None:
        return 1, NOT_SENT, {0: _encoding_error(problem, LET_GO)}, NOT_MEASURED
    separate, raised = answer
    errors = {index: _exception(group, one) for index, one in raised.items()}
    results: list[Any] = []
    for index, (ref, (packed, _), shown) in enumerate(separate):
        results.append(None)
        if index in errors:
            continue
        if ref is None:
            errors[index] = _encoding_error(miniray.unpack_error(packed), shown)
            continue
        try:
            (results[index],) = miniray.get(ref, writable=True)
        except (MinirayError, SystemExit) as error:
            if miniray.raised_by_handler(error) or isinstance(error, SessionError):
                raise
            is_lost = isinstance(error, ObjectLostError)
            errors[index] = WorkerCrashedError(DIED) if is_lost else _encoding_error(error, UNREAD)
    return len(results), results, errors, NOT_MEASURED


def _unreadable(error: BaseException) -> BaseException:
    """A result that was pickled, and cannot be unpickled here."""
    problem = ResultSerializationError(f"a result cannot be unpickled: {error!r}")
    problem.__cause__ = error
    return _encoding_error(problem, UNREAD)


def _encoding_error(problem: BaseException, shown: str) -> BaseException:
    """As the standard pool tells it; the path to the culprit comes as a note."""
    if isinstance(problem, ObjectStoreFullError):
        return problem
    error: BaseException = MaybeEncodingError(problem.__cause__ or problem, None)
    error.__cause__ = problem
    details: Any = error
    details.value = shown
    error.args = details.exc, details.value
    path = str(problem).partition("\n")[0].partition("put: value -> [0]")[2]
    if path:
        error.add_note("the result" + path)
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
