"""Submitting: what `f.remote(...)`, `Class.remote(...)` and `actor.method.remote(...)` have in common."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from miniray._api.object_ref import ObjectRef
from miniray._runtime.config import INLINE_BYTES
from miniray._runtime.context import current
from miniray._runtime.process import Finalised, Process
from miniray._runtime.signals import unbroken
from miniray._serialization.values import SerializationError, Serialized, Slot, serialize_call
from miniray.core.ids import FunctionId, ObjectId, TaskId, return_id
from miniray.core.owner.events import RefsDropped, Submitted, ValuePut
from miniray.core.record import replace
from miniray.core.task_spec import TaskOptions, TaskSpec
from miniray.errors import SerializationError as PublicSerializationError

if TYPE_CHECKING:
    from miniray._serialization.forked import Inherited

_sites: dict[tuple[CodeType, int], str] = {}
_MAX_SITES = 10_000
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")


def call_site(depth: int) -> str:
    """`file.py:31 in main` of the caller's caller; the text is made once for each place."""
    frame = sys._getframe(depth)
    key = frame.f_code, frame.f_lineno
    text = _sites.get(key)
    if text is None:
        if len(_sites) >= _MAX_SITES:
            _sites.clear()
        text = _sites[key] = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    return text


def cannot_be_sent(word: str, error: SerializationError) -> PublicSerializationError:
    """What the user is told, and the line of his that began it: `word` was called there, by his code or by a pool."""
    text = f"{word}: {error}" if word else str(error)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is not None and frame.f_code.co_filename != threading.__file__:  # else it is a thread of miniray's own
        text += f"\n  called    at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    return PublicSerializationError(text)


class FunctionHandle:
    """What one process knows of a function: under which id tasks name it there."""

    __slots__ = ("_function_id", "_key", "_process")

    @unbroken
    def __init__(self) -> None:
        self._key = 0  # of the function, in the cache of definitions
        self._process: Process | None = None
        self._function_id: FunctionId | None = None

    def export(
        self, process: Process, function: Callable[..., Any], inherited: Inherited | None = None
    ) -> FunctionId:
        """The id of `function` as it is now; announced when it is another one than at the last call. `inherited`: what
        its receiver was forked with."""
        try:
            exporter = process.exporter if inherited is None else process.exporter_for(inherited)
            function_id, definition = exporter.export(function)
        except SerializationError as error:
            raise cannot_be_sent("", error) from error.cause
        if function_id != self._function_id or process is not self._process:
            self._announce(process, function_id, definition, id(function))
        return function_id

    @unbroken
    def _announce(self, process: Process, function_id: FunctionId, definition: Serialized, key: int) -> None:
        process.announce(function_id, definition)
        self._drop()
        self._process, self._function_id, self._key = process, function_id, key

    def __repr__(self) -> str:
        return "the handle of a remote function"

    def _drop(self) -> None:
        if self._process is not None:
            self._process.functions_dropped.append((self._function_id, self._key))

    @unbroken
    def __del__(self) -> None:
        process = self._process
        if process is not None and process.collecting:
            process.finalised.append(Finalised(self, process.functions_dropped, (self._function_id, self._key)))
        else:
            self._drop()


def submit(
    process: Process,
    function: FunctionId,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: TaskOptions,
    num_returns: int = 1,
    actor: ObjectId | None = None,
    method: str = "",
    creates_actor: bool = False,
) -> Any:
    """Make the task and its refs: one ref, a list of `num_returns`, or None for none.

    Raises:
        SerializationError: an argument cannot be pickled; the message has the path to the culprit.
    """
    site = call_site(3)
    slots: tuple[ObjectId, ...] = ()
    tops: list[ObjectRef[Any]] = []
    if ObjectRef in map(type, args) or (kwargs and ObjectRef in map(type, kwargs.values())):
        args, kwargs, tops = _take_slots(process, args, kwargs)
        slots = tuple([ref._id for ref in tops])
    try:
        payload = serialize_call(args, kwargs)
    except SerializationError as error:
        raise cannot_be_sent(options.name, error) from error.cause
    if type(payload) is bytes:
        spec = TaskSpec(
            process.next_task_id(), function, payload, options, num_returns, slots, (), False, actor, method,
            creates_actor, site, process.running,
        )  # fmt: skip
        return _submit(process, spec)
    assert isinstance(payload, Serialized)
    spec = TaskSpec(
        process.next_task_id(), function, b"", options, num_returns, slots, (), False, actor, method, creates_actor,
        site, process.running,
    )  # fmt: skip
    return _submit_serialized(process, spec, payload)


class PreparedCall:
    """A call of an actor's method that is pickled, and not made yet."""

    __slots__ = (
        "_actor", "_args", "_function", "_method", "_num_returns", "_options", "_payload", "_process", "_site", "_tops",
    )  # fmt: skip

    def __init__(
        self, process: Process, function: FunctionId, args: tuple[Any, ...], kwargs: dict[str, Any],
        options: TaskOptions, num_returns: int, actor: ObjectRef[Any], method: str,
    ) -> None:  # fmt: skip
        self._process, self._function, self._options, self._num_returns = process, function, options, num_returns
        self._actor, self._method = actor, method
        self._site = call_site(3)
        self._tops: list[ObjectRef[Any]] = []
        if ObjectRef in map(type, args) or (kwargs and ObjectRef in map(type, kwargs.values())):
            args, kwargs, self._tops = _take_slots(process, args, kwargs)
        self._args = args, kwargs  # the refs within them, too, live until it is made
        try:
            self._payload = serialize_call(args, kwargs)
        except SerializationError as error:
            raise cannot_be_sent(options.name, error) from error.cause

    def remote(self) -> Any:
        """Make it, once: as the method's `remote` would have done. Nothing of the user's runs here.

        Raises:
            SessionError: the session has ended meanwhile.
        """
        process, payload = self._process, self._payload
        self._actor.check_session(current())
        small = payload if isinstance(payload, bytes) else b""
        spec = TaskSpec(
            process.next_task_id(), self._function, small, self._options, self._num_returns,
            tuple([ref._id for ref in self._tops]), (), False, self._actor._id, self._method, False, self._site,
            process.running,
        )  # fmt: skip
        return _submit(process, spec) if isinstance(payload, bytes) else _submit_serialized(process, spec, payload)


def submit_inherited(process: Process, task: TaskId, options: TaskOptions) -> Any:
    """The creation of an actor of which nothing is sent: its process has its class and arguments."""
    site = call_site(4)
    return _submit(
        process, TaskSpec(task, FunctionId(b""), b"", options, creates_actor=True, site=site, parent=process.running)
    )


@unbroken
def _submit(process: Process, spec: TaskSpec) -> Any:
    process.post(Submitted(spec))
    return _refs_of(process, spec)


def _refs_of(process: Process, spec: TaskSpec) -> Any:
    if spec.num_returns == 1:
        return ObjectRef(return_id(spec.task_id), process)
    made: list[ObjectRef[Any]] = [ObjectRef(return_id(spec.task_id, n), process) for n in range(spec.num_returns)]
    return made or None


@unbroken
def _submit_serialized(process: Process, spec: TaskSpec, payload: Serialized) -> Any:
    """A large payload lies in the store, and is the last slot."""
    if payload.size_bytes >= INLINE_BYTES and process.store is not None:
        held = return_id(process.next_task_id())
        put = ValuePut(held, process.store_value(payload, held), spec.site)
        spec = replace(spec, slots=(*spec.slots, held), stored_payload=True)
        process.post(put, Submitted(spec), RefsDropped([held]))
    else:
        process.post(Submitted(replace(spec, payload=payload.to_bytes(), refs=payload.refs)))
    return _refs_of(process, spec)


def _take_slots(
    process: Process, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[ObjectRef[Any]]]:
    """Replace top-level refs by slots."""
    refs: list[ObjectRef[Any]] = []

    def slot(value: Any) -> Any:
        if type(value) is not ObjectRef:
            return value
        value.check_session(process)
        refs.append(value)
        return Slot(len(refs) - 1)

    return tuple([slot(value) for value in args]), {name: slot(value) for name, value in kwargs.items()}, refs
