"""Graphs of tasks as values: what a strategy draws, what a cluster runs, and what it must give.

Each step takes results of earlier ones, as arguments (got before it runs) or nested in a list (which it gets itself),
may submit children, and may raise in the end. `expected` is the oracle: the same, one after the other, without miniray.

An outcome is ("value", what was returned) or ("error", "ValueError: planned"). A step fails with its arguments; which
of several failed ones it names is a matter of time, so all of them fail alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import miniray
from miniray.core.record import Record
from miniray.errors import MinirayError, TaskError

Outcome = tuple[str, Any]
Combine = Callable[[int, Sequence[Any]], Any]

PLANNED = ("error", "ValueError: planned")


def outcome(ref: Any) -> Outcome:
    """What a ref comes to: of what users' code raised its class and text, of any other error its class alone."""
    try:
        return "value", miniray.get(ref)
    except MinirayError as error:
        root: BaseException | None = error
        while isinstance(root, TaskError):
            root = root.cause
        name = type(root).__name__
        return "error", name if root is None or isinstance(root, MinirayError) else f"{name}: {root}"


def combined(place: int, taken: Sequence[int]) -> int:
    """Another order, or one value twice, gives another number."""
    number = place
    for value in taken:
        number = (31 * number + value) % 1_000_003
    return number


@miniray.remote
def _child(number: int) -> int:
    return number


@miniray.remote
def _step(function: Combine, place: int, children: int, fails: bool, nested: list[Any], *arguments: Any) -> Any:
    submitted = [_child.remote(number) for number in range(children)]
    value = function(place, [*miniray.get(nested), *arguments, *miniray.get(submitted)])
    if fails:
        raise ValueError("planned")
    return value


class GraphStep(Record, frozen=True):
    """One task; earlier steps are named by their place."""

    arguments: tuple[int, ...] = ()
    nested: tuple[int, ...] = ()
    children: int = 0
    fails: bool = False


class TaskGraph(Record, frozen=True):
    """`function(place, taken)` is what each step makes of what it has taken: results of earlier steps, then the numbers
    of its children. Another one puts your own function into the graph; what it raises, `expected` raises."""

    steps: tuple[GraphStep, ...]

    def run(self, function: Combine = combined) -> list[Outcome]:
        """Submit all of it; the outcome of each step."""
        refs: list[Any] = []
        for place, step in enumerate(self.steps):
            nested = [refs[earlier] for earlier in step.nested]
            arguments = [refs[earlier] for earlier in step.arguments]
            refs.append(_step.remote(function, place, step.children, step.fails, nested, *arguments))
        return [outcome(ref) for ref in refs]

    def expected(self, function: Combine = combined) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for place, step in enumerate(self.steps):
            taken = [outcomes[earlier] for earlier in (*step.nested, *step.arguments)]
            if any(kind == "error" for kind, _ in taken):
                outcomes.append(PLANNED)
                continue
            value = function(place, [value for _, value in taken] + list(range(step.children)))
            outcomes.append(PLANNED if step.fails else ("value", value))
        return outcomes
