"""`remote`: functions and classes that run elsewhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from miniray._api import options as _options
from miniray._api.actor import ActorClass
from miniray._api.submit import FunctionHandle, submit
from miniray._runtime.context import current


class RemoteFunction:
    """A function whose calls run in other processes: `f.remote(...)` returns an `ObjectRef` at once."""

    def __init__(self, function: Callable[..., Any], given: dict[str, Any]) -> None:
        self._function = function
        self._options = _options.check("task", _name(function), _options.TASK_DEFAULTS, given)
        self._handle = FunctionHandle()
        functools.update_wrapper(self, function, updated=())

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call it somewhere: one `ObjectRef`, or a list of them with `num_returns` other than 1.

        Raises:
            SerializationError: the function or an argument cannot be pickled.
        """
        process = current()
        function = self._handle.export(process, self._function)
        return submit(process, function, args, kwargs, self._options.task, self._options.num_returns)

    def options(self, **given: Any) -> RemoteFunction:
        """The same function with other options, for calls made through what this returns."""
        changed = RemoteFunction(self._function, {**self._options.given, **given})
        changed._handle = self._handle
        return changed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = _name(self._function)
        raise TypeError(f"{name} is a remote function: call {name}.remote(...), or {name}.__wrapped__(...) for here")

    def __reduce__(self) -> Any:
        return RemoteFunction, (self._function, self._options.given)

    def __repr__(self) -> str:
        return f"RemoteFunction({_name(self._function)})"


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def remote(*args: Any, **given: Any) -> Any:
    """Make a function or a class remote: `@remote`, `@remote(num_cpus=2)` or `remote(f)`.

    Options of functions: num_cpus (1), num_gpus, memory (bytes), resources, num_returns (1), max_retries (3, after
    crashes of the worker; -1 for no limit), retry_exceptions (False, True or a list of classes), writable_arguments
    (False; True: large arguments arrive as private copy-on-write views, not as read-only ones), raw_output (False;
    True: what it prints comes without the prefix `(f pid=123)`), name. Of classes:
    num_cpus (0), num_gpus, memory, resources, max_restarts (0; how often the actor is made again when its process has
    died; -1 for no limit), max_task_retries (0; how often a call that it had not answered may be made again by then),
    writable_arguments (of the constructor), raw_output, name.

    Raises:
        TypeError: not a function or a class, or an unknown option.
    """
    if args and not given and len(args) == 1:
        return _make(args[0], {})
    if args:
        raise TypeError("remote takes either one function or class, or options by name: @remote(num_cpus=2)")
    for defaults in (_options.TASK_DEFAULTS, _options.ACTOR_DEFAULTS):
        if all(option in defaults for option in given):
            break
    else:
        _options.check("task", "remote", _options.TASK_DEFAULTS, given)
    return lambda target: _make(target, given)


def _make(target: Any, given: dict[str, Any]) -> Any:
    if inspect.isclass(target):
        return ActorClass(target, given)
    if isinstance(target, RemoteFunction | ActorClass):
        raise TypeError(f"{target!r} is remote already")
    if not callable(target):
        raise TypeError(f"remote makes functions and classes remote, not {target!r}")
    if _options.runs_later(target):
        raise TypeError(
            f"{_name(target)} is a generator or async function, whose result cannot travel: let it return a list, "
            "or run its coroutine with asyncio.run inside of a plain function"
        )
    return RemoteFunction(target, given)
