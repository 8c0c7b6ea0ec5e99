"""One seed is one run: a random program under random faults, checked while it runs and when nothing is left.

A seed that fails says how to run it again; `python -m miniray.testing SEED` tells its story, step by step.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

from miniray.core.record import Record
from miniray.testing import faults as _faults
from miniray.testing.checkers import assert_quiet, places_are_what_they_were, what_is_held_lives
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.drawing import draw_program
from miniray.testing.faults import Faults
from miniray.testing.programs import Op, run

_CHECK_EVERY = 10  # steps


class Told(Record, frozen=True):
    """What one run was."""

    seed: int
    trace_hash: str
    steps: int
    virtual_seconds: float
    deaths: int


class FailedSeed(AssertionError):
    """This seed shows that something is wrong."""

    def __init__(self, seed: int, error: BaseException) -> None:
        super().__init__(f"seed {seed}: {error}\n\nrun it again with its story: python -m miniray.testing {seed}")
        self.seed = seed


def run_seed(seed: int, *, keep_trace: Callable[[list[str]], None] | None = None) -> Told:
    """Run one seed.

    Args:
        keep_trace: gets the story, as lines, also of a run that fails.

    Raises:
        FailedSeed: and why.
    """
    choices = SeededChoices(seed)
    ops = draw_program(choices)
    cluster = SimulatedCluster(
        choices,
        num_cpus=1 + choices.choose(3, "CPUs"),
        faults=_faults.draw(choices),
        keep_trace=keep_trace is not None,
    )
    try:
        run_program(cluster, ops)
        return Told(seed, cluster.trace_hash, cluster.steps, cluster.timeline.now, len(cluster.deaths))
    except Exception as error:
        raise FailedSeed(seed, error) from error
    finally:
        if keep_trace is not None and cluster.trace is not None:
            keep_trace([str(cluster.faults), *map(str, ops), *cluster.trace])
        cluster.close()


def run_program(cluster: SimulatedCluster, ops: tuple[Op, ...]) -> None:
    """Run it in the driver, let everything settle, and check."""
    cluster.on_every(_CHECK_EVERY, lambda: _check(cluster))
    cluster.run(lambda: _run(ops))
    cluster.settle()
    _check(cluster)
    assert_quiet(cluster)


def _check(cluster: SimulatedCluster) -> None:
    what_is_held_lives(cluster)
    places_are_what_they_were(cluster)


def _run(ops: tuple[Op, ...]) -> None:
    run(ops, [])


def simulate(program: Callable[[], Any], seed: int, *, num_cpus: int = 2, faults: Faults = _faults.NO_FAULTS) -> Told:
    """Run your own program, an ordinary function, in a cluster of this seed; nothing may be left at its end.

    Raises:
        FailedSeed: it raised, it waits for ever, or something is left.
    """
    cluster = SimulatedCluster(SeededChoices(seed), num_cpus=num_cpus, faults=faults)
    try:
        cluster.run(lambda: None if program() is None else None)  # what it returns is dropped at once
        cluster.settle()
        assert_quiet(cluster)
        return Told(seed, cluster.trace_hash, cluster.steps, cluster.timeline.now, len(cluster.deaths))
    except Exception as error:
        raise FailedSeed(seed, error) from error
    finally:
        cluster.close()


def prepare() -> None:
    """What is there already is not looked at by the collector any more: each run collects twice."""
    import numpy  # noqa: F401  so that no run is the first to load it

    gc.collect()
    gc.freeze()


def main(arguments: list[str]) -> int:
    """`python -m miniray.testing SEED [COUNT]`: one seed with its story, or many and what failed."""
    prepare()
    first = int(arguments[0]) if arguments else 0
    count = int(arguments[1]) if len(arguments) > 1 else 1
    failed = 0
    for seed in range(first, first + count):
        try:
            told = run_seed(seed, keep_trace=None if count > 1 else lambda lines: print("\n".join(lines)))
        except FailedSeed as error:
            failed += 1
            print(error if count == 1 else str(error).split("\n\nrun it again")[0], file=sys.stderr)
        else:
            if count == 1:
                print(told)
    if count > 1:
        print(f"{count} seeds, {failed} failed")
    return 1 if failed else 0
