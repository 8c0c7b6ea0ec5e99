"""miniray: parallel Python with ownership. Tasks, actors and zero-copy objects.

    import miniray

    @miniray.remote
    def square(x):
        return x * x

    miniray.get([square.remote(i) for i in range(10)])

Names are resolved at first use (PEP 562), so that `import miniray` loads neither pyarrow nor asyncio.
"""

from __future__ import annotations

import atexit
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniray._api.actor import ActorClass, ActorHandle
    from miniray._api.carried_errors import pack_error, unpack_error
    from miniray._api.object_ref import ObjectRef
    from miniray._api.objects import Snapshots, cancel, get, kill, put, transfer, wait
    from miniray._api.remote import RemoteFunction, remote
    from miniray._api.session import init, is_initialized, is_simulated, shutdown
    from miniray._api.signals import UnbrokenLock, raised_by_handler
    from miniray.executor import Executor
    from miniray.pool import Pool

__version__ = "0.1.0"

__all__ = [
    "ActorClass",
    "ActorHandle",
    "Executor",
    "ObjectRef",
    "Pool",
    "RemoteFunction",
    "Snapshots",
    "UnbrokenLock",
    "cancel",
    "errors",
    "get",
    "init",
    "is_initialized",
    "is_simulated",
    "kill",
    "pack_error",
    "put",
    "raised_by_handler",
    "remote",
    "shutdown",
    "transfer",
    "unpack_error",
    "wait",
]

_HOME = {
    "miniray._api.actor": ("ActorClass", "ActorHandle"),
    "miniray._api.carried_errors": ("pack_error", "unpack_error"),
    "miniray._api.object_ref": ("ObjectRef",),
    "miniray._api.objects": ("Snapshots", "cancel", "get", "kill", "put", "transfer", "wait"),
    "miniray._api.remote": ("RemoteFunction", "remote"),
    "miniray._api.session": ("init", "is_initialized", "is_simulated", "shutdown"),
    "miniray._api.signals": ("UnbrokenLock", "raised_by_handler"),
    "miniray.executor": ("Executor",),
    "miniray.pool": ("Pool",),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("miniray.errors")
    home = _MODULES.get(name)
    if home is None:
        raise AttributeError(f"module 'miniray' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _at_exit() -> None:
    session = sys.modules.get("miniray._api.session")
    if session is not None:
        session.end_with_interpreter()


atexit.register(_at_exit)  # here: functions that are registered later are called before it
