"""`ObjectRef`: the handle of a value that is somewhere, or will be.

The object in hand is what counts: while one lives in this process, the value lives. `__del__` only appends to a deque
(it may run inside anything, and takes no lock); the loop turns the deque into one event.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from miniray._runtime import callbacks
from miniray._runtime.context import current
from miniray._runtime.process import Finalised, Process
from miniray._runtime.signals import unbroken
from miniray._serialization.pickles import register_reference_type
from miniray.core.ids import ObjectId, show
from miniray.core.owner.events import RefsHeld
from miniray.errors import ObjectLostError

T = TypeVar("T")


class ObjectRef(Generic[T]):
    """A future that can be passed on: to tasks and actors, inside of values, to `get`, `wait` and `await`.

    Two refs are equal if they name the same object. Pickled by anything but miniray (a file, a queue of one's own) the
    value is kept until the session ends, since nobody can know when the last copy is gone; a warning says so once. So
    is that of a ref which was garbage, and which a finaliser (`__del__`) has brought back.
    """

    __slots__ = ("__weakref__", "_id", "_process")

    def __init__(self, object_id: ObjectId, process: Process) -> None:
        self._id = object_id
        self._process = process

    @unbroken
    def __del__(self) -> None:
        process = self._process
        if process.collecting:
            process.finalised.append(Finalised(self, process.dropped, self._id))
            return
        process.dropped.append(self._id)
        if process.drives.asleep:
            process.drives.rouse()

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return self._id == other._id if isinstance(other, ObjectRef) else NotImplemented

    def __repr__(self) -> str:
        value = self._process.values.get(self._id)
        state = "pending" if value is None else {"F": "failed", "S": "stored"}.get(tag(value), "ready")
        return f"ObjectRef({show(self._id)}, {state})"

    def check_session(self, process: Process) -> None:
        """Raises ObjectLostError: the ref is of a session that has ended; nobody could ever make it ready.

        One that was inherited through a fork is held from here on."""
        if self._process is not process:
            inheritance = process.inheritance
            if inheritance is not None and self._process is inheritance.parent:
                self._hold_in(process)
                return
            raise ObjectLostError(f"{self!r} belongs to a miniray session that has ended, and its value with it")

    @unbroken
    def _hold_in(self, process: Process) -> None:
        process.post(RefsHeld([self._id]))
        self._process = process

    def hex(self) -> str:
        return self._id.hex()

    def future(self) -> Future[T]:
        """A `concurrent.futures.Future` of the value; its callbacks run in a thread of miniray's own."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        callbacks.fulfil(self._process, self._id, lambda: _get(self), future)
        return future

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # 20 ms, which no worker should spend that never awaits

        return asyncio.wrap_future(self.future()).__await__()

    def __reduce__(self) -> Any:
        """Only for pickles that miniray does not make."""
        self._process.post(RefsHeld([self._id]))  # held for good: nobody can confirm, nobody can drop
        warnings.warn(
            f"{self!r} was pickled outside of miniray: its value is kept until the session ends",
            UserWarning,
            stacklevel=2,
        )
        return _load, (self._id,)

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: Any) -> ObjectRef[T]:
        return self


def _get(ref: ObjectRef[Any]) -> Any:
    from miniray._api.objects import get  # which imports this file

    return get(ref)


def tag(value: Any) -> Any:
    return type(value).__struct_config__.tag


@unbroken
def _load(object_id: ObjectId) -> ObjectRef[Any]:
    process = current()
    ref: ObjectRef[Any] = ObjectRef(object_id, process)
    process.adopt(ref, object_id)
    return ref


def _dump(ref: ObjectRef[Any]) -> ObjectId:
    ref.check_session(current())
    return ref._id


register_reference_type(ObjectRef, _dump, _load)
