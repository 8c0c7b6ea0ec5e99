"""Where a simulated run gets its choices from: a seed, a recorded list, or Hypothesis (`miniray.transport.Choices`)."""

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


class DrawnChoices:
    """What `strategies.schedules()` draws: some numbers, then those of a seed; seed 0: always the first possibility.

    So Hypothesis shrinks a schedule towards the one in which nothing is late.
    """

    def __init__(self, numbers: Sequence[int] = (), seed: int = 0) -> None:
        self.numbers = tuple(numbers)
        self.seed = seed
        self._left = iter(self.numbers)
        self._draw = Random(seed).random if seed else lambda: 0.0
        self.taken: list[int] = []

    def choose(self, count: int, why: str) -> int:
        number = next(self._left, None)
        chosen = int(self._draw() * count) if number is None else number % count
        self.taken.append(chosen)
        return chosen

    def __repr__(self) -> str:
        return f"DrawnChoices({self.numbers}, {self.seed})"
