"""Functions are sent once per worker, then named by the hash of their definition (DESIGN.md section 6).

- A definition is cached by its function, and made again when what it was made from is another object than last time:
  its code, defaults, a closure cell, a global that it or anything it reaches names, an attribute of a class that
  travels with it. `export` asks that at every call; for a function with three globals it costs half a microsecond.
- Only functions, those under `lru_cache`, and classes are cached. A bound method or a partial holds an instance
  that may have changed, and is made again each time; equal bytes have an equal hash, so nothing is sent twice.
- Globals travel as (name, version, value): a worker that has seen nothing gets all of them, one that has seen this
  version keeps what it has set since. The rules are in `_serialization/namespaces.py`.
- Things that an import finds go by reference: the workers have the `sys.path` of `init`. What it has more by now goes
  with each definition, and when it grows all are made again; a call pays 30 ns to find that it has not.
"""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from _blake2 import blake2b  # hashlib's own, without OpenSSL (3 MB a session)

from miniray._runtime.surroundings import Additions, Placed, Surroundings
from miniray._serialization.culprit import SerializationError, explain
from miniray._serialization.values import Serialized, deserialize, serialize_by_value
from miniray.core.ids import FunctionId

if TYPE_CHECKING:
    from miniray._serialization.forked import Inherited

FUNCTION_ID_BYTES = 16
_CACHED = (FunctionType, type, functools._lru_cache_wrapper)  # what cannot have changed unseen
CACHED_DEFINITIONS = 1000  # an entry keeps its function and what it was made from alive


class _Exported:
    __slots__ = ("definition", "dependencies", "function", "function_id")

    def __init__(self, function: Any, function_id: FunctionId, definition: Serialized, dependencies: Any) -> None:
        self.function = function  # keeps the id by which it is found true
        self.function_id = function_id
        self.definition = definition
        self.dependencies = dependencies


class FunctionExporter:
    """The driver's side: functions to definitions.

    `namespace` names whose globals they share. `inherited`: for workers that were forked from this process, what they
    have already. `surroundings`: those with which workers begin; None: they find what this process does.
    """

    def __init__(
        self, namespace: str = "", inherited: Inherited | None = None, surroundings: Surroundings | None = None
    ) -> None:
        self._namespace = namespace
        self._inherited = inherited
        self._surroundings = surroundings
        self._path = sys.path  # as it was when it was last looked at
        self._additions = Additions((), ())
        self._cache: OrderedDict[int, _Exported] = OrderedDict()

    def export(self, function: Callable[..., Any]) -> tuple[FunctionId, Serialized]:
        """The name and the definition of `function`, as it is now.

        Raises:
            SerializationError: it, or something that it needs, cannot be pickled; the message says where that is.
        """
        cached = self._cache.get(id(function))
        if cached is not None and cached.dependencies.unchanged() and sys.path == self._path:
            return cached.function_id, cached.definition
        return self._export_anew(function)

    def forget(self, key: int) -> None:
        """The function with this `id` is remote no more: its definition, and what it has captured, need not live on."""
        self._cache.pop(key, None)

    def _export_anew(self, function: Callable[..., Any]) -> tuple[FunctionId, Serialized]:
        from miniray._serialization.by_value import Dependencies
        from miniray._serialization.forked import NOTHING
        from miniray._serialization.namespaces import pickling_for

        if self._surroundings is not None:
            self._look_at_path(self._surroundings)
        dependencies = Dependencies()
        what = f"function {getattr(function, '__qualname__', None) or type(function).__qualname__}"
        sent = Placed(self._additions, function) if self._additions else function
        with pickling_for(self._inherited or NOTHING):
            try:
                definition = serialize_by_value(sent, self._namespace, what, is_kept=True, dependencies=dependencies)
            except SerializationError as error:
                if sent is function:
                    raise
                raise explain(function, what, error.cause) from error  # the path begins at what the caller knows
        function_id = _hash(definition)
        if isinstance(function, _CACHED):
            self._cache[id(function)] = _Exported(function, function_id, definition, dependencies)
            if len(self._cache) > CACHED_DEFINITIONS:
                self._cache.popitem(last=False)
        return function_id, definition

    def _look_at_path(self, surroundings: Surroundings) -> None:
        path, additions = list(sys.path), surroundings.additions()
        if additions != self._additions:
            self._additions = additions
            self._cache.clear()
        self._path = path


class FunctionImporter:
    """The worker's side: definitions to functions.

    Several in one process (the simulator's) have globals of their own when `isolated`.
    """

    def __init__(self, *, isolated: bool = False) -> None:
        self._table: Any = None
        self._isolated = isolated

    def load(self, definition: bytes | memoryview, pin: object | None = None) -> Callable[..., Any]:
        """The callable. Runs users' code (imports, constructors), and raises what that raises.

        Its globals are applied now: to be called when the task starts, in the order in which the tasks run. They are
        this process's own: arrays among them may be changed, as lists may.
        """
        from miniray._serialization import namespaces

        if self._table is None:
            self._table = namespaces.GlobalsTable({}) if self._isolated else namespaces.process_table()
        with namespaces.loading_into(self._table):
            function: Callable[..., Any] = deserialize(definition, pin, writable=True)
        return function


def _hash(definition: Serialized) -> FunctionId:
    digest = blake2b(definition.data, digest_size=FUNCTION_ID_BYTES)
    for buffer in definition.buffers:
        digest.update(buffer)
    return FunctionId(digest.digest())
