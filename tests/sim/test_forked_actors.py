"""Actors with `start="fork"` in a simulated cluster: as any others, but by the node's own rules for forks."""

from __future__ import annotations

import pytest

import miniray
from miniray.testing import simulate


@miniray.remote
class Tally:
    def __init__(self, first: int) -> None:
        self.total = first

    def add(self, number: int) -> int:
        self.total += number
        return self.total

    def begin_another(self) -> None:
        miniray.remote(list).options(start="fork").remote()


Forked = Tally.options(start="fork", max_restarts=-1, max_task_retries=-1)


@miniray.remote
def double(number: int) -> int:
    return 2 * number


def program() -> list[int]:
    """More at once than there are CPUs; some are let go while they begin."""
    tallies = [Forked.remote(first) for first in range(3)]
    Forked.remote(9)
    doubled = [double.remote(number) for number in range(3)]
    sums = [tally.add.remote(number) for tally, number in zip(tallies, doubled, strict=True)]
    return list(miniray.get(sums))


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("faults", ["none", "delays", "crashes"])
def test_each_gets_the_process_that_was_forked_for_it(nodes: int, faults: str) -> None:
    for seed in range(8):
        found = simulate(program, seed=seed, faults=faults, nodes=nodes, num_cpus=1).value
        assert found == [0, 3, 6], "each has its own argument, and is called once more where it died before it answered"


def test_a_task_cannot_be_forked_there_either() -> None:
    def within() -> None:
        with pytest.raises(miniray.errors.SessionError, match="actors of the driver"):
            miniray.get(Forked.remote(0).begin_another.remote())

    simulate(within)
