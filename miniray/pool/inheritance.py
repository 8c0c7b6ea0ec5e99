"""What can reach a worker only by inheritance, so that it has to be forked from the driver.

A `multiprocessing.Lock` in the default context refuses every pickle; a pipe's end or a raw shared array lets itself be
pickled and is then something else; a lock at the level of an imported module would be made once more by a worker that
imports it, and guard nothing. So things are looked for by their types, in what a function can reach: arguments,
closure, defaults, the globals that it names, and those of the functions that it names.

What is looked for exists only where its module was imported, so most programs pay for one look into `sys.modules`.

Nothing of the user's runs for this: types are asked for by `type`, parts by the methods of `dict` and `list`. A proxy
(a web framework's request, lazy settings) says of its `__class__` and `__dict__` what the thing behind it has, makes
that thing for it, or raises because there is none.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext, ForkContext
from types import CodeType, FunctionType, GetSetDescriptorType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from miniray.errors import MinirayError, SessionError

if TYPE_CHECKING:
    from miniray.pool.crew import Crew
    from miniray.pool.dispatch import Dispatcher
    from miniray.pool.groups import Group

MAX_VISITED = 10_000  # things that are looked at; who hides a lock behind more asks for `context` himself
MAX_OF_FUNCTION = 300
MAX_ITEMS = 1_000  # of one list, tuple, set or dict

_SHARED = {  # module -> its types that are shared by inheritance
    "multiprocessing.synchronize": ("SemLock", "Condition", "Event", "Barrier"),
    "multiprocessing.queues": ("Queue", "SimpleQueue"),
    "multiprocessing.sharedctypes": ("SynchronizedBase",),
    "multiprocessing.connection": ("_ConnectionBase", "Listener"),
    "multiprocessing.managers": ("BaseProxy", "BaseManager"),
}
_CTYPES = (ctypes._SimpleCData, ctypes.Array, ctypes.Structure, ctypes.Union)
_LEAVES = (int, float, complex, str, bytes, bytearray, type(None), ModuleType, CodeType)


def is_fork_context(context: BaseContext | None) -> bool:
    return isinstance(context, ForkContext)


def find_in_function(function: Any) -> Any:
    """What a function uses that has to be inherited; asked for each function that a pool has not met yet."""
    return find_shared(function, most=MAX_OF_FUNCTION)


def find_shared(*values: Any, most: int = MAX_VISITED) -> Any:
    """The first thing among what these can reach that is shared by inheritance only; None if there is none."""
    kinds = _kinds()
    seen: dict[int, Any] = {}  # by their ids, which stay theirs while they are held here
    waiting = deque(values)
    while waiting and len(seen) < most:
        value = waiting.popleft()
        if _is(value, _LEAVES) or id(value) in seen:
            continue
        if _is(value, kinds) or _is_shared_ctypes(value):
            return value
        seen[id(value)] = value
        waiting.extend(_parts(value))
    return None


def find_in_main() -> Any:
    """The same, among the globals of the program: a function will name them, or call one that does. And where it logs:
    what a worker logs shall not be lost."""
    main = sys.modules.get("__main__")
    names = vars(main) if main is not None else {}
    held = [part for value in list(names.values()) for part in _held_by(value)]
    kinds = tuple(kind for kind in _kinds() if not kind.__module__.endswith((".managers", ".connection")))
    found = next((value for value in held if _is(value, kinds) or _is_shared_ctypes(value)), None)
    return find_log() if found is None else found


def _held_by(value: Any) -> Iterable[Any]:
    """Without what it names."""
    if _is(value, functools._lru_cache_wrapper):
        value = value.__wrapped__
    if _is(value, FunctionType):
        return [*_closure_of(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    return _parts_of_class(value) if _is(value, type) else (value,)


def find_log() -> Any:
    """A handler of the program's logging that writes to a descriptor; None: there is none."""
    root = logging.root
    for logger in [root, *root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):
            if (
                _has_descriptor(getattr(handler, "stream", None))
                and getattr(handler, "baseFilename", "") != os.devnull
                and not _is_of_ipython(logger, handler)
            ):
                return handler
    return None


def _is_of_ipython(logger: Any, handler: Any) -> bool:
    """IPython and the kernel of a notebook log as well: what runs the program, and not what it does. An application
    made with traitlets has a logger of its own with traitlets' formatter; a kernel sets up tornado's."""
    formatter = type(getattr(handler, "formatter", None))
    if formatter.__module__.partition(".")[0] == "traitlets":
        return True
    return logger.name == "tornado" and "ipykernel" in sys.modules


def _has_descriptor(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0  # type: ignore[no-any-return]
    except Exception:
        return False


def meet(pool: Dispatcher, function: Any) -> bool:
    """Users' code that this pool has not seen before: it may need workers that have inherited what it uses. Whether
    they inherit all there is.

    Raises:
        RuntimeError: the workers began without it, and are busy.
    """
    found = None if pool.crew.is_forked else find_in_function(function)
    if found is None:
        return pool.crew.is_forked
    with pool.lock:
        if pool.is_idle:
            pool.crew.fork_anew()
            return True
    name = getattr(function, "__qualname__", None) or repr(function)
    raise RuntimeError(
        f"{type(found).__name__} objects should only be shared between processes through inheritance: {name} uses one, "
        "and the pool's workers have begun without it and are busy; make the pool when it is there, with "
        'context=multiprocessing.get_context("fork")'
    )


def inherit_instead(crew: Crew, error: MinirayError, again: Callable[[Group, int], None]) -> bool:
    """A function could not be sent. If it was for a global of the program (a lock, an open file, a database), then
    workers that are forked now have it. Under the pool's lock; whether they are there.

    `again` queues groups that other threads pickle for the workers that make room.
    """
    before = [*crew]
    if crew.is_forked or not str(error).startswith("function ") or any(member.groups for member in before):
        return False
    try:
        crew.fork_anew()
    except SessionError:  # this is not the driver
        return False
    for member in before:
        for group in member.let_go():
            again(group, 0)
    return True


def _kinds() -> tuple[type[Any], ...]:
    found = []
    for module, names in _SHARED.items():
        loaded = sys.modules.get(module)
        found += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return tuple(found)


def _is(value: Any, kinds: Any) -> bool:
    """`isinstance`, but for what the value itself says."""
    return issubclass(type(value), kinds)


def _is_shared_ctypes(value: Any) -> bool:
    """A `RawValue` or `RawArray`."""
    return _is(value, _CTYPES) and "_wrapper" in _attributes(value)


def _parts(value: Any) -> Iterable[Any]:
    if _is(value, FunctionType):
        return _parts_of_function(value)
    if _is(value, type):
        return _parts_of_class(value)
    if _is(value, MethodType):
        return value.__self__, value.__func__
    if _is(value, functools.partial):
        return value.func, value.args, value.keywords
    if _is(value, dict):
        return list(dict.values(value))[:MAX_ITEMS]
    for kind in (list, tuple, set, frozenset):
        if _is(value, kind):
            return list(kind.__iter__(value))[:MAX_ITEMS] if kind.__len__(value) <= MAX_ITEMS else ()
    if _is(value, functools._lru_cache_wrapper):
        return (value.__wrapped__,)
    return [type(value), *list(_attributes(value).values())[:MAX_ITEMS]]


def _parts_of_class(cls: type[Any]) -> list[Any]:
    """Of one that would have to travel. What its methods use is found when they are called by what is looked at."""
    held = type.__dict__["__dict__"].__get__(cls)
    if held.get("__module__") != "__main__":
        return []
    parts = [part for part in list(held.values()) if type(part) is not FunctionType]
    return [*type.__dict__["__bases__"].__get__(cls), *parts]


def _attributes(value: Any) -> dict[str, Any]:
    for cls in type(value).__mro__:
        found = vars(cls).get("__dict__")
        if found is not None:
            return found.__get__(value) if type(found) is GetSetDescriptorType else {}
    return {}


def _parts_of_function(function: FunctionType) -> Iterator[Any]:
    yield from _closure_of(function)
    yield function.__defaults__
    yield function.__kwdefaults__
    names = list(_names(function.__code__))
    for name in names:
        value = function.__globals__.get(name)
        yield value
        if type(value) is ModuleType:  # `module.lock`
            yield [vars(value)[inner] for inner in names if inner in vars(value)]


def _closure_of(function: FunctionType) -> list[Any]:
    return gc.get_referents(*(function.__closure__ or ()))  # of a cell that is not bound yet: nothing


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
