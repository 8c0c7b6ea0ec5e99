"""Functions are sent once per worker, then named by the hash of their definition (DESIGN.md section 6).

- A definition is cached by its function, and made again when what it was made from is another object than last time:
  its code, defaults, a closure cell, a global that it or anything it reaches names, an attribute of a class that
  travels with it. `export` asks that at every call; for a function with three globals it costs half a microsecond.
- Only functions, those under `lru_cache`, and classes are cached. A bound method or a partial holds an instance
  that may have changed, and is made again each time; equal bytes have an equal hash, so nothing is sent twice.
- Globals travel as (name, version, value): a worker that has seen nothing gets all of them, one that has seen this
  version keeps what it has set since. The rules are in `_serialization/namespaces.py`.
- Large globals can be shared: `share` puts such a value into the store once, whichever functions name it, and the
  definition carries the ref. Without it they are buffers of the definition.
- Things that an import finds go by reference: the workers have the driver's `sys.path`.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any

from _blake2 import blake2b  # hashlib's own, without OpenSSL (3 MB a session)

from miniray._serialization.values import Serialized, deserialize, serialize_by_value
from miniray.core.ids import FunctionId

FUNCTION_ID_BYTES = 16
_CACHED = (FunctionType, type, functools._lru_cache_wrapper)  # what cannot have changed unseen
CACHED_DEFINITIONS = 1000  # an entry keeps its function and what it was made from alive
SHARED_GLOBAL_BYTES = 100_000  # from here on a global is given to `share`


class _Exported:
    __slots__ = ("definition", "dependencies", "function", "function_id")

    def __init__(self, function: Any, function_id: FunctionId, definition: Serialized, dependencies: Any) -> None:
        self.function = function  # keeps the id by which it is found true
        self.function_id = function_id
        self.definition = definition
        self.dependencies = dependencies


class FunctionExporter:
    """The driver's side: functions to definitions.

    `namespace` names whose globals they share: a session's, or a pool's. `share` puts a large global into the
    store and returns something picklable (a ref) that the importer's `fetch` understands.
    """

    def __init__(self, namespace: str = "", *, share: Callable[[Any], Any] | None = None) -> None:
        self._namespace = namespace
        self._cache: OrderedDict[int, _Exported] = OrderedDict()
        self._share = share
        self._shared: dict[int, tuple[weakref.ref[Any], Any]] = {}
        if share is not None:
            from miniray._serialization import namespaces

            namespaces.sharing[namespace] = self._share_if_large

    def prepare_fork(self) -> None:
        """To be called before each fork of this process that becomes a worker of the namespace.

        What `__main__` has bound at the first call is taken as known to all of them: it does not travel, so it
        need not be something that can be pickled.
        """
        from miniray._serialization.by_value import prepare_fork

        prepare_fork(self._namespace)

    def close(self) -> None:
        """The session or pool is over."""
        self._cache.clear()
        self._shared.clear()
        if "miniray._serialization.namespaces" in sys.modules:
            from miniray._serialization import namespaces

            namespaces.sharing.pop(self._namespace, None)
            namespaces.inherited.pop(self._namespace, None)

    def export(self, function: Callable[..., Any]) -> tuple[FunctionId, Serialized]:
        """The name and the definition of `function`, as it is now.

        Raises:
            SerializationError: it, or something that it needs, cannot be pickled; the message says where that is.
        """
        cached = self._cache.get(id(function))
        if cached is not None and cached.dependencies.unchanged():
            return cached.function_id, cached.definition
        return self._export_anew(function)

    def forget(self, key: int) -> None:
        """The function with this `id` is remote no more: its definition, and what it has captured, need not live on."""
        self._cache.pop(key, None)

    def _export_anew(self, function: Callable[..., Any]) -> tuple[FunctionId, Serialized]:
        from miniray._serialization.by_value import Dependencies

        dependencies = Dependencies()
        what = f"function {getattr(function, '__qualname__', None) or type(function).__qualname__}"
        definition = serialize_by_value(function, self._namespace, what, dependencies=dependencies)
        function_id = _hash(definition)
        if isinstance(function, _CACHED):
            self._cache[id(function)] = _Exported(function, function_id, definition, dependencies)
            if len(self._cache) > CACHED_DEFINITIONS:
                self._cache.popitem(last=False)
        return function_id, definition

    def _share_if_large(self, value: Any) -> Any:
        """`value`, or what stands for it in the store; one place for each object, however many functions name it."""
        if _memory_of(value) < SHARED_GLOBAL_BYTES:
            return value
        known = self._shared.get(id(value))
        if known is not None and known[0]() is value:
            return _SharedGlobal(known[1])
        assert self._share is not None
        reference = self._share(value)
        forget, key = self._shared.pop, id(value)
        self._shared[key] = (weakref.ref(value, lambda _: forget(key, None)), reference)
        return _SharedGlobal(reference)


class FunctionImporter:
    """The worker's side: definitions to functions.

    Several in one process (the simulator's) have globals of their own when `isolated`. `fetch` gets the value of
    what the exporter's `share` gave. `inherited` names the namespace for which the driver forked this process.
    """

    def __init__(
        self, *, isolated: bool = False, inherited: str | None = None, fetch: Callable[[Any], Any] | None = None
    ) -> None:
        self._fetch = fetch
        self._table: Any = None
        self._isolated = isolated
        if inherited is not None or (fetch is not None and not isolated):
            from miniray._serialization import namespaces

            if inherited is not None:
                namespaces.inherit_main(inherited)
            if fetch is not None and not isolated:
                namespaces.process_fetch[:] = [fetch]

    def load(self, definition: bytes | memoryview, pin: object | None = None) -> Callable[..., Any]:
        """The callable. Runs users' code (imports, constructors), and raises what that raises.

        Its globals are applied now: to be called when the task starts, in the order in which the tasks run.
        """
        from miniray._serialization import namespaces

        if self._table is None:
            self._table = namespaces.GlobalsTable({}) if self._isolated else namespaces.process_table()
        with namespaces.loading_into(self._table, self._fetch):
            function: Callable[..., Any] = deserialize(definition, pin)
        return function

    def forget(self, namespace: str) -> None:
        """The session or pool is over: its globals go with the last function that uses them."""
        if self._table is not None:
            self._table.forget(namespace)


class _SharedGlobal:
    """Stands in a definition for a large global that lies in the store."""

    __slots__ = ("reference",)

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def __reduce__(self) -> Any:
        from miniray._serialization.namespaces import fetch_shared

        return fetch_shared, (self.reference,)


def _memory_of(value: Any) -> int:
    """Bytes of an array or table, which alone are worth a place of their own; 0 of anything else."""
    root = type(value).__module__.partition(".")[0]
    if root not in ("numpy", "pyarrow") or root not in sys.modules or isinstance(value, type):
        return 0
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


def _hash(definition: Serialized) -> FunctionId:
    digest = blake2b(definition.data, digest_size=FUNCTION_ID_BYTES)
    for buffer in definition.buffers:
        digest.update(buffer)
    return FunctionId(digest.digest())
