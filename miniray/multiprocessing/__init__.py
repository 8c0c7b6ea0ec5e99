"""`multiprocessing`, with miniray's Pool in it: a program changes one import, and nothing else.

    import miniray.multiprocessing as multiprocessing

    with multiprocessing.get_context("spawn").Pool() as pool: ...

`Pool`, `pool` and the contexts of `get_context` are ours. Everything else is the standard library's own object, as it
is when it is asked for: processes, queues, locks, managers, `ThreadPool`, `TimeoutError`.

A pool's workers are forked from this process where the standard pool's would be: on Linux before Python 3.14, unless
`set_start_method` says otherwise. So they have what the program has set before: logging, filters of warnings, what it
has changed in imported modules. (`miniray.Pool` forks them only if nothing else can bring them what they need.)
"""

from __future__ import annotations

import multiprocessing as _standard
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from multiprocessing import context as _contexts
from types import ModuleType
from typing import Any

from miniray.multiprocessing import pool as pool
from miniray.multiprocessing.pool import Pool

__all__ = [*_standard.__all__]  # so that `import *` brings the same names


class _OwnPool:
    """What a context of ours has in place of the standard one's."""

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **beyond: Any,
    ) -> Pool:
        context: Any = self
        return Pool(processes, initializer, initargs, maxtasksperchild, context, **beyond)

    def get_context(self, method: str | None = None) -> Any:
        return self if method is None else get_context(method)


class ForkContext(_OwnPool, _contexts.ForkContext):  # type: ignore[misc]
    pass


class SpawnContext(_OwnPool, _contexts.SpawnContext):  # type: ignore[misc]
    pass


class ForkServerContext(_OwnPool, _contexts.ForkServerContext):  # type: ignore[misc]
    pass


_KINDS: dict[str, type[Any]] = {"fork": ForkContext, "spawn": SpawnContext, "forkserver": ForkServerContext}
_contexts_by_name = {name: kind() for name, kind in _KINDS.items()}


def get_context(method: str | None = None) -> Any:
    """Like the standard one: a context whose `Pool` is ours.

    Raises:
        ValueError: there is no such start method.
    """
    name: str = vars(type(_standard.get_context(method)))["_name"]
    return _contexts_by_name[name]


def __getattr__(name: str) -> Any:
    """The standard library's; a submodule that nobody has imported yet is imported."""
    try:
        return getattr(_standard, name)
    except AttributeError:
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    try:
        return import_module(f"multiprocessing.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Submodules(MetaPathFinder, Loader):
    """`from miniray.multiprocessing.managers import BaseManager`: the standard module itself, and no copy of it, of
    whose classes nothing would be an instance. `pool` is found before this is asked."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        package, _, last = name.rpartition(".")
        if package != __name__ or find_spec(f"multiprocessing.{last}") is None:
            return None
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"multiprocessing.{spec.name.rpartition('.')[2]}")
        spec.loader_state = module.__spec__  # which the import system overwrites
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


sys.meta_path.append(_Submodules())
