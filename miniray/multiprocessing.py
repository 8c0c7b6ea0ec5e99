"""`multiprocessing`, with miniray's Pool in it: a program changes one import, and nothing else.

    import miniray.multiprocessing as multiprocessing

    with multiprocessing.get_context("spawn").Pool() as pool: ...

`Pool`, `pool` and the contexts of `get_context` are ours. Everything else is the standard library's own object, as it
is when it is asked for: processes, queues, locks, managers, `ThreadPool`, `TimeoutError`.
"""

from __future__ import annotations

import multiprocessing as _standard
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from multiprocessing import context as _contexts
from typing import Any

from miniray import pool
from miniray.pool import Pool

__all__ = [*_standard.__all__]  # so that `import *` brings the same names


class _OwnPool:
    """What a context of ours has in place of the standard one's."""

    is_default = False  # nobody has asked for just this one: the pool may choose how its workers start

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **beyond: Any,
    ) -> Pool:
        context: Any = None if self.is_default else self
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
_asked_for = {name: kind() for name, kind in _KINDS.items()}
_defaults = {name: kind() for name, kind in _KINDS.items()}
for _default in _defaults.values():
    _default.is_default = True


def get_context(method: str | None = None) -> Any:
    """Like the standard one: a context whose `Pool` is ours.

    Raises:
        ValueError: there is no such start method.
    """
    name: str = vars(type(_standard.get_context(method)))["_name"]
    return _defaults[name] if method is None else _asked_for[name]


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


sys.modules[f"{__name__}.pool"] = pool  # so that `from miniray.multiprocessing.pool import ThreadPool` works
