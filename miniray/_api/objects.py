"""`get`, `put`, `transfer`, `wait`, `cancel`, `kill`: values behind refs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from miniray._api.actor import ActorHandle
from miniray._api.object_ref import ObjectRef
from miniray._api.options import check_bools
from miniray._api.raising import raise_failure
from miniray._api.submit import call_site, cannot_be_sent
from miniray._runtime.context import current
from miniray._runtime.process import Process
from miniray._runtime.signals import unbroken
from miniray._serialization.strikes import raised_by_handler
from miniray._serialization.values import SerializationError, Serialized, deserialize, serialize
from miniray._serialization.snapshots import Snapshots as Snapshots  # public, as it is
from miniray.core.ids import ObjectId, ProcessId, return_id
from miniray.core.owner.events import CancelRequested, KillRequested, ValueOffered, ValuePut
from miniray.core.task_spec import ActorAt, Failed, Inline, Value
from miniray.errors import ActorDiedError, GetTimeoutError, ResultSerializationError

T = TypeVar("T")

_ENDLESS_SECONDS = 2_000_000.0  # 23 days; the system's polls take no more than 24 (a timeout of `inf` is usual)


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None, writable: bool = False) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None, writable: bool = False) -> list[T]: ...
def get(refs: Any, *, timeout: float | None = None, writable: bool = False) -> Any:
    """The value of a ref, or the list of values of a list of refs; blocks until they are ready.

    Large values are read-only views of shared memory, which they keep alive; with `writable` they are private
    copy-on-write views. Inside a task the CPU is given back while this blocks.

    Raises:
        TypeError: not an ObjectRef, nor a list or tuple of them; or `writable` is not a bool.
        GetTimeoutError: not all were ready after `timeout` seconds; nothing is lost.
        TaskError: the task raised; the error is also an instance of the exception's own class.
        WorkerCrashedError, ActorDiedError, TaskCancelledError, ObjectLostError, OwnerDiedError, ObjectStoreFullError:
            there is no value, and why.
    """
    process = current()
    if timeout is not None:
        timeout = _checked_timeout(timeout)
    if writable is not False and writable is not True:
        check_bools("get", writable=writable)
    if type(refs) is ObjectRef:
        value = process.values.get(refs._id)
        if value is None:
            _await_all(process, [refs], timeout)
            value = process.values.get(refs._id)
        if type(value) is Inline and not value.contains:
            try:
                return deserialize(value.data, None, writable)  # by far the most frequent: small, no refs inside
            except Exception as error:
                if raised_by_handler(error):
                    raise
                raise _unreadable(refs, error) from error
        if process.elsewhere:
            _bring_here(process, [refs], timeout)
        return _value(process, refs, writable)
    if not isinstance(refs, list | tuple):
        raise TypeError(f"get takes an ObjectRef or a list of them, not {_shown(refs)}")
    _check_refs("get", refs)
    values = process.values
    missing = [ref for ref in refs if ref._id not in values]
    if missing:
        _await_all(process, missing, timeout)
    if process.elsewhere:
        _bring_here(process, refs, timeout)
    return [_value(process, ref, writable) for ref in refs]


def _await_all(process: Process, refs: list[ObjectRef[Any]], timeout: float | None) -> None:
    for ref in refs:
        ref.check_session(process)
    ids = [refs[0]._id] if len(refs) == 1 else list(dict.fromkeys([ref._id for ref in refs]))
    if not process.await_ready(ids, len(ids), timeout):
        pending = [ref for ref in refs if ref._id not in process.values]
        if pending:
            first = f"{pending[0]!r}" + (f" and {len(pending) - 1} more" if len(pending) > 1 else "")
            raise GetTimeoutError(f"not ready after {timeout:g} s: {first}")


def _bring_here(process: Process, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> None:
    """Wait for copies of what lies on other nodes."""
    values, elsewhere = process.values, process.elsewhere
    far = list(dict.fromkeys([ref._id for ref in refs if ref._id not in values or ref._id in elsewhere]))
    if far and not process.bring_here(far, timeout):
        raise GetTimeoutError(f"not here after {timeout:g} s: {len(far)} values that lie on other nodes")


def _readable(process: Process, ref: ObjectRef[Any]) -> Value:
    """The value, on this node. It may have been lost since it was waited for, with its node, and be made again."""
    while not process.is_here(ref._id):
        process.bring_here([ref._id])
    return process.elsewhere.get(ref._id) or process.values[ref._id]


def _value(process: Process, ref: ObjectRef[T], writable: bool) -> T:
    value = process.values.get(ref._id)
    if value is None or process.elsewhere:
        value = _readable(process, ref)
    if isinstance(value, Failed):
        raise_failure(value.failure)
    assert not isinstance(value, ActorAt)
    try:
        loaded: T = process.load(ref._id, value, writable=writable)
    except Exception as error:
        if raised_by_handler(error):
            raise
        raise _unreadable(ref, error) from error
    return loaded


def _unreadable(ref: ObjectRef[Any], error: Exception) -> ResultSerializationError:
    return ResultSerializationError(f"{ref!r} cannot be unpickled here: {type(error).__name__}: {error}")


def put(value: T, *, owner: ActorHandle | None = None) -> ObjectRef[T]:
    """Store a value, and return a ref to it. Large ones are copied into shared memory once, and read from there.

    With `owner` the value belongs to that actor, and lives as long as the actor's process does (and as somebody holds
    it), also when this process has ended. That waits for the actor to have started, not for its calls.

    Raises:
        SerializationError: it cannot be pickled; the message has the path to the culprit.
        ObjectStoreFullError: the arena has no room for it.
        TypeError: it is an ObjectRef already (a common slip); or `owner` is not an actor's handle.
        ActorDiedError: `owner` is dead. When an argument of its constructor has failed, that failure instead.
    """
    if type(value) is ObjectRef:
        raise TypeError("put takes a value, not an ObjectRef: pass the ref on as it is, or put a list that holds it")
    process = current()
    try:
        serialized = serialize(value, is_kept=True)
    except SerializationError as error:
        raise cannot_be_sent("put", error) from error.cause
    if owner is None or (address := _address("put", process, owner)) == process.me:
        return _put(process, serialized, call_site(2))
    offered = _offer(process, address, lambda given: process.store_value(serialized, given), call_site(2))
    return _adopted(process, owner, offered)


@unbroken
def _put(process: Process, serialized: Serialized, site: str) -> ObjectRef[Any]:
    object_id = return_id(process.next_task_id())
    process.post(ValuePut(object_id, process.store_value(serialized, object_id), site))
    return ObjectRef(object_id, process)


def transfer(ref: ObjectRef[T], *, owner: ActorHandle, timeout: float | None = None) -> ObjectRef[T]:
    """A new ref to the same value, which belongs to that actor from now on, as if it had been `put` with this owner.

    Waits until the value is ready. Its bytes are copied, not unpickled.

    Raises:
        TypeError: not an ObjectRef; or `owner` is not an actor's handle.
        GetTimeoutError: not ready after `timeout` seconds.
        ActorDiedError: `owner` is dead. When an argument of its constructor has failed, that failure instead.
        TaskError, WorkerCrashedError, ...: as `get` does, when there is no value.
    """
    if type(ref) is not ObjectRef:
        raise TypeError(f"transfer takes an ObjectRef, not {_shown(ref)}")
    process = current()
    timeout = _checked_timeout(timeout)
    address = _address("transfer", process, owner)
    if ref._id not in process.values:
        _await_all(process, [ref], timeout)
    _bring_here(process, [ref], timeout)
    value = _readable(process, ref)
    if isinstance(value, Failed):
        raise_failure(value.failure)
    assert not isinstance(value, ActorAt)
    if ref._id[:8] == address:
        return ref
    offered = _offer(process, address, lambda given: process.copy_value(value, given), call_site(2))
    return _adopted(process, owner, offered)


def _address(word: str, process: Process, owner: ActorHandle) -> ProcessId:
    """Where the actor lives."""
    if not isinstance(owner, ActorHandle):
        raise TypeError(f"{word}: owner must be an actor's handle, not {_shown(owner)}")
    creation = owner._creation
    while (value := process.values.get(creation._id)) is None:  # not there yet, or being restarted
        _await_all(process, [creation], None)
    if isinstance(value, Failed):
        raise_failure(value.failure)
    assert isinstance(value, ActorAt)
    return value.process


@unbroken
def _offer(process: Process, owner: ProcessId, store: Callable[[ObjectId], Value], site: str) -> ObjectRef[Any]:
    object_id = process.next_given_id(owner)
    process.being_given[object_id] = None
    try:
        process.post(ValueOffered(object_id, store(object_id), site))
    finally:
        del process.being_given[object_id]
    return ObjectRef(object_id, process)


def _adopted(process: Process, owner: ActorHandle, ref: ObjectRef[T]) -> ObjectRef[T]:
    _await_all(process, [ref], None)
    if isinstance(process.values[ref._id], Failed):
        raise ActorDiedError(f"{owner!r} died before it had taken the value that was to belong to it")
    return ref


def wait(
    refs: Sequence[ObjectRef[T]], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Block until `num_returns` of `refs` are ready, or `timeout` seconds have passed: (ready, not ready).

    Both lists keep the order of `refs`; the first has at most `num_returns` entries. A ref whose task failed is ready:
    `get` raises its error. Inside a task the CPU is given back while this blocks. `fetch_local` changes nothing on
    one host.

    Raises:
        TypeError: `refs` is no list of ObjectRefs (a single ref is a common mistake), or `fetch_local` is not a bool.
        ValueError: no refs, a ref twice, or `num_returns` not within 1..len(refs).
    """
    if isinstance(refs, ObjectRef):
        raise TypeError("wait takes a list of ObjectRefs, not a single one: wait([ref])")
    if not isinstance(refs, list | tuple):
        raise TypeError(f"wait takes a list of ObjectRefs, not {_shown(refs)}")
    if not refs:
        raise ValueError("wait was given no refs: there is nothing to wait for")
    _check_refs("wait", refs)
    check_bools("wait", fetch_local=fetch_local)
    timeout = _checked_timeout(timeout)
    ids = [ref._id for ref in refs]
    if len(set(ids)) != len(ids):
        raise ValueError("wait was given the same ref twice")
    if isinstance(num_returns, bool) or not isinstance(num_returns, int) or not 1 <= num_returns <= len(refs):
        raise ValueError(f"num_returns must be within 1..{len(refs)} (the number of refs), not {num_returns!r}")
    process = current()
    for ref in refs:
        ref.check_session(process)
    clock = process.loop.clock
    deadline = None if timeout is None else clock() + timeout
    in_time = True
    while True:
        here = {object_id for object_id in ids if object_id in process.values}
        if len(here) >= num_returns or not in_time:
            break
        missing = [object_id for object_id in ids if object_id not in here]
        left = None if deadline is None else max(deadline - clock(), 0.0)
        in_time = process.await_ready(missing, num_returns - len(here), left)  # what was ready may be lost meanwhile
    ready: list[ObjectRef[T]] = []
    rest: list[ObjectRef[T]] = []
    for ref in refs:
        (ready if ref._id in here and len(ready) < num_returns else rest).append(ref)
    return ready, rest


def cancel(ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True, running: bool = True) -> None:
    """Cancel the task whose result `ref` is; `get` then raises `TaskCancelledError`. No effect on one that has ended.

    A running task gets KeyboardInterrupt, and one whose arguments are being read does not begin; with `force` its
    process is ended. `recursive` cancels what it has submitted.
    With `running=False` a task that has started is left alone: it is cancelled, or has its result, and never both.

    Raises:
        TypeError: not an ObjectRef; or `force`, `recursive` or `running` is not a bool.
    """
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"cancel takes an ObjectRef, not {_shown(ref)}; an actor is ended by kill(handle)")
    check_bools("cancel", force=force, recursive=recursive, running=running)
    current().post(CancelRequested(ref._id, force, recursive, running))


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor's process at once. Calls that it had not answered raise `ActorDiedError`.

    Args:
        no_restart: False: it is as if the process had died by itself, so that a restart that is left is used
            (`max_restarts`) and calls may be made again (`max_task_retries`).

    Raises:
        TypeError: not an actor's handle; or `no_restart` is not a bool.
    """
    if not isinstance(actor, ActorHandle):
        raise TypeError(f"kill takes an actor's handle, not {_shown(actor)}; a task is ended by cancel(ref)")
    check_bools("kill", no_restart=no_restart)
    current().post(KillRequested(actor._creation._id, not no_restart))


def _check_refs(word: str, refs: Sequence[Any]) -> None:
    for index, ref in enumerate(refs):
        if type(ref) is not ObjectRef:
            raise TypeError(f"{word}: entry {index} is not an ObjectRef but {_shown(ref)}")


def _checked_timeout(timeout: Any) -> float | None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0):
        raise ValueError(f"timeout must be a number of seconds, zero or more, or None, not {timeout!r}")
    return None if timeout is None or timeout > _ENDLESS_SECONDS else timeout


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"
