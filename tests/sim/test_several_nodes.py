"""Several nodes: leases across them, and nodes that die. Values are small; large ones are in `test_copies.py`."""

from __future__ import annotations

import pytest
from crashing_nodes import runs_with_deaths

import miniray
from miniray.testing import cluster as simulation
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.seeds import run_checked

SEEDS = range(40)


def _tasks_actors_and_refs() -> None:
    """Wide, nested, through actors, and with refs that travel: each of it on whichever node has room."""

    @miniray.remote
    def add(x: int) -> int:
        simulation.running[0].sleep(0.05)
        return x + 1

    @miniray.remote
    def tree(me: list[object], depth: int) -> int:
        if not depth:
            return 1
        return sum(miniray.get([me[0].remote(me, depth - 1) for _ in range(2)]))  # type: ignore[attr-defined]

    @miniray.remote
    def boxed() -> list[object]:
        return [miniray.put(4), add.remote(2)]

    @miniray.remote
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def up(self) -> int:
            self.count += 1
            return self.count

    wide = [add.remote(number) for number in range(12)]
    counters = [Counter.remote(), Counter.remote()]
    ups = [counters[0].up.remote() for _ in range(4)]
    nested, box = tree.remote([tree], 3), boxed.remote()
    try:
        assert miniray.get(nested) == 8
        assert miniray.get(wide) == list(range(1, 13))
        assert miniray.get(miniray.get(box)) == [4, 3]
        assert miniray.get(ups) == [1, 2, 3, 4]
        del counters[0]
        assert miniray.get(counters[0].up.remote()) == 1
    except (miniray.errors.ActorDiedError, miniray.errors.ObjectLostError, miniray.errors.WorkerCrashedError):
        if not simulation.running[0].disturbed:
            raise


def test_nothing_fails_on_several_nodes() -> None:
    for seed in SEEDS:
        assert not run_checked(_tasks_actors_and_refs, seed, nodes=2 + seed % 2, num_cpus=1).deaths


@pytest.mark.parametrize("count", [1, 2])
def test_nodes_that_die_take_no_more_along_than_what_ran_there(count: int) -> None:
    assert runs_with_deaths(_tasks_actors_and_refs, SEEDS, count, 400) > len(SEEDS) // 2


def test_a_request_that_was_sent_on_often_enough_still_finds_the_node_that_is_free() -> None:
    def program() -> None:
        @miniray.remote(num_cpus=1)
        class Seat:
            def name(self) -> int:
                return 1

        taken = [Seat.remote() for _ in range(3)]
        assert miniray.get([one.name.remote() for one in taken]) == [1, 1, 1]

    for seed in SEEDS:
        run_checked(program, seed, nodes=3, num_cpus=1)


def test_work_of_one_cpu_each_uses_all_nodes() -> None:
    told: list[float] = []

    def program() -> None:
        @miniray.remote
        def second() -> int:
            simulation.running[0].sleep(1.0)
            return simulation.running[0].note("ran")

        assert sorted(miniray.get([second.remote() for _ in range(6)])) == [1, 2, 3, 4, 5, 6]
        told.append(simulation.running[0].timeline.now)

    cluster = SimulatedCluster(SeededChoices(3), nodes=3, num_cpus=1)
    try:
        cluster.run(program)
    finally:
        cluster.close()
    assert 2.0 < told[0] < 3.0, "two after another on each node"
