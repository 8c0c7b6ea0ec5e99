"""Running one task: bytes into arguments, the user's code, and its result or error into values.

Everything here runs in the worker's main thread, outside of the state lock: it is users' code, or unpickles it.
`Executor` also keeps what tasks need: definitions of functions, and the instance of an actor.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from miniray._runtime.config import INLINE_BYTES
from miniray._runtime.output import Speaker
from miniray._runtime.process import Process
from miniray._runtime.surroundings import ARRIVED
from miniray._runtime.waiters import Waiter
from miniray._serialization.exceptions import CHAIN_LIMIT, serialize_exception
from miniray._serialization.values import SerializationError, deserialize, fill_slots, serialize, serialize_plain
from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import PROCESS_ID_BYTES, FunctionId, ObjectId, ProcessId, return_id, same_node
from miniray.core.owner.events import RefsDropped, RefsHeld
from miniray.core.record import replace
from miniray.core.task_spec import ActorAt, Failed, Inline, PushedTask, Stored, Value
from miniray.core.worker.events import InstallFunction, InterruptTask, RunTask, TaskFinished
from miniray.errors import ObjectStoreFullError


class Executor:
    """The main thread of one worker.

    Args:
        record_start: writes (lease, sequence) into the status word, which outlives this process.
        clock: measures how long tasks take, in seconds.
    """

    def __init__(
        self, process: Process, record_start: Callable[[int, int], None], clock: Callable[[], float] = perf_counter
    ) -> None:
        self._process = process
        self._record_start = record_start
        self._clock = clock
        self._waiting: deque[RunTask] = deque()
        self._waiter = Waiter()
        self._functions: dict[tuple[bytes, FunctionId], Callable[..., Any]] = {}
        self._instance: Any = None
        self._interrupted: bytes | None = None  # the task that shall be struck, or not begin
        self._retired = False  # the instance has been, or is about to be, let go
        self._exiting = False
        self._main = threading.get_ident()
        self.speaker = Speaker()
        self._definitions: dict[tuple[bytes, FunctionId], Value] = {}
        self._far: dict[tuple[bytes, FunctionId], ObjectId] = {}  # names of those on other nodes

    # ---- effects, under the lock ----

    def run(self, effect: RunTask) -> None:
        self._waiting.append(effect)
        self._waiter.notify()

    def install(self, effect: InstallFunction) -> None:
        key = effect.owner, effect.function
        self._definitions[key] = effect.value
        if self._is_far(effect.value) and effect.object_id is not None:
            self._far[key] = effect.object_id

    def drop(self, owner: ProcessId, function: FunctionId) -> None:
        self._definitions.pop((owner, function), None)
        self._far.pop((owner, function), None)
        self._functions.pop((owner, function), None)

    def interrupt(self, effect: InterruptTask) -> None:
        """Only this very task: the handler compares again, in the thread that runs it. While its function and its
        arguments are read it is not struck: they import modules, and one that is torn may never be imported again."""
        self._interrupted = effect.task_id  # say, then look; the main thread does it the other way round
        if self._process.running == effect.task_id:
            self._strike()

    def _strike(self) -> None:
        signal.pthread_kill(self._main, signal.SIGINT)

    def forget_instance(self) -> None:
        self._retired = True
        self._waiter.notify()

    def exit(self) -> None:
        self._exiting = True
        self._waiter.notify()

    # ---- the main thread ----

    def install_handler(self) -> None:
        signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if self._interrupted is not None and self._interrupted == self._process.running:
            self._interrupted = None
            raise KeyboardInterrupt

    def _look_for_interrupt(self) -> None:
        """The task at hand can be struck from here on; the order may have come before."""
        if self._interrupted is not None:
            self._on_interrupt(signal.SIGINT, None)

    def serve(self) -> None:
        """Run tasks until the process may exit."""
        process = self._process
        while not self._exiting and process.ended is None:
            if not self._waiting:
                if self._retired and self._instance is not None:
                    self._instance = None  # here, since users' `__del__`s may run
                    process.post()
                waiter = self._waiter = Waiter()
                if not (self._waiting or self._exiting or self._retired and self._instance is not None):
                    process.drives.wait(waiter)
                continue
            effect = self._waiting.popleft()
            event, keep = self.execute(effect)
            if process.left_behind():
                process.post()  # drops first: what a task retains is counted when it ends
            process.post(event)
            del keep  # refs in the result live until the machine has pinned them

    def execute(self, effect: RunTask) -> tuple[TaskFinished, Any]:
        """The task's outcome, and what has to live until that is known."""
        task = effect.task
        start = self._clock()
        retry = False
        try:
            if task.values or self._far:
                brought = self._bring_here(task)
                if isinstance(brought, Failed):
                    return TaskFinished(task.task_id, task.attempt, (brought,) * task.num_returns, 0, False), None
                task, start = brought, self._clock()
            self.begin(effect)
            result = self._call(task)
            values = self._pack(task, result)
        except BaseException as error:
            failure, retry = self._failure(task, error)
            values = (Failed(failure),) * task.num_returns
            result = _without_frames(error) if failure.contains else None
        if self.speaker.unfinished:
            self.speaker.finish()
        microseconds = int((self._clock() - start) * 1e6)
        return TaskFinished(task.task_id, task.attempt, values, microseconds, retry), result

    def begin(self, effect: RunTask) -> None:
        """From here on it has started: what dies with this process spends a retry."""
        self._record_start(effect.lease, effect.task.sequence)

    def _bring_here(self, task: PushedTask) -> PushedTask | Failed:
        """Wait for copies of what lies on other nodes, as a `get` would: the CPU is lent meanwhile, and what is lost
        may be made again on it. The task has not started yet. A value that cannot be had fails it."""
        far = [slot for slot, value in zip(task.slots, task.values, strict=True) if self._is_far(value)]
        process, key = self._process, (task.task_id[:PROCESS_ID_BYTES], task.function)
        definition = self._far.get(key)
        if not far and definition is None:
            return task
        process.running = task.task_id
        try:
            self._look_for_interrupt()
            if definition is not None:
                read = self._bring_definition(definition)
                if isinstance(read, Failed):
                    return read
                if self._far.pop(key, None) is not None:
                    self._definitions[key] = read
            process.bring_here(list(dict.fromkeys(far)))
        finally:
            process.running = None
        values = list(task.values)
        for index, slot in enumerate(task.slots):
            if slot in far:
                value = process.elsewhere.get(slot) or process.values[slot]
                if isinstance(value, Failed):
                    return value
                values[index] = value
        return replace(task, values=tuple(values))

    def _is_far(self, value: Value) -> bool:
        return type(value) is Stored and not same_node(value.place.holder, self._process.me)

    def _bring_definition(self, name: ObjectId) -> Inline | Failed:
        """A function that lies on another node: this process holds it while its bytes are read."""
        process = self._process
        assert process.store is not None
        process.post(RefsHeld([name]))
        try:
            process.bring_here([name])
            value = process.values[name]
            if isinstance(value, Failed):
                return value
            assert isinstance(value, Stored)
            return Inline(bytes(process.store.view(value.place)), value.contains)
        finally:
            process.post(RefsDropped([name]))

    def _call(self, task: PushedTask) -> Any:
        # Before the arguments: it may bring places where their modules are found. An actor's bring its own.
        function = self._function(task) if task.function and not task.creates_actor else None
        if task.values or task.refs:
            args, kwargs = self._arguments(task)
        elif task.payload:
            args, kwargs = deserialize(task.payload, writable=task.writable_arguments)
        else:
            args, kwargs = self._inherited(task)
        if task.method:
            target = getattr(self._instance, task.method)
            if function is not None:
                args = (function, *args)
        else:
            if task.creates_actor and args and args[0] is ARRIVED:
                args = args[1:]
            target = self._function(task) if function is None else function
            self.speaker.begins(target, task.raw_output)
        self._process.running = task.task_id
        try:
            self._look_for_interrupt()
            result = target(*args, **kwargs)
            if task.creates_actor:
                self._instance = result
                return None
            return result
        finally:
            self._process.running = None

    def _inherited(self, task: PushedTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of an actor that nothing was sent of: this process was forked from the one that had them."""
        inheritance = self._process.inheritance
        assert task.creates_actor and inheritance is not None
        cls, args, kwargs = inheritance.creations[task.task_id]
        inheritance.creations.clear()  # it is the only one that will live here
        self._functions[task.task_id[:PROCESS_ID_BYTES], task.function] = cls
        return args, kwargs

    def _arguments(self, task: PushedTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        process = self._process
        writable = task.writable_arguments
        if not task.values:
            args, kwargs = process.load_bytes(task.payload, writable=writable)
            return args, kwargs
        values = []
        for slot, value in zip(task.slots, task.values, strict=True):
            assert not isinstance(value, Failed | ActorAt)
            values.append(process.load(slot, value, writable=writable))
        args, kwargs = values.pop() if task.stored_payload else process.load_bytes(task.payload, writable=writable)
        return fill_slots(args, kwargs, values)

    def _function(self, task: PushedTask) -> Callable[..., Any]:
        key = task.task_id[:PROCESS_ID_BYTES], task.function
        found = self._functions.get(key)
        if found is None:
            value = self._definitions[key]
            if isinstance(value, Stored):
                assert self._process.store is not None
                data = bytes(self._process.store.view(value.place))  # functions may change what they captured
            else:
                data = value.data  # type: ignore[union-attr]
            found = self._functions[key] = self._process.load_function(data)
        return found

    # ---- results ----

    def _pack(self, task: PushedTask, result: Any) -> tuple[Value, ...]:
        if task.num_returns == 1:
            return (self._value(task, 0, result),)
        if task.num_returns == 0:
            return ()
        try:
            parts = list(result)
        except TypeError as error:
            raise TypeError(f"num_returns={task.num_returns}, but it returned a {type(result).__name__}") from error
        if len(parts) != task.num_returns:
            raise ValueError(f"num_returns={task.num_returns}, but it returned {len(parts)} values")
        return tuple(self._value(task, index, part) for index, part in enumerate(parts))

    def _value(self, task: PushedTask, index: int, result: Any) -> Value:
        try:
            small = serialize_plain(result)
            if small is not None and len(small) < INLINE_BYTES:
                return Inline(small)
            serialized = serialize(result)
            if not (serialized.buffers or serialized.refs) and len(serialized.data) < INLINE_BYTES:
                return Inline(serialized.data)
            return self._process.store_value(serialized, return_id(task.task_id, index))
        except SerializationError as error:
            raise _ResultError(str(error)) from error
        except ObjectStoreFullError as error:
            raise _NoRoomForResultError(str(error)) from error

    def _failure(self, task: PushedTask, error: BaseException) -> tuple[Failure, bool]:
        """What the error means, and whether the caller wants another try."""
        if isinstance(error, KeyboardInterrupt) and not task.creates_actor:
            return Failure(FailureKind.CANCELLED, "", "the task was cancelled while it ran"), False
        if isinstance(error, _ResultError):
            assert isinstance(error.__cause__, SerializationError)
            data, _, refs = serialize_exception(_without_frames(error.__cause__.cause))
            text = f"the result cannot be sent back: {error}"
            return Failure(FailureKind.UNSERIALIZABLE, "", text, data, contains=refs), False
        if isinstance(error, _NoRoomForResultError):
            return Failure(FailureKind.STORE_FULL, "", str(error)), False
        data, text, refs = serialize_exception(_without_own_frames(error))
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        me = self._process.me
        failure = Failure(FailureKind.TASK_ERROR, "", message, data, text, process=me, contains=refs)
        return failure, _matches(task, error)


class _ResultError(Exception):
    pass


class _NoRoomForResultError(Exception):
    """Not one that the task's own `get` or `put` has raised: that is an error of its code, with its traceback."""


def _without_own_frames(error: BaseException) -> BaseException:
    """The traceback begins at the user's code."""
    here = os.path.dirname(__file__)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(here) and trace.tb_next is not None:
        trace = trace.tb_next
    return error.with_traceback(trace)


def _without_frames(error: BaseException) -> BaseException:
    """The error keeps the refs that it holds, and no frame with whatever else."""
    chain: BaseException | None = error
    for _ in range(CHAIN_LIMIT):
        if chain is None:
            break
        chain.__traceback__ = None
        chain = chain.__cause__ or chain.__context__
    return error


def _matches(task: PushedTask, error: BaseException) -> bool:
    if not task.retry_on or not isinstance(error, Exception):
        return False
    return task.retry_on == b"*" or isinstance(error, pickle.loads(task.retry_on))
