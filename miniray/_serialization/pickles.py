"""Picklers: plain pickle first, cloudpickle where it must be (DESIGN.md section 6).

- **Plain pickle is tried first**: `pickle.dumps` costs a third of the cheapest Pickler subclass and gives the same
  bytes. What it cannot do (lambdas, local classes, modules) raises, and is done again by value. What it would do
  wrongly is a thing of `__main__` by reference, since the worker's `__main__` is another program: such a pickle
  names it, so one search of the bytes finds it, whichever way it got there (class, function, a singleton's
  `__reduce__`, a TypeVar). A string that happens to contain the word costs time, never correctness.
- **Refs are found while pickling.** A registered type is reduced through `copyreg`, which the C pickler asks by type
  without calling Python for anything else. Outside of `collecting` the reducer steps aside, and the type's own
  `__reduce__` says what a ref means in a pickle that we do not see.
- **Buffers of `IN_BAND_BYTES` or more leave the stream**; smaller ones are cheaper inside it.
- The by-value pickler shares globals and versions classes: `by_value.py` and `namespaces.py` say how.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable
from pickle import PickleBuffer, loads
from types import FunctionType
from typing import Any

from miniray._serialization import forking
from miniray._serialization.forking import Found
from miniray._serialization.forking import collecting as _collecting
from miniray.core.ids import ObjectId

IN_BAND_BYTES = 4096
PROTOCOL = 5

_MAIN = b"_main__"  # of `__main__` and of multiprocessing's `__mp_main__`

Dump = Callable[[Any], Any]  # -> ObjectId, or (ObjectId, extra)
Load = Callable[..., Any]  # (ObjectId) or (ObjectId, extra) -> the instance


_loaders: dict[str, Load] = {}


def register_reference_type(cls: type[Any], dump: Dump, load: Load, key: str = "") -> None:
    """Let instances of exactly `cls` travel as references: counted in `Serialized.refs`, made again by `load`.

    `dump(instance)` gives its ObjectId, or (ObjectId, extra) with something picklable beside it; `load` gets the
    same back. `key` names the type in the bytes (the class's name when empty); both ends must register it.
    """
    name = key or cls.__name__
    _loaders[name] = load

    def reduce(instance: Any) -> Any:
        found = _collecting.refs
        if found is None:  # somebody else's pickle: nobody will see its refs, so the type itself must answer
            return instance.__reduce_ex__(PROTOCOL)
        dumped = dump(instance)
        if type(dumped) is tuple:
            found[dumped[0]] = None
            return _load_reference, (name, *dumped)
        found[dumped] = None
        return _load_reference, (name, dumped)

    copyreg.pickle(cls, reduce)


def _load_reference(key: str, *dumped: Any) -> Any:
    loader = _loaders.get(key)
    if loader is None:
        raise pickle.UnpicklingError(f"a reference of the unknown type {key!r}: nobody has registered it here")
    return loader(*dumped)


def dumps(
    value: Any, buffer_callback: Callable[[PickleBuffer], Any] | None, *, is_kept: bool = False
) -> tuple[bytes, tuple[ObjectId, ...]] | None:
    """The pickle of `value` and the references in it; None: it has to be done by value. Raises whatever the value's own
    pickling code raises. `is_kept`: it may be read more than once."""
    outer = _collecting.refs  # a user's `__reduce__` may serialize something on its own
    found: Found = {}
    _collecting.refs = found
    try:
        if forking.others_reducers():
            data = _dumps_with_table(value, buffer_callback)
        else:
            data = pickle.dumps(value, PROTOCOL, buffer_callback=buffer_callback)
        if is_kept and found:
            forking.refuse_handles(found)
    except BaseException:
        forking.give_back(found)
        raise
    finally:
        _collecting.refs = outer
    if _MAIN in data:
        forking.give_back(found)
        return None
    return data, forking.refs_of(found) if found else ()


def _dumps_with_table(value: Any, buffer_callback: Callable[[PickleBuffer], Any] | None) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL, buffer_callback=buffer_callback)
    pickler.dispatch_table = {**copyreg.dispatch_table, **forking.used_reducers()}
    pickler.dump(value)
    return file.getvalue()


def collect(refs: tuple[ObjectId, ...]) -> None:
    """Refs of something that was pickled earlier and goes into the pickle that is being made."""
    if refs and _collecting.refs is not None:
        _collecting.refs.update(dict.fromkeys(refs))


def has_found_refs() -> bool:
    """Whether the pickle that is being made holds any so far."""
    return bool(_collecting.refs)


def forget_outer() -> None:
    """In a forked process: the pickle that this thread was making is its parent's."""
    _collecting.refs = None


def dumps_by_value(
    value: Any,
    namespace: str,
    buffer_callback: Callable[[PickleBuffer], Any] | None,
    *,
    is_kept: bool = False,
    **how: Any,
) -> tuple[bytes, tuple[ObjectId, ...]]:
    """As `dumps`, with functions and classes that no import can find travelling as their code."""
    from miniray._serialization.by_value import ByValuePickler  # cloudpickle: 15 ms, and many programs never need it

    with io.BytesIO() as file:
        refs = dump_with(ByValuePickler(file, namespace, buffer_callback, **how), value, is_kept=is_kept)
        return file.getvalue(), refs


def dump_with(pickler: Any, value: Any, *, is_kept: bool = False, is_read: bool = True) -> tuple[ObjectId, ...]:
    """The references that `pickler` finds."""
    outer = _collecting.refs
    found: Found = {}
    _collecting.refs = found
    try:
        pickler.dump(value)
        if is_kept:
            forking.refuse_handles(found)
    except BaseException:
        is_read = False
        raise
    finally:
        _collecting.refs = outer
        if not is_read:
            forking.give_back(found)
    return forking.refs_of(found)


def some_module_goes_by_value() -> bool:
    """Whether the user has called `cloudpickle.register_pickle_by_value`: then plain pickle is not to be trusted."""
    module = sys.modules.get("cloudpickle.cloudpickle")
    return bool(module is not None and module._PICKLE_BY_VALUE_MODULES)


def find_wrapper(wrapped: FunctionType | type[Any]) -> tuple[str, str, int] | None:
    """Where an import finds it behind a decorator's result: (module, name, how many `__wrapped__` down).

    A function of an installed module that `@remote` has wrapped is no longer what its name leads to; by value it
    would lose the module's state, and drag along whatever the module holds that cannot be pickled.
    """
    module = sys.modules.get(wrapped.__module__ or "")
    if module is None or wrapped.__module__ in ("__main__", "__mp_main__") or some_module_goes_by_value():
        return None
    if "<locals>" in wrapped.__qualname__:
        return None
    if isinstance(wrapped, FunctionType) and vars(module) is not wrapped.__globals__:
        return None
    found: Any = module
    for name in wrapped.__qualname__.split("."):
        found = getattr(found, name, None)
    for depth in range(1, 11):  # a chain of decorators; ten is more than anyone stacks, and ends a cycle
        found = getattr(found, "__wrapped__", None)
        if found is wrapped:
            return wrapped.__module__, wrapped.__qualname__, depth
    return None


def unwrap(module: str, name: str, depth: int) -> Any:
    """The inverse of `find_wrapper`."""
    from importlib import import_module

    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    for _ in range(depth):
        found = found.__wrapped__
    return found


def bytes_of(buffer: Any) -> bytes:
    """What large `bytes` are pickled as a call of: protocol 5 never offers them out of band by itself."""
    return bytes(buffer)


class OutOfBandBytes:
    """Stands for large `bytes` while an argument list is pickled; it is read back as the bytes themselves."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes_of, (PickleBuffer(self.value),)


__all__ = [
    "OutOfBandBytes", "bytes_of", "collect", "dump_with", "dumps", "dumps_by_value", "find_wrapper", "forget_outer",
    "has_found_refs", "loads", "register_reference_type", "some_module_goes_by_value", "unwrap",
]
