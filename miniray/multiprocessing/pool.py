"""`multiprocessing.pool`, with miniray's Pool in it, which starts its workers as the standard one would."""

from __future__ import annotations

from multiprocessing.context import BaseContext

from miniray import pool as _pool
from miniray.pool import *  # noqa: F403
from miniray.pool import get_context

__all__ = [*_pool.__all__]


class Pool(_pool.Pool):  # type: ignore[no-redef]
    """Processes that run calls: `miniray.Pool`, whose `context` is by default what `set_start_method` says."""

    def _default_context(self) -> BaseContext:
        return get_context()
