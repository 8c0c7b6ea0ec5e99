"""Signals may land anywhere: what a handler raises must not tear a step apart (DESIGN.md section 6).

Of 300 interrupts sent into a submit/get loop, 95 landed inside a step and 29 between a read and its step. So the
Python handlers of the main thread are wrapped. While that thread is inside the runtime (`enter` to `leave`), a signal
is only noted, and whatever it waits in is woken; it is raised when the thread leaves. A handler that runs in the
`__del__` of a ref waits in the same way (Python swallows what is raised there), and is sent again.

Masking instead would cost two system calls a step (2.3 us).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import signal
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_WRAPPED = (signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_SIGINT = int(signal.SIGINT)
_getsignal: Callable[[int], Any] = _signal.getsignal  # the module's own wraps its result in an enum: 2 us

#: Code of finalisers, in which nothing may be raised.
finalisers: dict[CodeType, None] = {}


class Signals:
    """The guard of one process's main thread.

    Args:
        wake: makes the main thread return from whatever it waits in; called from a handler.
        resend: has this signal sent to the main thread again, soon, by another thread.
    """

    def __init__(self, wake: Callable[[], None], resend: Callable[[int], None]) -> None:
        self._wake = wake
        self._resend = resend
        self.main = threading.main_thread().ident
        self.depth = 0
        self.noted: list[int] = []  # signals that came while the main thread was inside
        self._original: dict[int, Any] = {}
        self._wrapper = self._handle  # one bound method, to be compared by identity

    def install(self) -> None:
        """Wrap the Python handlers that there are; only the main thread may, and only it is guarded."""
        if threading.get_ident() == self.main:
            for number in _WRAPPED:
                self._wrap(number)

    def look_again(self) -> None:
        """At each blocking entry: somebody may have put another handler for Ctrl-C in place since."""
        if self._original and _getsignal(_SIGINT) is not self._wrapper and threading.get_ident() == self.main:
            self._wrap(_SIGINT)

    def _wrap(self, number: int) -> None:
        handler = _getsignal(number)
        if callable(handler) and handler is not self._wrapper:
            self._original[number] = handler
            signal.signal(number, self._wrapper)

    def uninstall(self) -> None:
        if threading.get_ident() != self.main:
            return
        for number, handler in self._original.items():
            if _getsignal(number) is self._wrapper:
                signal.signal(number, handler)
        self._original.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.depth:
            self.noted.append(number)
            self._wake()
        elif frame is not None and frame.f_code in finalisers:
            self._resend(number)
        else:
            self._call(number, frame)

    def _call(self, number: int, frame: FrameType | None) -> None:
        handler = self._original.get(number, signal.default_int_handler)
        handler(number, frame)

    # ---- the guarded stretch; `Driving.post` has these lines written out ----

    def enter(self, thread: int) -> bool:
        """Begin a stretch of this thread; whether it is the main one, which has to `leave` it."""
        if thread != self.main:
            return False
        self.depth += 1
        return True

    def leave(self) -> None:
        """End it; raises what the noted signals' handlers raise."""
        self.depth -= 1
        if self.noted and not self.depth:
            self.raise_noted()

    def raise_noted(self) -> None:
        while self.noted:
            self._call(self.noted.pop(0), None)
