"""Virtual time: what will happen, in order. Two things at one moment happen in the order in which they were planned."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

Action = Callable[[], None]


class Timeline:
    """A clock (call it), and the only list of what is still to happen in a simulated world."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Action]] = []
        self._count = 0

    def __call__(self) -> float:
        return self.now

    def at(self, time: float, action: Action) -> None:
        """Plan it; at `math.inf`: it never happens."""
        if time == inf:
            return
        self._count += 1
        heappush(self._planned, (time if time > self.now else self.now, self._count, action))

    def after(self, seconds: float, action: Action) -> None:
        self.at(self.now + seconds, action)

    def spend(self, seconds: float) -> None:
        """So much time passes at once; what was planned until then happens a little late."""
        self.now += seconds

    def step(self) -> bool:
        """Let the next thing happen; False when nothing is planned."""
        if not self._planned:
            return False
        time, _, action = heappop(self._planned)
        if time > self.now:
            self.now = time
        action()
        return True

    def next_time(self) -> float | None:
        return self._planned[0][0] if self._planned else None

    def clear(self) -> None:
        """Nothing that was planned will happen."""
        self._planned.clear()
