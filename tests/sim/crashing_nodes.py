"""A program on two and three nodes, of which some die: for tests of what such deaths may not do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from miniray.core.record import replace
from miniray.testing import faults
from miniray.testing.choices import SeededChoices
from miniray.testing.seeds import run_checked


def runs_with_deaths(program: Callable[[], None], seeds: Iterable[int], count: int, steps: int) -> int:
    """In how many of these runs something has died, when `count` nodes crash within so many steps of a run."""
    crashed = 0
    for seed in seeds:
        draw = SeededChoices(1_000_000 + seed)
        crashes = tuple(draw.choose(steps, "steps until a node is gone") for _ in range(count))
        drawn = replace(faults.draw(draw), node_crashes=crashes)
        crashed += run_checked(program, seed, nodes=2 + seed % 2, num_cpus=1, faults=drawn).deaths > 0
    return crashed
