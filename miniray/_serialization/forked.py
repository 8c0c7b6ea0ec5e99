"""What a worker that was forked from this process has of its `__main__`, and so is not sent.

- **Inherited bindings do not travel.** What is pickled for such a worker leaves out what `__main__` binds as it did at
  the fork (`Inherited`); so these need not be things that can be pickled.
- **Inherited functions and classes go by their keys**, as long as they are what they were at the fork: with the
  defaults, the closure and the attributes that the worker has, a lock among them. What their globals are bound to
  since goes along. One that has changed, or was made since, goes by value. Back from the worker it goes by its key
  only if it holds what no pickle carries, since a result may be read anywhere.
- The standard pool sends their names. A key says which object it is, whatever `__main__` has bound to the name since,
  here or there; and it finds those, too, whose name leads elsewhere (a lambda, a closure).
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Iterable
from pickle import UnpicklingError
from types import FunctionType, MethodType
from typing import Any

import cloudpickle.cloudpickle as cp

from miniray._serialization import namespaces
from miniray._serialization.namespaces import LOCKS, MISSING, FunctionKey, closure_of, is_only_inherited, versions

DEFINITIONS = (FunctionType, functools._lru_cache_wrapper, type)

Key = FunctionKey | str  # a class has its tracker's id

_things: weakref.WeakValueDictionary[Key, Any] = weakref.WeakValueDictionary()  # that a fork has inherited, or will
_kept: list[Any] = []  # in a forked worker: they live while it does, also what its `__main__` binds no more


class Inherited:
    """`__main__` of this process, as those have it that were forked from it at some moment."""

    __slots__ = ("definitions", "number", "versions")

    def __init__(self, number: int, bindings: dict[str, int], definitions: dict[Key, Any]) -> None:
        self.number = number
        self.versions = bindings  # of each name
        self.definitions = definitions  # the version of each function and class

    def has(self, parts: list[Any]) -> bool:
        """Whether all of these functions and classes are what they were."""
        return all(map(self._has, parts))

    def _has(self, part: Any) -> bool:
        if not _has_key(part):  # it was made since; asking must give it none, for a lambda's bytes are to stay the same
            return False
        key, version = _version_of(part)
        return bool(self.definitions.get(key, MISSING) == version)


NOTHING = Inherited(0, {}, {})  # what workers have that were not forked from this process


def is_known(thing: Any, target: Inherited | None) -> list[Any] | None:
    """The parts of a function or class that the receiver has and is only told the key of. Without a target it is who
    reads a result: most likely the driver.
    """
    if target is NOTHING or (target is None and not _kept):
        return None
    parts = parts_of(thing)
    if target is not None:
        return parts if parts and target.has(parts) else None
    is_kept = any(map(_is_bound_to_stay, parts)) and _has_key(thing) and key_of(thing) in _things
    return parts if is_kept else None


def _is_bound_to_stay(part: Any) -> bool:
    held = [one for one in _inner(part) or () if is_only_inherited(one)]
    return any(type(one) not in LOCKS for one in held) if isinstance(part, type) else bool(held)


def parts_of(*things: Any) -> list[Any]:
    """The functions and classes among these, and those that they are made of, where no import finds them."""
    found: dict[int, Any] = {}
    pending: list[Any] = [*things]
    while pending:
        thing = pending.pop()
        if id(thing) not in found:
            inner = _inner(thing)
            if inner is not None:
                found[id(thing)] = thing
                pending += inner
            elif type(thing) in (staticmethod, classmethod, MethodType):
                pending.append(thing.__func__)
            elif type(thing) is property:
                pending += (thing.fget, thing.fset, thing.fdel)
    return [*found.values()]


def _inner(thing: Any) -> Iterable[Any] | None:
    """None: it is not one of them."""
    kind = type(thing)
    if kind is FunctionType:
        if cp._should_pickle_by_reference(thing):
            return None
        return [*closure_of(thing), *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    if kind is functools._lru_cache_wrapper:
        return (thing.__wrapped__,)
    if issubclass(kind, type):  # asked as a class of users' cannot answer itself: a driver that is forked holds locks
        held = type.__dict__["__dict__"].__get__(thing)
        if held.get("__module__") == "__main__":
            return [*held.values(), *type.__dict__["__mro__"].__get__(thing)]
    return None


def _has_key(thing: Any) -> bool:
    return isinstance(thing, type) or thing in versions.functions


def _version_of(thing: Any) -> tuple[Key, Any]:
    if isinstance(thing, type):
        return cp._get_or_create_tracker_id(thing), versions.of_class(thing)
    return versions.of_function(thing)


def key_of(thing: Any) -> Key:
    return _version_of(thing)[0]


def prepare_fork(last: Inherited | None) -> Inherited:
    """Called in the driver before it is forked; what the child has inherited then. `last` is what this gave before, and
    is given again if nothing has changed since.

    Functions and classes of `__main__` get their keys now: so the child's and the driver's are one, both ways.
    """
    bound = list(vars(sys.modules["__main__"]).items())
    bindings = {name: versions.of_global("__main__", name, value) for name, value in bound}
    definitions: dict[Key, Any] = {}
    for thing in parts_of(*[value for _, value in bound]):
        key, definitions[key] = _version_of(thing)
        _things[key] = thing
    if last is not None and last.versions == bindings and last.definitions == definitions:
        return last
    return Inherited(1 if last is None else last.number + 1, bindings, definitions)


def inherit_main(namespace: str) -> None:
    """Called in a worker that was forked from the driver: its `__main__` is the driver's, as it was at that moment."""
    namespaces.bind_main_of_parent(namespace)
    _kept.extend(_things.values())


def find_inherited(key: Key) -> Any:
    """A function or class of the process that was forked: there, or in a fork."""
    found = _things.get(key)
    if found is None:
        raise UnpicklingError("a function or class that only the driver and workers which are forked from it can have")
    return found
