"""Where a simulated run gets its choices from: a seed, or a list that was recorded (`miniray.transport.Choices`)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class SeededChoices:
    """Drawn from a seed, and remembered in `taken`."""

    def __init__(self, seed: int) -> None:
        self._draw = Random(seed).random
        self.taken: list[int] = []

    def choose(self, count: int, why: str) -> int:
        chosen = int(self._draw() * count)
        self.taken.append(chosen)
        return chosen


class RecordedChoices:
    """What was `taken` before; then always the first possibility."""

    def __init__(self, taken: Sequence[int]) -> None:
        self._left = iter(taken)
        self.taken: list[int] = []

    def choose(self, count: int, why: str) -> int:
        chosen = min(next(self._left, 0), count - 1)
        self.taken.append(chosen)
        return chosen
