"""Which process of a session this one is: `current()` is what every word of the API begins with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from miniray._runtime.process import Process


class _Context:
    process: Process | None = None
    pid: int = 0  # of the process that set it: a fork of it is another one
    start: Callable[[], Process] | None = None  # the implicit `init`
    ended: str = ""  # why there is none any more


_context = _Context()


def set_current(process: Process | None, *, ended: str = "") -> None:
    _context.process = process
    _context.pid = os.getpid()
    _context.ended = ended


def set_implicit_start(start: Callable[[], Process]) -> None:
    _context.start = start


def get_current() -> Process | None:
    """The session's process, or None. A fork of a driver has none of its own."""
    return _context.process


def is_forked() -> bool:
    """Whether this is a fork of a process with a session."""
    return _context.process is not None and _context.pid != os.getpid()


def current() -> Process:
    """This process of the session; begins a session at the first use.

    Raises:
        ForkedDriverError, SessionError: there can be none.
    """
    process = _context.process
    if process is None:
        if _context.start is None:
            raise RuntimeError("the API was not loaded")
        return _context.start()
    if process.ended is not None:
        process.raise_ended()
    return process
