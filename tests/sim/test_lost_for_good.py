"""What cannot be made again: `ObjectLostError` names the ref, the line that made it and the reason. End to end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import miniray
from miniray.core.ids import node_of
from miniray.core.owner.lineage import EVICTED, MAX_LINEAGE_BYTES, NO_RETRIES, PUT, RETRIES_USED
from miniray.core.task_spec import Stored
from miniray.errors import ObjectLostError
from miniray.testing.checkers import Watch
from miniray.testing.checkers.quiet import assert_quiet
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import SimulatedCluster, running

ITEMS = 20_000  # of eight bytes: it lies in the arena of the node where it was made
KEPT_BYTES = 2_500  # of lineage: of two tasks
SEEDS = range(8)


@miniray.remote
class Seat:
    """It takes the CPU of the driver's node, so that what comes next is made elsewhere."""

    def ready(self) -> None: ...


@miniray.remote
class Maker:
    def make(self, number: int) -> Any:
        return numpy.full(ITEMS, number)


@miniray.remote
class Keeper:
    def ready(self) -> None: ...


@miniray.remote(max_retries=1)
def make(number: int) -> Any:
    return numpy.full(ITEMS, number)


@miniray.remote
def put_for(keeper: Any) -> list[Any]:
    return [miniray.put(numpy.full(ITEMS, 5), owner=keeper)]


def takes_the_head() -> Any:
    seat = Seat.options(num_cpus=1).remote()
    miniray.get(seat.ready.remote())
    return seat


def lose(ref: Any) -> None:
    """The host where the value lies is gone, and the driver has heard of it before it asks again."""
    cluster = running[-1]
    miniray.wait([ref])
    assert cluster.driver.process is not None
    value = cluster.driver.process.values[ref._id]
    assert isinstance(value, Stored)
    host = cluster.hosts[node_of(value.place.holder)]
    assert host is not cluster.head, "nothing is lost there"
    cluster.crash_host(host)
    cluster.sleep(2.0)


def of_a_put() -> tuple[Any, str, str]:
    keeper = Keeper.remote()
    miniray.get(keeper.ready.remote())
    seat = takes_the_head()
    (ref,) = miniray.get(put_for.remote(keeper))
    running[-1].sleep(1.0)  # its owner knows that the driver holds it
    for host in [one for one in running[-1].hosts.values() if one is not running[-1].head]:
        running[-1].crash_host(host)
    running[-1].sleep(2.0)
    del seat
    return ref, " in put_for,", PUT


def of_an_actor() -> tuple[Any, str, str]:
    seat = takes_the_head()
    maker = Maker.options(num_cpus=1).remote()
    ref = maker.make.remote(5)
    lose(ref)
    del seat
    return ref, "Maker.make", NO_RETRIES


def evicted() -> tuple[Any, str, str]:
    seat = takes_the_head()
    first = make.remote(0)
    miniray.wait([first])  # the oldest goes first
    others = [make.remote(number) for number in range(1, 4)]
    miniray.wait(others, num_returns=3)
    lose(first)
    del seat, others
    return first, "make", EVICTED


def retries_spent() -> tuple[Any, str, str]:
    seat = takes_the_head()
    ref = make.remote(5)
    lose(ref)
    lose(ref)
    del seat
    return ref, "make", RETRIES_USED


@pytest.mark.parametrize(
    ("program", "max_lineage_bytes"),
    [(of_a_put, None), (of_an_actor, None), (evicted, KEPT_BYTES), (retries_spent, None)],
)
def test_the_error_names_what_where_and_why(program: Callable[[], Any], max_lineage_bytes: int | None) -> None:
    for seed in SEEDS:
        _run(program, seed, MAX_LINEAGE_BYTES if max_lineage_bytes is None else max_lineage_bytes)


def _run(program: Callable[[], Any], seed: int, max_lineage_bytes: int) -> None:
    def main() -> None:
        ref, name, why = program()
        with pytest.raises(ObjectLostError) as lost:
            miniray.get(ref)
        text = str(lost.value)
        assert why in text and name in text, text
        assert re.search(rf"object \S+, made at \S*{Path(__file__).name}:\d+ in ", text), text

    cluster = SimulatedCluster(SeededChoices(seed), nodes=3, num_cpus=1, max_lineage_bytes=max_lineage_bytes)
    try:
        Watch(cluster)
        cluster.run(main)
        cluster.settle()
        assert_quiet(cluster, but=("functions",))  # those of modules are not dropped
    finally:
        cluster.close()


def test_nothing_is_evicted_within_the_bound() -> None:
    """The same program, with the bound that there is by default: all is made again."""

    def main() -> None:
        ref, *_ = evicted()
        assert miniray.get(ref)[0] == 0

    cluster = SimulatedCluster(SeededChoices(1), nodes=3, num_cpus=1)
    try:
        cluster.run(main)
    finally:
        cluster.close()
