"""Functions and classes by value: cloudpickle, with the globals and class states of `namespaces.py`.

- cloudpickle finds what must go by value and takes it apart; here the globals of a function become the name of a
  shared dict and a list of versioned bindings, and the state of a class becomes versioned.
- **A class inside a value travels as one cached definition**, numbered by its sender: taking a class apart costs
  60 us, and whoever maps over instances of a notebook's class would pay it for each. A receiver that has had the
  definition does not look into it again.
- What is used of cloudpickle beyond its documentation (tested with 3.1): `_should_pickle_by_reference`,
  `_extract_code_globals`, `_dynamic_function_reduce`, `_class_setstate`, `globals_ref`, the class tracker.
"""

from __future__ import annotations

import functools
import itertools
import sys
import weakref
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import IO, Any

import cloudpickle.cloudpickle as cp

from miniray._serialization import forked, forking, namespaces, pickles
from miniray._serialization.namespaces import (
    EMPTY,
    LOCKS,
    MISSING,
    Binding,
    FunctionKey,
    GlobalsKey,
    changes_in_place,
    class_versions,
    closure_of,
    contents_of,
    is_only_inherited,
    same_objects,
    state_of,
    versions,
)
from miniray._serialization.pickles import PROTOCOL, find_wrapper, unwrap

CACHED_CLASSES = 1000

_EXTRAS: tuple[str, ...] = ("__package__", "__name__", "__path__", "__file__")  # what imports inside a function need


class Dependencies:
    """What a pickle was made from by identity; `unchanged` asks whether making it again could differ."""

    __slots__ = ("_cells", "_classes", "_functions", "_globals")

    def __init__(self) -> None:
        self._globals: dict[tuple[int, str], tuple[Callable[..., Any], str, Any]] = {}  # how to look, what was seen
        self._cells: list[tuple[Any, Any]] = []
        self._functions: list[tuple[FunctionType, Any, Any, Any]] = []
        self._classes: list[tuple[type[Any], dict[str, Any]]] = []

    def add_function(self, function: FunctionType, names: list[str]) -> None:
        self._functions.append((function, function.__code__, function.__defaults__, function.__kwdefaults__))
        bound = function.__globals__
        for name in names:
            self._globals[id(bound), name] = bound.get, name, bound.get(name, MISSING)
        for cell in function.__closure__ or ():
            self._cells.append((cell, contents_of(cell)))

    def add_class(self, cls: type[Any]) -> None:
        self._classes.append((cls, state_of(cls)))

    def unchanged(self) -> bool:
        for get, name, value in self._globals.values():
            if get(name, MISSING) is not value:
                return False
        for function, code, defaults, keyword_defaults in self._functions:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
            if function.__kwdefaults__ is not keyword_defaults:
                return False
        for cell, contents in self._cells:
            if contents_of(cell) is not contents:
                return False
        if not self._classes:
            return True
        return all(same_objects(state, state_of(cls)) for cls, state in self._classes)


class _NamedGlobals(dict[str, Any]):
    """Stands in a pickle for a shared dict, by its name."""

    def __init__(self, key: GlobalsKey, extras: dict[str, Any]) -> None:
        super().__init__(extras)
        self.key = key

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _find_globals, (self.key, dict(self))


def _reduce_code(code: CodeType) -> Any:
    """With its file's name, which cloudpickle leaves out: a traceback from a worker shall say where."""
    maker, arguments = cp._code_reduce(code)
    return maker, tuple([code.co_filename if part == "<dynamic-code>" else part for part in arguments])


def _reduce_cached_property(made: functools.cached_property[Any]) -> Any:
    """It holds a lock in Python 3.11, and a class of `__main__` that uses it could not travel."""
    return make_cached_property, (made.func, made.attrname)


def _reduce_lru_cache(made: Any) -> Any:
    """Without its entries, as the function that it wraps; by name where an import finds it."""
    module, name = made.__module__, getattr(made, "__qualname__", None)  # none around an instance, or a partial
    if name and module != "__main__" and getattr(sys.modules.get(module or ""), name, None) is made:
        return name
    known = versions.of_function(made) if name and "<" not in name and not changes_in_place(made) else None
    return make_lru_cache, (made.__wrapped__, made.cache_parameters(), known)


def _reduce_weak_keys(table: weakref.WeakKeyDictionary[Any, Any]) -> Any:
    """`functools.singledispatch` keeps its cache in one, inside a closure."""
    return weakref.WeakKeyDictionary, (dict(table),)


def _reduce_module(module: ModuleType) -> Any:
    """Its name is often that of a global, too: whether the two are one object would show in the pickle's bytes."""
    maker, arguments = cp._module_reduce(module)
    return maker, tuple([sys.intern(part) if type(part) is str else part for part in arguments])


_REDUCERS: dict[type[Any], Callable[[Any], Any]] = {  # what cloudpickle leaves out and programs are full of
    CodeType: _reduce_code,
    functools.cached_property: _reduce_cached_property,
    functools._lru_cache_wrapper: _reduce_lru_cache,
    weakref.WeakKeyDictionary: _reduce_weak_keys,
    ModuleType: _reduce_module,
}


class ByValuePickler(cp.Pickler):  # type: ignore[misc]
    """cloudpickle's Pickler; only the globals of functions and the state of classes travel otherwise.

    With `dependencies` it makes a definition, and writes down what it met. One that is used again takes functions and
    classes apart once.
    """

    dispatch_table = ChainMap(_REDUCERS, cp.Pickler.dispatch_table)

    def __init__(
        self,
        file: IO[bytes],
        namespace: str,
        buffer_callback: Callable[[Any], Any] | None = None,
        *,
        dependencies: Dependencies | None = None,
        is_used_again: bool = False,
    ) -> None:
        registered = forking.used_reducers()
        if registered:  # set now: the C pickler looks at it once
            self.dispatch_table = ChainMap({**registered, **_REDUCERS}, *cp.Pickler.dispatch_table.maps)
        super().__init__(file, protocol=PROTOCOL, buffer_callback=buffer_callback)
        self._namespace = namespace
        self._target = namespaces.current.target
        self._dependencies = dependencies
        self._reduced: dict[int, tuple[Any, Any]] | None = {} if is_used_again else None

    def reducer_override(self, obj: Any) -> Any:
        if self._reduced is None or not isinstance(obj, (FunctionType, type)):
            return self._reduce(obj)
        known = self._reduced.get(id(obj))
        if known is not None:
            return known[1]
        reduced = self._reduce(obj)
        if not pickles.has_found_refs():  # those that it holds have to be found each time
            self._reduced[id(obj)] = obj, reduced
        return reduced

    def leave_out_definitions(self) -> None:
        """Whoever reads what is pickled next has the classes that were pickled so far."""
        assert self._reduced is not None
        for key, (cls, reduced) in self._reduced.items():
            if type(reduced) is tuple and reduced[0] is _load_class and reduced[1][2]:
                sender, number, _ = reduced[1]
                self._reduced[key] = cls, (_load_class, (sender, number, b""))

    def _reduce(self, obj: Any) -> Any:
        if self._dependencies is None and isinstance(obj, type):
            if obj.__module__ == "__main__" and "<" not in obj.__qualname__:
                return _define_class(obj, self._namespace)
        if isinstance(obj, forked.DEFINITIONS):
            parts = forked.is_known(obj, self._target)
            if parts is not None:
                return self._reduce_inherited(obj, parts)
        if type(obj) is FunctionType:
            if cp._should_pickle_by_reference(obj):
                return NotImplemented
            wrapped = find_wrapper(obj)
            return (unwrap, wrapped) if wrapped else self._reduce_function(obj)
        if not isinstance(obj, type):
            return NotImplemented
        reduced = super().reducer_override(obj)
        if type(reduced) is tuple and len(reduced) == 6 and reduced[5] is cp._class_setstate:
            return self._reduce_class(obj, reduced)
        return reduced

    def _reduce_class(self, cls: type[Any], reduced: Any) -> Any:
        wrapped = find_wrapper(cls)
        if wrapped:
            return unwrap, wrapped
        if self._dependencies is not None:
            self._dependencies.add_class(cls)
        maker, arguments, own = reduced[:3]
        own[0].pop("__slotnames__", None)  # pickle's own note, as in `state_of`
        locks = {name: LOCKS[type(value)] for name, value in own[0].items() if type(value) in LOCKS}
        for name in locks:
            del own[0][name]
        if maker is cp._make_skeleton_class and "__slots__" in vars(cls):
            arguments = _with_slots(cls, arguments, own[0])
        return maker, arguments, (own, versions.of_class(cls), locks), None, None, _set_class_state

    def _reduce_inherited(self, thing: Any, parts: list[Any]) -> Any:
        """By its key, with what the globals that it names are bound to since."""
        main = vars(sys.modules["__main__"])
        named: dict[str, None] = {}
        for part in parts:
            if type(part) is FunctionType:
                names = list(cp._extract_code_globals(part.__code__))
                if self._dependencies is not None:
                    self._dependencies.add_function(part, names)
                if part.__globals__ is main:
                    named.update(dict.fromkeys(names))
            elif self._dependencies is not None and isinstance(part, type):
                self._dependencies.add_class(part)
        bindings = tuple(self._bindings("__main__", main, named)) if self._target is not None else ()
        return forked.find_inherited, (forked.key_of(thing),), bindings or None, None, None, _bind_anew

    def _reduce_function(self, function: FunctionType) -> Any:
        names = list(cp._extract_code_globals(function.__code__))
        if self._dependencies is not None:
            self._dependencies.add_function(function, names)
        bound = function.__globals__
        key, applied = self._name_of(bound)
        if key is None:  # a dict of its own (exec, a module made by hand): it goes as it is
            return self._dynamic_function_reduce(function)
        if id(bound) not in self.globals_ref:
            self.globals_ref[id(bound)] = _NamedGlobals(key, {name: bound[name] for name in _EXTRAS if name in bound})
        _, (code, named, _, _, closure), (attributes, slots), *_ = self._dynamic_function_reduce(function)
        del slots["__globals__"]
        if applied is None:
            bindings = tuple(self._bindings(key[1], bound, names, _held_by(function)))
        else:
            sent = [name for name in names if name in applied and not is_only_inherited(applied[name][1])]
            bindings = tuple([(name, *applied[name]) for name in sent])
        known = None
        if "<" not in function.__qualname__ or function in versions.functions:  # others are made anew all the time
            known = None if changes_in_place(function) else versions.of_function(function)
        state = attributes, slots, bindings, known
        return _make_function, (known, code, named, closure), state, None, None, _set_function_state

    def _name_of(self, bound: dict[str, Any]) -> tuple[GlobalsKey | None, dict[str, tuple[int, Any]] | None]:
        """The shared name of a globals dict; and, when it came from elsewhere, the bindings that came with it."""
        shared = namespaces.shared_by_id.get(id(bound))
        if shared is not None:
            return shared.key, shared.applied
        module = bound.get("__name__")
        if type(module) is str and getattr(sys.modules.get(module), "__dict__", None) is bound:
            return (self._namespace, module, versions.origin), None
        return None, None

    def _bindings(
        self, module: str, bound: dict[str, Any], names: Iterable[str], held: Container[int] = ()
    ) -> Iterator[Binding]:
        """`held`: ids of what goes along in any case, and is to become what the receiver has bound."""
        inherited = self._target.versions if self._target is not None and module == "__main__" else {}
        for name in names:
            value = bound.get(name, MISSING)
            if value is not MISSING:
                version = versions.of_global(module, name, value)
                if inherited.get(name) != version or id(value) in held:
                    yield name, version, value


def _held_by(function: FunctionType) -> set[int]:
    held = [*closure_of(function), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return {id(value) for value in held}


def _with_slots(cls: type[Any], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> tuple[Any, ...]:
    """cloudpickle makes a class that has a `__dict__` instead, and its instances then do not fit the original."""
    own = vars(cls)
    slots = [name for name, value in own.items() if type(value) is MemberDescriptorType]
    for name in slots:  # a private one is called otherwise than in `__slots__`
        attributes.pop(name, None)
    slots += [name for name in ("__dict__", "__weakref__") if name in own]
    constructor, name, bases, named, *rest = arguments
    return constructor, name, bases, {**named, "__slots__": tuple(slots)}, *rest


class _Definition:
    """A class, taken apart once."""

    __slots__ = ("arguments", "cls", "dependencies", "refs")

    def __init__(self, cls: type[Any], arguments: Any, dependencies: Dependencies, refs: tuple[Any, ...]) -> None:
        self.cls = cls
        self.arguments = arguments
        self.dependencies = dependencies
        self.refs = refs


_definitions: OrderedDict[tuple[str, int, int], _Definition] = OrderedDict()
_numbers = itertools.count(1)


def _define_class(cls: type[Any], namespace: str) -> Any:
    """The reduction of a class inside a value."""
    target = namespaces.current.target
    key = (namespace, 0 if target is None else target.number, id(cls))
    known = _definitions.get(key)
    if known is None or known.cls is not cls or not known.dependencies.unchanged():
        dependencies = Dependencies()
        number = next(_numbers)  # before it is made: what changes meanwhile gets a later one
        data, refs = pickles.dumps_by_value(cls, namespace, None, is_kept=True, dependencies=dependencies)
        sender = (namespace, versions.origin, cp._get_or_create_tracker_id(cls))
        known = _definitions[key] = _Definition(cls, (sender, number, data), dependencies, refs)
        if len(_definitions) > CACHED_CLASSES:
            _definitions.popitem(last=False)
    pickles.collect(known.refs)
    return _load_class, known.arguments


def forget_program() -> None:
    """As the interpreter exits, and nothing travels any more: what the program has made is held here no longer, else
    Python would finalise it after `sys` and all, where not even a `print` of its works."""
    _definitions.clear()
    namespaces.forget_program()


def begin_anew() -> Callable[[], None]:
    """Pickle as a process that has pickled nothing yet, until what this returns is called. For one thread at a time."""
    global _numbers
    tables: list[Any] = [
        cp._DYNAMIC_CLASS_TRACKER_BY_CLASS, cp._DYNAMIC_CLASS_TRACKER_BY_ID, class_versions, _definitions,
        versions.numbered_globals, versions.states, versions.functions, versions.by_key,
    ]  # fmt: skip
    kept = [dict(table) for table in tables]
    numbers, _numbers = _numbers, itertools.count(1)
    last_function, versions.last_function = versions.last_function, 0

    def go_back() -> None:
        global _numbers
        _numbers, versions.last_function = numbers, last_function
        for table, entries in zip(tables, kept, strict=True):
            table.clear()
            table.update(entries)

    for table in tables:
        table.clear()
    return go_back


# ---- what the pickles call -----------------------------------------------------------------------------------


def _load_class(sender: tuple[str, str, str], number: int, data: bytes) -> Any:
    cls = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(sender[2])
    table = namespaces.current.table
    if cls is not None:
        known = class_versions.get(cls)
        if table.classes_had.get(sender, 0) >= number or (known is not None and known[0] == versions.origin):
            return cls
    cls = pickles.loads(data)
    table.classes_had[sender] = max(number, table.classes_had.get(sender, 0))
    return cls


def make_cached_property(function: Any, name: str) -> Any:
    made = functools.cached_property(function)
    made.attrname = name
    return made


def make_lru_cache(function: Any, parameters: dict[str, Any], known: tuple[FunctionKey, int] | None) -> Any:
    found = None if known is None else versions.find_function(*known, getattr(function, "__globals__", None))
    if found is not None:
        return found
    made = functools.lru_cache(**parameters)(function)
    if known is not None:
        versions.know_function(made, *known)
    return made


def _find_globals(key: GlobalsKey, extras: dict[str, Any]) -> dict[str, Any]:
    return namespaces.current.table.find(key, extras).names


def _make_function(
    known: tuple[FunctionKey, int] | None, code: CodeType, bound: dict[str, Any], closure: Any
) -> FunctionType:
    found = None if known is None else versions.find_function(*known, bound)
    return FunctionType(code, bound, None, None, closure) if found is None else found


def _bind_anew(thing: Any, bindings: tuple[Binding, ...]) -> None:
    shared = namespaces.shared_by_id.get(id(vars(sys.modules["__main__"])))
    assert shared is not None, "this process was not forked"
    shared.apply(bindings)


def _set_function_state(function: FunctionType, state: Any) -> None:
    attributes, slots, bindings, known = state
    shared = namespaces.shared_by_id.get(id(function.__globals__))
    same = {} if shared is None else shared.apply(bindings)  # None: this process is where the globals come from
    if known is not None and function in versions.functions:
        return  # it was here already
    vars(function).update(attributes)
    slots.pop("_cloudpickle_submodules")  # being unpickled, they are imported
    for cell, filled in zip(function.__closure__ or (), slots.pop("__closure__") or (), strict=True):
        contents = contents_of(filled)
        if contents is not EMPTY:
            cell.cell_contents = same.get(id(contents), contents)
    if same:
        slots["__defaults__"] = tuple([same.get(id(value), value) for value in slots["__defaults__"] or ()]) or None
        for name, value in (slots["__kwdefaults__"] or {}).items():
            slots["__kwdefaults__"][name] = same.get(id(value), value)
    for name, value in slots.items():
        setattr(function, name, value)
    if known is not None:
        versions.know_function(function, *known)


def _set_class_state(cls: type[Any], state: Any) -> type[Any]:
    own, (origin, version), locks = state
    with versions.lock:
        known = class_versions.get(cls)
        if known is not None and (known[0] != origin or known[1] >= version or origin == versions.origin):
            return cls
        class_versions[cls] = (origin, version)
    for name, make in locks.items():
        if LOCKS.get(type(vars(cls).get(name))) is not make:  # what this process has may be held
            setattr(cls, name, make())
    cp._class_setstate(cls, own)
    return cls
