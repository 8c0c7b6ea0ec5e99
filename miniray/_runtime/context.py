"""Which process of a session this one is: `current()` is what every word of the API begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miniray.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from miniray._runtime.process import Process


class _Context:
    process: Process | None = None
    start: Callable[[], Process] | None = None  # the implicit `init`
    forbidden = ""  # why there is none


_context = _Context()


def set_current(process: Process | None) -> None:
    _context.process = process


def set_implicit_start(start: Callable[[], Process] | None) -> Callable[[], Process] | None:
    """Who begins a session where there is none. The one before."""
    before, _context.start = _context.start, start
    return before


def forbid_implicit_start(why: str) -> str:
    """Have `current` raise this instead of beginning a session; "" allows it. What was said before."""
    before, _context.forbidden = _context.forbidden, why
    return before


def get_current() -> Process | None:
    """The session's process, or None. In a fork of a driver: the parent's, which has `ended` for it."""
    return _context.process


def is_simulated() -> bool:
    """Whether it is a process of `miniray.testing`'s."""
    process = _context.process
    return process is not None and process.surroundings is None


def session_with(words: str) -> str:
    """What a user would have called with these arguments to have another session."""
    return f"{'miniray.testing.simulate' if is_simulated() else 'miniray.init'}({words})"


def current() -> Process:
    """This process of the session; begins a session at the first use.

    Raises:
        ForkedDriverError, SessionError: there can be none.
    """
    process = _context.process
    if process is None:
        if _context.forbidden:
            raise SessionError(_context.forbidden)
        if _context.start is None:
            raise RuntimeError("the API was not loaded")
        return _context.start()
    if process.ended is not None:
        process.raise_ended()
    return process
