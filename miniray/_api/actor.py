"""Actors: a class whose instance lives in a process of its own; its methods are called through a handle.

A handle is a ref to the actor's creation object and is counted like any other: when the last one is gone, calls that
were made are answered, and the process ends.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from miniray._api import options as _options
from miniray._api.object_ref import ObjectRef
from miniray._api.submit import FunctionHandle, PreparedCall, submit, submit_inherited
from miniray._runtime.context import current
from miniray._runtime.forks import Forks
from miniray._runtime.process import Process
from miniray._runtime.signals import unbroken
from miniray._runtime.surroundings import Carried
from miniray._serialization.pickles import register_reference_type
from miniray.core.ids import ObjectId, show
from miniray.errors import SessionError


if TYPE_CHECKING:
    from miniray._serialization.forked import Inherited


class ActorClass:
    """A class made remote: `Class.remote(...)` starts a process with an instance, and returns an `ActorHandle`."""

    def __init__(self, cls: type[Any], given: dict[str, Any], methods: tuple[str, ...] | None = None) -> None:
        self._class = cls
        self._options = _options.check("actor", cls.__qualname__, _options.ACTOR_DEFAULTS, given)
        self._handle = FunctionHandle()
        self._methods = _methods_of(cls) if methods is None else methods
        functools.update_wrapper(self, cls, updated=())

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Start an actor. An error of the constructor is raised by the first `get` of a call.

        Raises:
            SerializationError: the class or an argument cannot be pickled.
        """
        process = current()
        if self._options.task.fork and not process.may_fork:
            raise SessionError(
                f"{self._class.__qualname__}: start='fork' is for actors of the driver: they inherit what it has, and "
                "a task has a process of its own; without it the actor is sent what it needs"
            )
        inherited: Inherited | None = None
        if self._options.task.fork and process.forks is not None:
            creation, inherited = self._fork(process, process.forks, args, kwargs)
        else:  # in a simulation forks are sent what they would inherit
            function = self._handle.export(process, self._class)
            changes = None if process.surroundings is None else process.surroundings.changes()
            if changes is not None:
                args = (Carried(changes), *args)
            creation = submit(process, function, args, kwargs, self._options.task, creates_actor=True)
        handle = ActorHandle(creation, self._class.__qualname__, self._methods, self._options.task_retries)
        handle._inherited = inherited
        return handle

    def _fork(
        self, process: Process, forks: Forks, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[ObjectRef[Any], Inherited | None]:
        task = process.next_task_id()
        with forks.creating(task, (self._class, args, kwargs)) as await_process:
            ref: ObjectRef[Any] = submit_inherited(process, task, self._options.task)
            return ref, await_process()

    def options(self, **given: Any) -> ActorClass:
        """The same class with other options, for actors made through what this returns.

        Args:
            start: "zygote", or "fork": the actor's process is forked from the driver's own, at this line, as
                `multiprocessing` does it on Linux. It inherits everything that the driver has, also what cannot be
                pickled; the class and the arguments are inherited, too (a ref stays a ref). For the driver's own
                actors only; when it is restarted it inherits anew.
        """
        changed = ActorClass(self._class, {**self._options.given, **given}, self._methods)
        changed._handle = self._handle
        return changed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._class.__qualname__
        raise TypeError(f"{name} is an actor class: call {name}.remote(...), or {name}.__wrapped__(...) for here")

    def __reduce__(self) -> Any:
        """With its methods: a class that names itself is still empty when this is unpickled."""
        return ActorClass, (self._class, self._options.given, self._methods)

    def __repr__(self) -> str:
        return f"ActorClass({self._class.__qualname__})"


def _methods_of(cls: type[Any]) -> tuple[str, ...]:
    """Without those that run later: the actor itself may call them, and so its class may have them."""
    members = inspect.getmembers(cls, lambda member: callable(member) and not _options.runs_later(member))
    return tuple(name for name, _ in members if not name.startswith("__") or name == "__call__")


class ActorHandle:
    """Calls of one actor: `handle.method.remote(...)`. Those of one caller start in the order of their making."""

    def __init__(self, creation: ObjectRef[Any], class_name: str, methods: tuple[str, ...], task_retries: int) -> None:
        self._creation = creation
        self._task_retries = task_retries
        self._inherited: Inherited | None = None  # what a process that was forked from this one need not be sent
        self._class_name = class_name
        self._methods = methods

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("_") and name not in self.__dict__.get("_methods", ()):
            raise AttributeError(name)
        if name not in self._methods:
            raise AttributeError(
                f"actor {self._class_name} has no method {name!r} to call from outside (its state is reached through "
                "methods only, and what a generator or async method returns cannot travel); "
                f"there are: {', '.join(sorted(self._methods))}"
            )
        method = ActorMethod(self, name, {"max_task_retries": self._task_retries})
        self.__dict__[name] = method
        return method

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(f"{name!r} cannot be set: an actor's state is changed by its methods only")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        return self._creation == other._creation if isinstance(other, ActorHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._creation)

    def __dir__(self) -> list[str]:
        return sorted(self._methods)

    def __repr__(self) -> str:
        return f"ActorHandle({self._class_name}, {show(self._creation._id)})"

    def __reduce__(self) -> Any:
        return ActorHandle, (self._creation, self._class_name, self._methods, self._task_retries)


class ActorMethod:
    """A method of one actor."""

    __slots__ = ("_actor", "_function", "_handle", "_inherited", "_name", "_options")

    def __init__(self, handle: ActorHandle, name: str, given: dict[str, Any]) -> None:
        full_name = f"{handle._class_name}.{name}"
        self._options = _options.check("method", full_name, _options.METHOD_DEFAULTS, given)
        self._name = name
        self._function: Callable[..., Any] | None = None
        self._handle: FunctionHandle | None = None
        self._inherited = handle._inherited
        self._actor = handle._creation  # not the handle: it keeps its methods, and a cycle would outlive the last use

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call it: one `ObjectRef`, or a list of them with `num_returns` other than 1.

        Raises:
            SerializationError: an argument cannot be pickled.
        """
        options = self._options
        process = current()
        if self._actor._process is not process:
            self._actor.check_session(process)
        inherited = self._inherited
        function = _NO_FUNCTION
        if self._handle is not None and self._function is not None:
            function = self._handle.export(process, self._function, inherited)
        if inherited is None:
            return submit(
                process, function, args, kwargs, options.task, options.num_returns, self._actor._id, self._name
            )
        from miniray._serialization.namespaces import pickling_for

        with pickling_for(inherited):
            return submit(
                process, function, args, kwargs, options.task, options.num_returns, self._actor._id, self._name
            )

    def prepare(self, *args: Any, **kwargs: Any) -> PreparedCall:
        """Pickle a call, which is made later, by `remote()` of what this returns: that runs no code of the arguments,
        so it can be done under a lock.

        Raises:
            SerializationError: an argument cannot be pickled.
        """
        process, inherited = current(), self._inherited
        self._actor.check_session(process)
        function = _NO_FUNCTION
        if self._handle is not None and self._function is not None:
            function = self._handle.export(process, self._function, inherited)
        given = process, function, args, kwargs, self._options.task, self._options.num_returns, self._actor, self._name
        if inherited is None:
            return PreparedCall(*given)
        from miniray._serialization.namespaces import pickling_for

        with pickling_for(inherited):
            return PreparedCall(*given)

    def options(self, **given: Any) -> ActorMethod:
        """The same method with other options.

        Args:
            max_task_retries: how often the call may be made again, when the actor has died before it answered and is
                restarted, and by retry_exceptions; together. -1: no limit. At first the actor's.
            num_returns, retry_exceptions (needs max_task_retries), writable_arguments, name: as those of functions.
            function: what the method gets as its first argument. Unlike an argument it is sent once to the actor's
                process, as remote functions are, and again only when it or something that it names has changed.
        """
        changed: ActorMethod = ActorMethod.__new__(ActorMethod)
        changed._name, changed._actor, changed._inherited = self._name, self._actor, self._inherited
        merged = {**self._options.given, **given}
        changed._options = _options.check("method", self._options.task.name, _options.METHOD_DEFAULTS, merged)
        changed._function = function = merged.get("function")
        if function is not None and not callable(function):
            raise TypeError(f"{self._name}: function must be callable, not {function!r}")
        if function is self._function:
            changed._handle = self._handle
        else:
            changed._handle = None if function is None else FunctionHandle()
        return changed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self._name} is a method of an actor: call {self._name}.remote(...)")


_NO_FUNCTION: Any = b""


def _dump(handle: ActorHandle) -> tuple[ObjectId, tuple[str, tuple[str, ...], int]]:
    return handle._creation._id, (handle._class_name, handle._methods, handle._task_retries)


@unbroken
def _load(object_id: ObjectId, extra: tuple[str, tuple[str, ...], int]) -> ActorHandle:
    process = current()
    ref: ObjectRef[Any] = ObjectRef(object_id, process)
    process.adopt(ref, object_id)
    return ActorHandle(ref, *extra)


register_reference_type(ActorHandle, _dump, _load)
