"""Graphs of tasks as values: what a strategy draws, what a cluster runs, and what it must give.

Each step takes results of earlier ones, as arguments (got before it runs) or nested in a list (which it gets itself),
and may submit children. `expected` is the oracle: the same, one after the other, without miniray.
"""

from __future__ import annotations

from typing import Any

import miniray
from miniray.core.record import Record


def _combined(place: int, taken: list[int]) -> int:
    """Another order, or one value twice, gives another number."""
    number = place
    for value in taken:
        number = (31 * number + value) % 1_000_003
    return number


@miniray.remote
def _child(number: int) -> int:
    return number


@miniray.remote
def _step(place: int, children: int, nested: list[Any], *arguments: int) -> int:
    submitted = [_child.remote(number) for number in range(children)]
    taken = [*miniray.get(nested), *arguments, *miniray.get(submitted)]
    return _combined(place, taken)


class GraphStep(Record, frozen=True):
    """One task; earlier steps are named by their place."""

    arguments: tuple[int, ...] = ()
    nested: tuple[int, ...] = ()
    children: int = 0


class TaskGraph(Record, frozen=True):
    steps: tuple[GraphStep, ...]

    def run(self) -> list[Any]:
        """Submit all of it; a ref for each step."""
        refs: list[Any] = []
        for place, step in enumerate(self.steps):
            nested = [refs[earlier] for earlier in step.nested]
            refs.append(_step.remote(place, step.children, nested, *(refs[earlier] for earlier in step.arguments)))
        return refs

    def expected(self) -> list[int]:
        values: list[int] = []
        for place, step in enumerate(self.steps):
            taken = [values[earlier] for earlier in (*step.nested, *step.arguments)]
            values.append(_combined(place, taken + list(range(step.children))))
        return values
