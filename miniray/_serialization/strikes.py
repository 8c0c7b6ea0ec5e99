"""Exceptions of signals' handlers: a handler strikes in the middle of users' pickling code, and what it raises is not
that code's fault, but goes to the program as it is.
"""

from __future__ import annotations

from types import CodeType

handling: dict[CodeType, None] = {}  # code that calls handlers; the runtime says which


def raised_by_handler(error: BaseException) -> bool:
    """Whether this exception comes from a signal's handler, and not from the code that it has struck."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in handling:
        trace = trace.tb_next
    return trace is not None
