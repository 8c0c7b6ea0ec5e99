"""Ctrl-C while a simulated run lasts: it ends the run at once, and leaves nothing of it behind.

A signal's handler runs in the main thread, between any two lines: in the middle of a machine's step, of replacing
`time.sleep`, of putting it back. So handlers are held back (`signals.py`) except where the cluster can take what they
raise: between two steps, and while a fiber is awake, which is then unwound from wherever it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from miniray._runtime.signals import Signals


class Interrupts:
    """Holds back the handlers of the main thread between `begin` and `end`; does nothing in other threads."""

    def __init__(self) -> None:
        self._signals = Signals(lambda: None, lambda number: None)
        self._held = False

    def begin(self) -> None:
        self._signals.install()
        self._held = self._signals.enter(threading.get_ident())

    def end(self) -> None:
        """Raises what the handlers raise of signals that have come meanwhile."""
        self._signals.uninstall()
        if self._held:
            self._held = False
            self._signals.leave()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Handlers run in here, and when it begins."""
        if not self._held:
            yield
            return
        try:
            self._signals.leave()
            yield
        finally:
            self._signals.enter(threading.get_ident())

    def take(self) -> None:
        """Run them now."""
        if self._signals.noted:
            with self.taken():
                pass
