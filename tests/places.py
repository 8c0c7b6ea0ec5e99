"""Every place of some files where Python can run a signal's handler: after a call, at the start of a function, at the
end of a loop's body. A test counts them, and strikes at one of them."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


class Places:
    """Counts the places that a program passes in watched files, and strikes at one of them.

    Args:
        watched: what the paths of these files begin with.
    """

    def __init__(self, strike_at: int, strike: Callable[[FrameType], None], watched: str | tuple[str, ...]) -> None:
        self.count = 0
        self.struck = ""
        self._last: dict[int, int] = {}  # of each frame, by its id: the instruction before
        self._strike_at, self._strike, self._watched = strike_at, strike, watched

    def trace(self, frame: FrameType, kind: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._watched):
            return None
        frame.f_trace_opcodes = True
        if kind == "call":
            self._last[id(frame)] = 0
        if kind == "opcode":
            last = self._last.get(id(frame), 0)
            self._last[id(frame)] = frame.f_code.co_code[frame.f_lasti]
            if not dis.opname[last].startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                return self.trace
            self.count += 1
            if self.count == self._strike_at:
                self.struck = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                self._strike(frame)
        return self.trace

    def run(self, program: Callable[[], None]) -> None:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            program()
        finally:
            sys.settrace(before)
