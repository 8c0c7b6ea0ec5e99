"""miniray: parallel Python with ownership. Tasks, actors and zero-copy objects.

    import miniray

    @miniray.remote
    def square(x):
        return x * x

    miniray.get([square.remote(i) for i in range(10)])

Names are resolved at first use (PEP 562), so that `import miniray` loads neither pyarrow nor asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniray._api.actor import ActorClass, ActorHandle
    from miniray._api.object_ref import ObjectRef
    from miniray._api.objects import cancel, get, kill, put, wait
    from miniray._api.remote import RemoteFunction, remote
    from miniray._api.session import init, is_initialized, shutdown

__version__ = "0.1.0"

_HOME = {
    "ActorClass": "miniray._api.actor",
    "ActorHandle": "miniray._api.actor",
    "ObjectRef": "miniray._api.object_ref",
    "RemoteFunction": "miniray._api.remote",
    "cancel": "miniray._api.objects",
    "errors": "",
    "get": "miniray._api.objects",
    "init": "miniray._api.session",
    "is_initialized": "miniray._api.session",
    "kill": "miniray._api.objects",
    "put": "miniray._api.objects",
    "remote": "miniray._api.remote",
    "shutdown": "miniray._api.session",
    "wait": "miniray._api.objects",
}
__all__ = [*_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'miniray' has no attribute {name!r}")
    value = getattr(import_module(home), name) if home else import_module(f"miniray.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
