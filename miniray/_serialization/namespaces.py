"""Globals of functions that travel by value: whose they are, and which binding is the newer (DESIGN.md section 6).

cloudpickle gives each pickled function a fresh globals dict. Then the commonest Pool idiom (an initializer that sets
a global which the work function reads) raises NameError. So here:

- **Functions of one module share one dict in the receiver**, named (namespace, module, origin). A namespace is a
  session or a pool; the origin is the process whose module it is. In that process itself, the name leads to the real
  module's dict.
- **A global travels as (name, version, value).** The origin counts how often it saw the name bound to another object.
  The receiver applies a version that is newer than what it has applied, and nothing else: an unchanged binding never
  overwrites what the receiver has set since, and a receiver that has seen nothing gets everything.
- **What a receiver binds is its own, and never travels.** Pickled again from there, a function carries the origin's
  bindings; an initializer's database connection is not dragged into a nested task.
- **A class's attributes follow the same rule**, as one version. Coming home it is the very class, untouched:
  cloudpickle's tracker finds it by its id.
- **A thread's lock that is an attribute of a class is made anew in each process**, as an import of the class would make
  it: it guards what this process has of the class. One in a value, a closure or a global is an error, or is inherited.
- **A function that has a name of its own is one object in each process** (`of_function`). It travels with a key and a
  version, which counts its changes; whoever has that version has it already. Coming home it is the very function. One
  that has attributes, or holds what can change in place in its closure, is pickled anew each time (`changes_in_place`).
  Defaults are as globals are: one that is changed in place is not sent again.
- **What a function has of a global is what the receiver has of it**: a default that is the object of a binding which
  came earlier becomes that one, so `default is MISSING` holds there.
- Values must name the namespace of the functions that they meet: `serialize(value, namespace)`.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import is_
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from miniray._serialization.forked import Inherited

MISSING = object()
EMPTY = object()  # is in a cell that is not bound yet
LOCKS: dict[type[Any], Callable[[], Any]] = {type(make()): make for make in (threading.Lock, threading.RLock)}
_ATOMS = (type(None), bool, int, float, complex, str, bytes, object)
_FIXED = (*_ATOMS, FunctionType, BuiltinFunctionType, functools._lru_cache_wrapper, ModuleType)
TRACKED_CLASSES = 1000  # whose attributes are remembered, to see them change; a forgotten one is sent anew

GlobalsKey = tuple[str, str, str]  # namespace, module, origin
Binding = tuple[str, int, Any]  # name, version, value
FunctionKey = tuple[str, int]  # the process that it comes from, and which of its functions it is


class SharedGlobals:
    """One shared dict of this process, and which versions of its origin's bindings it has had."""

    __slots__ = ("applied", "key", "names")

    def __init__(self, key: GlobalsKey, names: dict[str, Any]) -> None:
        self.key = key
        self.names = names
        self.applied: dict[str, tuple[int, Any]] = {}

    def apply(self, bindings: tuple[Binding, ...]) -> dict[int, Any]:
        """What is here already of the objects that came, by their ids."""
        same: dict[int, Any] = {}
        for name, version, value in bindings:
            had = self.applied.get(name)
            if had is None or had[0] < version:
                self.applied[name] = (version, value)
                self.names[name] = value
            elif had[0] == version:
                same[id(value)] = had[1]
        return same


class GlobalsTable:
    """The shared dicts of one receiver; `origins` are the processes whose modules this process really has."""

    def __init__(self, origins: dict[str, None]) -> None:
        self.origins = origins
        self.classes_had: dict[tuple[str, str, str], int] = {}  # namespace, sender, class -> the last definition loaded
        self._shared: dict[GlobalsKey, SharedGlobals] = {}

    def forget(self) -> None:
        self._shared.clear()

    def find(self, key: GlobalsKey, extras: dict[str, Any]) -> SharedGlobals:
        found = self._shared.get(key)
        if found is None:
            namespace, module, origin = key
            real = getattr(sys.modules.get(module), "__dict__", None) if origin in self.origins else None
            if real is None:
                found = SharedGlobals(key, {**extras, "__builtins__": vars(builtins)})
                found = self._shared.setdefault(key, found)
                shared_by_id[id(found.names)] = found
            else:
                found = self._shared.setdefault(key, SharedGlobals(key, real))
        return found


class _KnownFunction(NamedTuple):
    key: FunctionKey
    version: int
    parts: list[Callable[[Any], bool]]  # each tells whether it is what the function had when it got this version


class _Versions:
    """Which version of each global, class and function of this process is current: what the origin counts."""

    def __init__(self) -> None:
        self.origin = uuid.uuid4().hex
        self.parent = ""
        self.numbered_globals: dict[tuple[str, str], tuple[int, Callable[[], Any]]] = {}
        self.states: OrderedDict[int, tuple[type[Any], dict[str, Any]]] = OrderedDict()
        self.functions: weakref.WeakKeyDictionary[Any, _KnownFunction] = weakref.WeakKeyDictionary()
        self.by_key: weakref.WeakValueDictionary[tuple[FunctionKey, int], Any] = weakref.WeakValueDictionary()
        self.last_function = 0
        self.lock = threading.RLock()  # a finaliser may pickle, inside anything

    def of_global(self, module: str, name: str, value: Any) -> int:
        with self.lock:
            number, same = self.numbered_globals.get((module, name), (0, _nothing))
            if same() is not value:
                number += 1
                self.numbered_globals[module, name] = (number, _hold(value))
            return number

    def of_class(self, cls: type[Any]) -> tuple[str, int]:
        """(origin, version); a class that came from elsewhere keeps what it came with."""
        with self.lock:
            known = class_versions.get(cls)
            if known is not None and known[0] != self.origin:
                return known
            state = state_of(cls)
            held = self.states.get(id(cls))
            if known is None or held is None or not same_objects(held[1], state):
                known = (self.origin, known[1] + 1 if known else 1)
                class_versions[cls] = known
                self.states[id(cls)] = (cls, state)
                if len(self.states) > TRACKED_CLASSES:
                    self.states.popitem(last=False)
            return known

    def of_function(self, function: Any) -> tuple[FunctionKey, int]:
        """One that came from elsewhere keeps what it came with."""
        with self.lock:
            known = self.functions.get(function)
            if known is None:
                self.last_function += 1
                return self.know_function(function, (self.origin, self.last_function), 1)
            if known.key[0] == self.origin:
                parts = _parts_of(function)
                if len(known.parts) != len(parts) or not all(map(_is_told_by, parts, known.parts)):
                    return self.know_function(function, known.key, known.version + 1)
            return known.key, known.version

    def know_function(self, function: Any, key: FunctionKey, version: int) -> tuple[FunctionKey, int]:
        """From now on it is found by this key, among those with the same globals."""
        with self.lock:
            known = _KnownFunction(key, version, [*map(_recognise, _parts_of(function))])
            bound = getattr(function if type(function) is FunctionType else function.__wrapped__, "__globals__", None)
            self.by_key[key, id(bound)] = function  # first: if Ctrl-C strikes between, it is not known
            self.functions[function] = known
        return key, version

    def find_function(self, key: FunctionKey, version: int, bound: Any) -> Any:
        """The one of this process, if it has this version of it, or is where it comes from."""
        with self.lock:
            found = self.by_key.get((key, id(bound)))
            known = self.functions.get(found) if found is not None else None
            if known is None:
                return None
            is_home = key[0] == self.origin and id(bound) not in shared_by_id
            return found if is_home or known.version == version else None

    def forget(self) -> None:
        with self.lock:
            self.numbered_globals.clear()
            self.states.clear()
            self.functions.clear()
            self.by_key.clear()

    def after_fork(self) -> None:
        self.lock = threading.RLock()
        self.parent, self.origin = self.origin, uuid.uuid4().hex
        _process_table.origins = {self.origin: None}

    def current(self, module: str) -> Iterator[tuple[str, int, Any]]:
        for (of, name), (number, same) in list(self.numbered_globals.items()):
            if of == module:
                yield name, number, same()


def _parts_of(function: Any) -> list[Any]:
    """What makes it another function when it is replaced."""
    parts: list[Any] = []
    for one in _functions_in(function):
        named = one.__kwdefaults__ or {}
        parts += (one.__code__, *(one.__defaults__ or ()), MISSING, *named, *named.values(), *closure_of(one))
    return parts


def changes_in_place(function: Any) -> bool:
    """Whether no version tells all that its next pickle could have, and this one has not: a list in a cell changes,
    and so do attributes. Defaults do, too, but they are the receiver's own, as its globals are."""
    return any(
        vars(one).keys() - {"__wrapped__"}
        or any(type(held) not in _FIXED and not issubclass(type(held), type) for held in closure_of(one))
        for one in _functions_in(function)
    )


def _functions_in(function: Any) -> list[FunctionType]:
    """It, and those that its cells hold, as a decorator's do."""
    found: dict[int, FunctionType] = {}
    pending = [function]
    while pending:
        one = pending.pop()
        if type(one) is functools._lru_cache_wrapper:
            pending.append(one.__wrapped__)
        elif type(one) is FunctionType and id(one) not in found:
            found[id(one)] = one
            pending += closure_of(one)
    return [*found.values()]


def closure_of(function: FunctionType) -> list[Any]:
    return [contents_of(cell) for cell in function.__closure__ or ()]


def contents_of(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def _nothing() -> Any:
    return MISSING


def _hold(value: Any) -> Callable[[], Any]:
    """Weakly, where it can be: the count of an array's versions must not keep the array."""
    try:
        weak = weakref.ref(value)
    except TypeError:
        return lambda: value
    return lambda: MISSING if (held := weak()) is None else held  # a dead one must not pass for None


def _recognise(value: Any) -> Callable[[Any], bool]:
    """A list or dict, which may lead back to the function, is told by its id: held here, neither would be freed."""
    if type(value) in _ATOMS or type(value).__weakrefoffset__:
        held = _hold(value)
        return lambda other: held() is other
    number = id(value)
    return lambda other: id(other) == number


def _is_told_by(part: Any, tells: Callable[[Any], bool]) -> bool:
    return tells(part)


def state_of(cls: type[Any]) -> dict[str, Any]:
    """Its attributes, but for what pickle notes there about its slots: nobody has changed the class then."""
    state = dict(vars(cls))
    state.pop("__slotnames__", None)
    return state


def same_objects(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(map(is_, one.values(), other.values()))


shared_by_id: dict[int, SharedGlobals] = {}  # by the dict's id; the entries keep their dicts, so ids stay true
class_versions: weakref.WeakKeyDictionary[type[Any], tuple[str, int]] = weakref.WeakKeyDictionary()
_process_table = GlobalsTable({})
versions = _Versions()
_process_table.origins[versions.origin] = None
os.register_at_fork(after_in_child=versions.after_fork)


class _Current(threading.local):
    table: GlobalsTable = _process_table
    target: Inherited | None = None  # what those have inherited for whom this thread pickles


current = _Current()


def process_table() -> GlobalsTable:
    return _process_table


def forget_program() -> None:
    """As the interpreter exits: nothing travels any more."""
    versions.forget()
    _process_table.forget()
    shared_by_id.clear()


@contextmanager
def loading_into(table: GlobalsTable) -> Iterator[None]:
    """What this thread unpickles inside gets its globals from `table`."""
    outer, current.table = current.table, table
    try:
        yield
    finally:
        current.table = outer


@contextmanager
def pickling_for(target: Inherited | None) -> Iterator[None]:
    """What this thread pickles inside is for workers that have inherited this."""
    outer, current.target = current.target, target
    try:
        yield
    finally:
        current.target = outer


def bind_main_of_parent(namespace: str) -> None:
    """In a process that was forked: its `__main__` is the parent's, as it was at that moment."""
    parent = versions.parent
    assert parent, "this process was not forked"
    main = sys.modules["__main__"].__dict__
    _process_table.origins[parent] = None
    shared = _process_table.find((namespace, "__main__", parent), {})
    current.target = None  # whom this thread was pickling for, if it was forked inside
    for name, number, value in versions.current("__main__"):
        if main.get(name, MISSING) is value:
            shared.applied[name] = (number, value)
    shared_by_id[id(main)] = shared


def is_only_inherited(value: Any) -> bool:
    """Whether it is a thing that no pickle carries, as far as its type tells."""
    kind = type(value)
    return kind.__module__.startswith("multiprocessing.") or (kind.__module__ == "_thread" and "ock" in kind.__name__)
