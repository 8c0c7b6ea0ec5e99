"""What users' code prints in a worker: line by line to where the driver's descriptors 1 and 2 led at `init`.

- A line is one write, so lines of two workers never mix. (In a pipe those of up to PIPE_BUF bytes; longer ones may,
  where its reader is slow: the kernel promises no more.)
- Each begins with `(f pid=123) `: the function, or the class of the actor, that the process began last; unless it asked
  for `raw_output`, as the workers of `Pool` do, or there was none yet.
- What has no end yet waits for it, for each thread by itself; `flush` and the end of the task write it as it is.
- No message carries it. So it is out before the task's result is, however busy the driver, and who prints nothing pays
  for a name and a look. Rival: lines by message, through the driver's `sys.stdout`. They would follow
  `redirect_stdout`, which those of `multiprocessing` do not; and those of a worker that crashes might be lost.
- Descriptors 1 and 2 themselves are as they were, for C code and subprocesses.
"""

from __future__ import annotations

import io
import os
import select
import sys
from threading import get_ident
from typing import Any

PIPE_BUF = select.PIPE_BUF
MAX_WAITING_BYTES = 1 << 16  # of a line without an end; then it is written


class Speaker:
    """Whose output it is."""

    __slots__ = ("name", "raw", "unfinished")

    def __init__(self) -> None:
        self.name = ""
        self.raw = False
        self.unfinished: dict[LineOutput, None] = {}  # with lines that have no end yet

    def begins(self, called: Any, raw: bool) -> None:
        """From now on this function, or the actor of this class. Only its name is kept: it may hold refs."""
        self.name = getattr(called, "__name__", "") or type(called).__name__
        self.raw = raw

    def prefix(self) -> bytes:
        return b"" if self.raw or not self.name else f"({self.name} pid={os.getpid()}) ".encode()

    def finish(self) -> None:
        """The task has ended, and so do its lines."""
        while self.unfinished:
            stream, _ = self.unfinished.popitem()
            try:
                stream.finish()
            except OSError:
                pass  # nobody reads it any more


class LineOutput(io.RawIOBase):
    """Below `sys.stdout` or `sys.stderr` of a worker, which are unbuffered themselves."""

    def __init__(self, descriptor: int, speaker: Speaker) -> None:
        self._descriptor = descriptor
        self._speaker = speaker
        self._parts: dict[int, bytearray] = {}  # of lines without an end, by thread
        self._open: int | None = None  # the thread whose part was written, and whose line goes on
        self.name = f"<worker's descriptor {descriptor}>"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        given = bytes(data)
        me = get_ident()
        end = given.rfind(b"\n") + 1
        if end:
            self._put(me, bytes(self._parts.pop(me, b"")) + given[:end])
        if end < len(given):
            part = self._parts.setdefault(me, bytearray())
            part += given[end:]
            self._speaker.unfinished[self] = None
            if len(part) > MAX_WAITING_BYTES:
                self.flush()
        return len(given)

    def flush(self) -> None:
        super().flush()
        me = get_ident()
        part = self._parts.pop(me, None)
        if part:
            self._put(me, bytes(part))

    def finish(self) -> None:
        """Write what waits; lines with a prefix get an end."""
        end = b"\n" if self._speaker.prefix() else b""
        for thread in list(self._parts):
            self._put(thread, bytes(self._parts.pop(thread, b"")) + end)
        if self._open is not None:
            if end:
                self._write(end)
            self._open = None

    def _put(self, thread: int, text: bytes) -> None:
        """Lines, of which the last may have no end."""
        prefix = self._speaker.prefix()
        lines = _lines(text)
        if prefix:
            goes_on = self._open == thread
            lines = [line if goes_on and not index else prefix + line for index, line in enumerate(lines)]
        if text.endswith(b"\n"):
            self._open = None
        else:
            self._open = thread
            self._speaker.unfinished[self] = None
        block = b""
        for line in lines:
            if block and len(block) + len(line) > PIPE_BUF:
                self._write(block)
                block = b""
            block += line
        self._write(block)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody made it so, for all who have it
                select.select([], [self._descriptor], [])


def _lines(text: bytes) -> list[bytes]:
    """Each with its line feed. (A carriage return is none: it goes back to the beginning of a line.)"""
    parts = text.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


def speak_through(speaker: Speaker) -> None:
    """Have `sys.stdout` and `sys.stderr` of this process speak for it, where there are any."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        before: Any = getattr(sys, f"__{name}__")
        if before is not None:
            stream = io.TextIOWrapper(
                LineOutput(descriptor, speaker), before.encoding, before.errors, write_through=True
            )
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
