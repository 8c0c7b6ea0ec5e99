"""Spinning before sleeping: a loaded gun, kept behind two catches (DESIGN.md section 6).

A core that falls idle wakes slowly: measured on two idle cores, the same 35 us of Python a round trip took 100 us when
both sides slept in between and 50 us when they looked for up to 80 us first. On a busy core the same look costs its
whole length. So a thread looks before it sleeps only

- when exactly one task is under way (`may_spin`): with more, the core has better things to do;
- while looking pays: one that found nothing in time, or found it late because the thread had lost its core, is
  followed by `PAUSE_WAITS` waits without.
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.transport import Arrival, Clock, Transport

SPIN_SECONDS = 80e-6
PAUSE_WAITS = 128


class Spinner:
    """Looks for arrivals for a moment.

    Args:
        may_spin: whether what is waited for is the only thing that goes on.
    """

    def __init__(self, transport: Transport, clock: Clock, may_spin: Callable[[], bool]) -> None:
        self._transport = transport
        self._clock = clock
        self._may_spin = may_spin
        self._pause = 0  # waits until the next try

    def look(self) -> list[Arrival]:
        """What has arrived, after a moment at most; nothing when it is better to sleep."""
        if self._pause:
            self._pause -= 1
            return []
        if not self._may_spin():
            return []
        poll, clock = self._transport.poll, self._clock
        end = clock() + SPIN_SECONDS
        while True:
            arrivals = poll(0.0)
            late = clock() >= end
            if arrivals or late:
                break
        if late:
            self._pause = PAUSE_WAITS
        return arrivals
