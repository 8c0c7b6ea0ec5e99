"""One process of a session, as the API and the executor see it: ids, refs, values, waits.

It joins the owner role's machine to threads, memory and bytes. Nothing is decided here: each verb makes bytes of
values, posts events, waits for `Ready`, and makes values of bytes. The simulator has the same class, with another
way to wait.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from miniray._runtime.config import INLINE_BYTES
from miniray._runtime.context import session_with
from miniray._runtime.driving import ReentrantWaitError
from miniray._runtime.functions import FunctionExporter, FunctionImporter
from miniray._runtime.loop import Loop
from miniray._runtime.signals import unbroken
from miniray._runtime.surroundings import Surroundings
from miniray._runtime.waiters import HereWaiter, OneWaiter, Waiter, Waiters
from miniray._serialization.values import Serialized, deserialize
from miniray._store.client import StoreClient
from miniray.core.ids import FunctionId, ObjectId, ProcessId, TaskId, given_id, return_id, show, task_id
from miniray.core.machine import Awaited, AwaitEnded
from miniray.core.owner.events import (
    CopyWanted,
    ExtentNeeded,
    FunctionDropped,
    FunctionExported,
    RefsDropped,
    RefsHeld,
    ViewHeld,
    ViewsDropped,
)
from miniray.core.owner.owner import Owner
from miniray.core.record import Event
from miniray.core.task_spec import Inline, Place, Stored, Value
from miniray.errors import ForkedDriverError, ObjectStoreFullError, SessionError

if TYPE_CHECKING:
    from miniray._runtime.forks import Forks
    from miniray._runtime.spawn import Inheritance
    from miniray._serialization.forked import Inherited

MAX_EXPORTERS = 16  # for workers that were forked when `__main__` had other bindings


class Drives(Protocol):
    """How events are stepped and threads wait: `Driving`, or the simulator's."""

    asleep: bool

    def post(self, *events: Event) -> None: ...
    def locked(self, action: Callable[[], Any]) -> Any: ...
    def wait(self, waiter: Waiter, timeout: float | None = None) -> bool: ...
    def rouse(self) -> None: ...
    def stop(self) -> None: ...


class Finalised(NamedTuple):
    """What the collector has finalised: a ref, a view, the handle of a function."""

    one: object
    left_in: deque[Any]
    name: Any  # under which its end is left there


def _references_of_one_alone() -> int:
    """What Python counts for an object that a single variable refers to; the question itself counts, too."""
    one = object()
    return sys.getrefcount(one)


_ALONE = _references_of_one_alone()


class Ended(NamedTuple):
    """Why a session is over, as what its users are told."""

    error: type[SessionError]
    reason: str


class Pin:
    """At the bottom of every view of a stored object: the object is held until the last view is gone."""

    __slots__ = ("_object_id", "_process")

    def __init__(self, process: Process, object_id: ObjectId) -> None:
        self._process = process
        self._object_id = object_id

    @unbroken
    def __del__(self) -> None:
        process = self._process
        if process.collecting:
            process.finalised.append(Finalised(self, process.views_dropped, self._object_id))
            return
        process.views_dropped.append(self._object_id)
        if process.drives.asleep:
            process.drives.rouse()

    def __repr__(self) -> str:
        return f"a view of object {show(self._object_id)}"


class Process:
    drives: Drives
    loop: Loop
    post: Callable[..., None]  # of `drives`: steps events now

    def __init__(
        self, me: ProcessId, owner: Owner, store: StoreClient | None, surroundings: Surroundings | None = None
    ) -> None:
        self.me = me
        self.pid = os.getpid()
        self.owner = owner
        self.values = owner.values
        self.elsewhere = owner.elsewhere  # own values that lie on another node
        self.store = store
        self.surroundings = surroundings  # those with which its workers begin; None: simulated
        self.exporter = FunctionExporter(surroundings=surroundings)
        self._exporters_for_forks: OrderedDict[int, FunctionExporter] = OrderedDict()  # by what these have inherited
        self.importer = FunctionImporter()
        self.waiters = Waiters(owner.values)
        self.dropped: deque[ObjectId] = deque()
        self.views_dropped: deque[ObjectId] = deque()
        self.functions_dropped: deque[tuple[Any, int]] = deque()  # with their keys in the exporter's cache
        self.collecting = False  # the garbage collector runs
        self.finalised: deque[Finalised] = deque()  # by it, and not looked at yet
        self.ended: Ended | None = None  # nothing can be done any more
        self.exiting = False  # the interpreter ends, and the session with it
        self.running: TaskId | None = None  # the task whose code the main thread runs (in a worker)
        self.tells_waits = False  # in a worker: that a thread waits, and goes on
        self.may_fork = False  # its actors may live in forks of it
        self.forks: Forks | None = None  # who makes these; nobody in a simulation
        self.calls_back: Callable[[Callable[[], None]], None] | None = None  # in a simulation, in place of a thread
        self.inheritance: Inheritance | None = None  # of a process that was forked from the driver
        self._counter = itertools.count(1)
        self._given = itertools.count(1)
        self.being_given: dict[ObjectId, None] = {}  # ids of values that their owners have not been offered yet
        self._unpickled = threading.local()
        self._extent_lock = threading.Lock()
        self._extent_asker = 0  # the thread that holds it
        self._extent_waiter: Waiter | None = None
        self._extent_denied: tuple[int, int, int] | None = None

    # ---- ids and events ----

    def next_task_id(self) -> TaskId:
        return task_id(self.me, next(self._counter))

    def next_given_id(self, owner: ProcessId) -> ObjectId:
        return given_id(owner, self.me, next(self._given))

    def run_by(self, drives: Drives, loop: Loop) -> None:
        """Who steps this process's events from now on."""
        self.drives, self.loop = drives, loop
        self.post = drives.post

    def collect(self) -> list[Event]:
        """What finalisers have left behind, as events. Under the lock: two that collect take from each other."""
        events: list[Event] = []
        refs, views, functions = self.dropped, self.views_dropped, self.functions_dropped
        if refs:
            events.append(RefsDropped([refs.popleft() for _ in range(len(refs))]))
        if views:
            events.append(ViewsDropped([views.popleft() for _ in range(len(views))]))
        while functions:
            function_id, key = functions.popleft()
            self.exporter.forget(key)  # else what the function has captured lives on, refs too
            for exporter in [*self._exporters_for_forks.values()]:  # another thread may add one
                exporter.forget(key)
            events.append(FunctionDropped(function_id))
        return events

    def left_behind(self) -> bool:
        return bool(self.dropped or self.views_dropped or self.functions_dropped)

    @unbroken
    def while_collecting(self, phase: str, _: Any) -> None:
        """For `gc.callbacks`: what the collector finalises lets go of nothing before all finalisers are done.

        It calls the `__del__` of a ref before that of an object in the same cycle which still uses it, or brings it
        back. Such a ref will not be finalised again, so nobody could tell when it goes: what it stands for is kept.
        """
        self.collecting = phase == "start"
        if self.collecting:
            return
        while self.finalised:
            one, left_in, name = self.finalised.popleft()
            if sys.getrefcount(one) <= _ALONE:
                left_in.append(name)
            else:
                text = "was brought back by a finaliser: what it stands for is kept until the session ends"
                warnings.warn(f"{one!r} {text}", UserWarning, stacklevel=1)
        if self.drives.asleep and self.left_behind():
            self.drives.rouse()

    # ---- the end ----

    def end(self, error: type[SessionError], reason: str) -> None:
        """The session is over for this process: every wait ends, and every further word raises this."""
        if self.ended is None:
            self.ended = Ended(error, reason)
            self.drives.locked(self._end_waits)

    def _end_waits(self) -> None:
        self.waiters.end_all()
        if self._extent_waiter is not None:
            self._extent_waiter.notify()

    def raise_ended(self) -> None:
        if self.pid != os.getpid():
            raise ForkedDriverError(
                f"process {os.getpid()} was forked from process {self.pid}, whose miniray session it cannot use; "
                "call miniray.init() here for a session of its own"
            )
        if self.exiting and threading.current_thread().daemon:
            threading.Event().wait()  # it dies with the interpreter, in a moment: no traceback of it
        if self.ended is not None:
            raise self.ended.error(self.ended.reason)

    # ---- waiting ----

    def await_ready(self, object_ids: Sequence[ObjectId], needed: int, timeout: float | None) -> bool:
        """Block until `needed` of these (distinct) objects have a value; False when `timeout` seconds have passed."""
        if len(object_ids) == 1:
            one = OneWaiter(self.waiters, object_ids[0])
            done = one.is_ready or self._wait(one, object_ids, timeout)
        else:
            waiter = Waiter(object_ids, needed)
            with Registered(self, waiter, object_ids):
                done = waiter.is_ready or self._wait(waiter, object_ids, timeout)
        if self.ended is not None:
            self.raise_ended()
        return done

    def is_here(self, object_id: ObjectId) -> bool:
        """Whether it has a value that can be read on this node; or why there is none."""
        return object_id in self.values and self.elsewhere.get(object_id, object_id) is not None

    def bring_here(self, object_ids: Sequence[ObjectId], timeout: float | None = None) -> bool:
        """Block until these (distinct) objects, which are held, are here; False when `timeout` seconds have passed."""
        clock = self.loop.clock
        deadline = None if timeout is None else clock() + timeout
        missing = [one for one in object_ids if one not in self.values or one in self.elsewhere]  # also in vain
        while missing:
            self.post(CopyWanted(missing))
            waiter = HereWaiter(self.elsewhere, missing)
            with Registered(self, waiter, missing):
                left = None if deadline is None else max(deadline - clock(), 0.0)
                done = waiter.is_ready or self._wait(waiter, missing, left)
            if self.ended is not None:
                self.raise_ended()
            if not done:
                return False
            missing = [one for one in object_ids if not self.is_here(one)]  # it may have been lost again
        return True

    def _wait(self, waiter: Waiter, object_ids: Sequence[ObjectId], timeout: float | None) -> bool:
        told: list[None] = []
        task = self.running
        try:
            if self._must_tell(object_ids):
                self._tell_wait(object_ids, told)
            return self.drives.wait(waiter, timeout)
        finally:
            if told and self.tells_waits and self.running == task:  # else the end of its task has ended its waits
                self._tell_wait_ended()

    @unbroken
    def _tell_wait(self, object_ids: Sequence[ObjectId], told: list[None]) -> None:
        self.post(Awaited([object_id for object_id in object_ids if object_id not in self.values]))
        told.append(None)

    @unbroken
    def _tell_wait_ended(self) -> None:
        self.post(AwaitEnded())

    def _must_tell(self, object_ids: Sequence[ObjectId]) -> bool:
        """A wait is news when something is held back, when another owner must be asked, or when a CPU is lent."""
        if self.tells_waits or self.owner.holds_back():
            return True
        me = self.me
        for object_id in object_ids:
            if object_id[:8] != me:
                return True
        return False

    # ---- values into bytes ----

    def store_value(self, serialized: Serialized, object_id: ObjectId | None = None) -> Value:
        """The value inline, or sealed in this process's extents under `object_id` when it is large."""
        if object_id is None or serialized.size_bytes < INLINE_BYTES or self.store is None:
            return Inline(serialized.to_bytes(), serialized.refs)
        return Stored(self._store(object_id, serialized.stored_size_bytes, serialized.pieces()), serialized.refs)

    def copy_value(self, value: Inline | Stored, object_id: ObjectId) -> Value:
        """The same value under another id; not unpickled."""
        if isinstance(value, Inline):
            return value
        assert self.store is not None
        view = self.store.view(value.place)
        return Stored(self._store(object_id, len(view), [view]), value.contains)

    def _store(self, object_id: ObjectId, size: int, pieces: Sequence[bytes | memoryview]) -> Place:
        store = self.store
        assert store is not None
        place: Place | None = self.drives.locked(lambda: store.create(object_id, size))
        while place is None:
            self._get_extent(store.extent_size_for(size))
            place = self.drives.locked(lambda: store.create(object_id, size))
        at = 0
        parts: list[tuple[int, Any]] = []
        for piece in pieces:
            parts.append((at, piece))
            at += len(piece)
        store.write(place, parts)
        self.drives.locked(lambda: store.seal(object_id, place))
        return place

    def _get_extent(self, size_bytes: int) -> None:
        """Ask the node for a piece of the arena, and wait for it: until it answers, or is dead (`end` wakes the wait).

        Raises:
            ObjectStoreFullError: there is none, also after garbage was collected once.
            ReentrantWaitError: a finaliser that ran meanwhile, in this very thread, puts a large value itself.
        """
        if self._extent_asker == get_ident():
            raise ReentrantWaitError
        with self._extent_lock:
            self._extent_asker = get_ident()
            try:
                for attempt in range(2):
                    if self._ask_for_extent(size_bytes):
                        return
                    if attempt == 0:
                        gc.collect()  # cycles may hold refs and views
                        self.post()
            finally:
                self._extent_asker = 0
        wanted, free, capacity = self._extent_denied or (size_bytes, 0, 0)
        raise ObjectStoreFullError(
            f"the object store has no room for {wanted:,} bytes in one piece: {free:,} of {capacity:,} bytes are free, "
            "perhaps scattered. Drop refs and views that are no longer needed (Out[n] and tracebacks of a notebook "
            f"hold some), or begin with {session_with('object_store_memory=...')}"
        )

    def _ask_for_extent(self, size_bytes: int) -> bool:
        self._extent_denied = None
        waiter = self._extent_waiter = Waiter()
        self.post(ExtentNeeded(size_bytes))
        try:
            self.drives.wait(waiter)
        finally:
            self._extent_waiter = None
        if self.ended is not None:
            self.raise_ended()
        return self._extent_denied is None

    def extent_answered(self, denied: tuple[int, int, int] | None) -> None:
        self._extent_denied = denied
        if self._extent_waiter is not None:
            self._extent_waiter.notify()

    # ---- bytes into values ----

    def load(self, object_id: ObjectId, value: Inline | Stored, *, writable: bool = False) -> Any:
        """The value itself; large ones are views that hold the object. Runs users' code.

        The caller holds the ref, or the task whose argument it is."""
        if isinstance(value, Stored):
            with self._collecting_refs():
                return self._load_stored(object_id, value, writable)
        if not value.contains:
            return deserialize(value.data, None, writable)
        with self._collecting_refs():
            return deserialize(value.data, None, writable)

    def load_bytes(self, data: bytes, *, writable: bool = False) -> Any:
        """A payload: like an inline value without a name."""
        with self._collecting_refs():
            return deserialize(data, writable=writable)

    def load_function(self, data: bytes) -> Callable[..., Any]:
        with self._collecting_refs():
            return self.importer.load(data)

    def _load_stored(self, object_id: ObjectId, value: Stored, writable: bool) -> Any:
        assert self.store is not None
        place = value.place
        arena = self.store.arena
        pin = self._pin(object_id)
        if writable:
            private = arena.private_view(place.offset, place.size_bytes)
            if private is not None:
                private.pin = pin
                return deserialize(memoryview(private), private, writable=True)
        view = arena.view[place.offset : place.offset + place.size_bytes].toreadonly()
        return deserialize(view, pin, writable=writable)

    @unbroken
    def _pin(self, object_id: ObjectId) -> Pin:
        self.post(ViewHeld(object_id))
        return Pin(self, object_id)

    def _collecting_refs(self) -> _Unpickling:
        return _Unpickling(self, self._unpickled)

    def adopt(self, ref: Any, object_id: ObjectId) -> None:
        """A ref has been made by unpickling. It is kept alive until the machine has counted it."""
        found = getattr(self._unpickled, "refs", None)
        if found is None:  # somebody's own pickle.loads
            self.post(RefsHeld([object_id]))
        else:
            found.append((ref, object_id))

    # ---- functions ----

    def exporter_for(self, inherited: Inherited | None) -> FunctionExporter:
        """Who makes definitions for workers that have this already."""
        if inherited is None:
            return self.exporter
        found = self._exporters_for_forks.get(inherited.number)
        if found is None:
            found = FunctionExporter(inherited=inherited, surroundings=self.surroundings)
            self._exporters_for_forks[inherited.number] = found
            if len(self._exporters_for_forks) > MAX_EXPORTERS:
                self._exporters_for_forks.popitem(last=False)
        return found

    def announce(self, function_id: FunctionId, definition: Serialized) -> None:
        """Let the owner role have a definition that tasks are going to name; once for each handle."""
        if definition.size_bytes < INLINE_BYTES:
            self.post(FunctionExported(function_id, Inline(definition.to_bytes(), definition.refs)))
        else:
            object_id = return_id(self.next_task_id())
            self.post(FunctionExported(function_id, self.store_value(definition, object_id), object_id))


class Registered:
    """A waiter is in the table. Not `try`: a signal may strike between `finally` and what is called there."""

    def __init__(self, process: Process, waiter: Waiter, object_ids: Sequence[ObjectId]) -> None:
        self._process = process
        self._waiter = waiter
        self._object_ids = object_ids

    @unbroken
    def __enter__(self) -> None:
        process = self._process
        process.drives.locked(lambda: process.waiters.add(self._waiter, self._object_ids))

    @unbroken
    def __exit__(self, *_: object) -> None:
        process = self._process
        process.drives.locked(lambda: process.waiters.remove(self._waiter))


class _Unpickling:
    """Gathers the refs that are made while a value is unpickled, and has them counted before they can be dropped."""

    def __init__(self, process: Process, local: threading.local) -> None:
        self._process = process
        self._local = local

    @unbroken
    def __enter__(self) -> None:
        self._before = getattr(self._local, "refs", None)
        self._local.refs = []

    @unbroken
    def __exit__(self, *_: object) -> None:
        refs, self._local.refs = self._local.refs, self._before
        if refs:
            self._process.post(RefsHeld([object_id for _, object_id in refs]))
