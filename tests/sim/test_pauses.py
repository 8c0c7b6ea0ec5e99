"""A whole node stands still for longer than any timeout, and goes on: nobody is judged dead by it."""

from __future__ import annotations

import miniray
from miniray.testing import simulate
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.faults import Faults
from miniray.testing.remote_code import add, fill, sleep
from miniray.testing.seeds import run_checked

OFTEN = Faults(one_node_pause_in=20)


def tasks_and_an_actor() -> None:
    @miniray.remote
    class Kept:
        def __init__(self) -> None:
            self.refs: list[object] = []

        def keep(self, box: list[object]) -> int:
            self.refs += box
            return len(self.refs)

    kept = Kept.remote()
    large = [miniray.remote(max_retries=0)(fill).remote(0.003, number) for number in range(4)]
    total = miniray.remote(max_retries=0)(add).remote(0.001, *large)
    assert [miniray.get(kept.keep.remote([one])) for one in large] == [1, 2, 3, 4]
    del large
    assert miniray.get(total) == 6


def test_nobody_dies_of_a_pause() -> None:
    for seed in range(40):
        assert run_checked(tasks_and_an_actor, seed, faults=OFTEN).deaths == 0


def test_what_runs_on_the_node_and_its_system_stand_still_together() -> None:
    """No step is made there, and no process begins, ends or dies, before the time has passed."""
    longest = 0.0
    for seed in range(10):
        until = 0.0
        for step in simulate(tasks_and_an_actor, seed=seed, faults=OFTEN, record=True).trace:
            if step.event["kind"] == "Paused" and step.event.get("whole_node"):
                until = max(until, step.time + step.event["seconds"])
                longest = max(longest, step.event["seconds"])
            else:
                assert step.time >= until, step
    assert longest > 2.0, "the longest timeout of the protocol"


def test_one_node_of_two_stands_still_and_the_other_goes_on() -> None:
    cluster = SimulatedCluster(SeededChoices(3), nodes=2, num_cpus=1)
    other = list(cluster.hosts.values())[1]

    def program() -> None:
        @miniray.remote
        def second() -> None:
            sleep(1.0)

        both = [second.remote() for _ in range(2)]
        cluster.sleep(0.5)
        other.stand_still(20.0)
        ready, rest = miniray.wait(both, num_returns=1)
        assert cluster.timeline.now < 2.0
        miniray.get(rest)
        assert cluster.timeline.now > 20.0
        assert not cluster.disturbed, "it was not declared dead"

    try:
        cluster.run(program)
        cluster.settle()
    finally:
        cluster.close()
