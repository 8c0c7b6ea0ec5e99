"""Which object cannot be pickled, and where it sits: worked out only after the failure.

A pickler says "cannot pickle '_thread.lock' object" and not which of a thousand attributes held it. The walk pickles
the parts of the failing value one by one and goes down into the first part that fails, so its cost is depth times
size; `WALK_SECONDS` and `WALK_DEPTH` end it early, with the path so far.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from miniray._serialization import pickles
from miniray._serialization.forking import ReadOnceError, used_reducers
from miniray._serialization.strikes import raised_by_handler

WALK_SECONDS = 1.0
WALK_DEPTH = 30

_OWN_ATTRIBUTES = frozenset(
    ("__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__abstractmethods__", "_abc_impl")
)


class SerializationError(Exception):
    """A value cannot be made into bytes. `path` leads from `what` to the object at fault; `cause` is its error."""

    def __init__(self, what: str, path: list[str], cause: BaseException) -> None:
        self.what = what
        self.path = path
        self.cause = cause
        super().__init__(what, path, cause)

    def __str__(self) -> str:
        reason = str(self.cause) or type(self.cause).__name__
        if isinstance(self.cause, RecursionError):
            reason = f"nested too deeply to be pickled ({reason})"
        return f"{' -> '.join([self.what, *self.path])}: {reason}"


def explain(value: Any, what: str, error: BaseException) -> SerializationError:
    """The error to raise for `value`, of which the pickler said `error`; `what` "call" means (args, kwargs)."""
    cause = error.__cause__ if isinstance(error.__cause__, RecursionError) else error
    if isinstance(cause, RecursionError):
        return SerializationError(what, [], cause)
    end = time.monotonic() + WALK_SECONDS
    path: list[str] = []
    visited = [value]
    parts = _arguments(*value) if what == "call" else _parts(value)
    while len(path) < WALK_DEPTH and time.monotonic() < end:
        step = _first_failing(parts, visited, end, isinstance(error, ReadOnceError))
        if step is None:
            break
        name, part, failure = step
        if not isinstance(failure, RecursionError):
            cause = failure
        path.append(name)
        visited.append(part)
        parts = _parts(part)
    if what == "call" and path:
        what, *path = path
    return SerializationError(what, path, cause)


def _first_failing(
    parts: Iterator[tuple[str, Any]], visited: list[Any], end: float, is_kept: bool
) -> tuple[str, Any, BaseException] | None:
    from miniray._serialization.by_value import ByValuePickler

    try:
        for name, part in parts:
            if any(part is seen for seen in visited):
                continue
            if time.monotonic() > end:
                return None
            try:
                pickler = ByValuePickler(io.BytesIO(), "", lambda buffer: None)
                pickles.dump_with(pickler, part, is_kept=is_kept, is_read=False)
            except Exception as error:
                if raised_by_handler(error):
                    raise
                return name, part, error
    except Exception as error:  # an attribute that raises when looked at: the path so far must do
        if raised_by_handler(error):
            raise
    return None


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for index, value in enumerate(args):
        yield f"argument {index}", value
    for name, value in kwargs.items():
        yield f"argument {name!r}", value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a pickler would go into, with the words that lead there."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"the key {_short(key)}", key
            yield f"[{_short(key)}]", item
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield f"the element {_short(item)}", item
    if isinstance(value, FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield from ((f"its argument {index}", item) for index, item in enumerate(value.args))
        yield from ((f"its argument {name!r}", item) for name, item in value.keywords.items())
    elif isinstance(value, type):
        yield from _parts_of_class(value)
    else:
        yield from _parts_of_instance(value)


def _parts_of_class(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    from miniray._serialization.namespaces import LOCKS

    for name, item in vars(cls).items():
        if name not in _OWN_ATTRIBUTES and type(item) not in LOCKS:
            yield f".{name}", item


def _parts_of_instance(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(type(value).__reduce__, FunctionType) or isinstance(type(value).__reduce_ex__, FunctionType):
        return  # its own code says what is pickled, and what its error is
    if type(value) in used_reducers():
        return
    state = getattr(value, "__dict__", None)
    if type(value).__module__ != "builtins" and hasattr(type(value), "__getstate__"):
        custom = type(value).__getstate__ is not getattr(object, "__getstate__", None)
        if custom:  # it decides what is pickled
            state = value.__getstate__()
    if isinstance(state, dict):
        yield from ((f".{name}", item) for name, item in list(state.items()))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f".{name}", getattr(value, name)
    if type(value).__module__ == "__main__" or "<locals>" in type(value).__qualname__:
        yield f"its class {type(value).__name__}", type(value)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    from miniray._serialization.namespaces import EMPTY, closure_of

    for name, value in zip(function.__code__.co_freevars, closure_of(function), strict=True):
        if value is not EMPTY:
            yield f"the closure's {name}", value
    for name in _names_of(function.__code__):
        if name in function.__globals__:
            yield f"the global {name}", function.__globals__[name]
    for index, item in enumerate(function.__defaults__ or ()):
        yield f"its default {index}", item
    for name, item in (function.__kwdefaults__ or {}).items():
        yield f"its default {name!r}", item
    yield from ((f".{name}", item) for name, item in vars(function).items())


def _names_of(code: Any) -> list[str]:
    from cloudpickle.cloudpickle import _extract_code_globals

    return list(_extract_code_globals(code))


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bytes | bool | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}..."
