"""Two phases: faults, and then a part of the cluster heals, in which everything ends; the rest is gone for ever."""

from __future__ import annotations

from typing import Any

import pytest

import miniray
from miniray.core.control.membership import UNREACHABLE_FENCE_SECONDS
from miniray.core.ids import node_index
from miniray.core.record import replace
from miniray.errors import ActorDiedError, MinirayError, ObjectLostError, OwnerDiedError, WorkerCrashedError
from miniray.testing import cluster as simulation
from miniray.testing import faults as _faults
from miniray.testing.choices import SeededChoices
from miniray.testing.faults import Faults, Lasting, Unhealed
from miniray.testing.healing import heal
from miniray.testing.seeds import run_checked
from miniray.transport import UNREACHABLE_SECONDS

SEEDS = range(12)
# Then whoever is gone has been declared dead, and all have heard of it.
BOUND_SECONDS = UNREACHABLE_SECONDS + UNREACHABLE_FENCE_SECONDS + 1.0
LONG_SECONDS = 3 * BOUND_SECONDS
OTHERS = (1, 2)


class Seat:
    """Fills a node of one CPU."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def where(self) -> int:
        return node_index(simulation.running[0].awake_home().me)

    def late(self) -> str:
        simulation.running[0].sleep(LONG_SECONDS)
        return "late"

    def own(self) -> list[Any]:
        self.kept = [miniray.put("own")]
        return self.kept

    def large(self) -> Any:
        import numpy

        return numpy.ones(20_000)


def once() -> str:
    simulation.running[0].sleep(LONG_SECONDS)
    return "once"


def _outcome(ref: Any) -> type[BaseException] | None:
    try:
        miniray.get(ref)
    except MinirayError as error:
        return type(error)
    return None


@pytest.mark.parametrize("how", Lasting)
def test_what_needs_only_the_healed_part_ends_as_always_and_the_rest_says_what_is_gone(how: Lasting) -> None:
    def program() -> None:
        cluster = simulation.running[0]
        seats = miniray.remote(num_cpus=1)(Seat)
        here = seats.remote()
        assert miniray.get(here.where.remote()) == 0
        there = seats.remote()
        assert miniray.get(there.where.remote()) in OTHERS
        task = miniray.remote(max_retries=0)(once).remote()  # on the third
        owned = {seat: miniray.get(seat.own.remote())[0] for seat in (here, there)}
        large = {seat: seat.large.remote() for seat in (here, there)}
        miniray.wait(list(large.values()), num_returns=2)
        late = {seat: seat.late.remote() for seat in (here, there)}
        cluster.sleep(1.0)
        heal(cluster)
        began = cluster.timeline.now
        assert _outcome(late[there]) is ActorDiedError
        assert _outcome(task) is WorkerCrashedError
        assert _outcome(owned[there]) is OwnerDiedError
        assert _outcome(large[there]) is ObjectLostError
        assert _outcome(there.where.remote()) is ActorDiedError
        assert cluster.timeline.now < began + BOUND_SECONDS, "nobody waits longer than until its death is declared"
        assert _outcome(owned[here]) is _outcome(large[here]) is None
        assert miniray.get(late[here]) == "late"
        assert miniray.get(here.where.remote()) == 0

    faults = Faults(unhealed=tuple(Unhealed(node, how) for node in OTHERS))
    for seed in range(5):
        run_checked(program, seed, nodes=3, num_cpus=1, faults=faults)


@pytest.mark.parametrize("how", Lasting)
def test_what_may_run_again_does_so_in_the_part_that_heals(how: Lasting) -> None:
    def program() -> None:
        @miniray.remote(num_cpus=1)
        def add(x: int) -> int:
            simulation.running[0].sleep(0.3)
            return x + 1

        @miniray.remote(num_cpus=1, max_retries=-1)
        def nested(x: int) -> int:
            return int(miniray.get(add.options(max_retries=-1).remote(x)))

        phoenix = miniray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Seat).remote()
        sums = [nested.remote(number) for number in range(6)]
        assert miniray.get(sums) == list(range(1, 7))
        assert miniray.get(phoenix.where.remote()) in (0, *OTHERS)
        assert miniray.get(phoenix.late.remote()) == "late"

    left = 0
    for seed in SEEDS:
        draw = SeededChoices(2_000_000 + seed)
        drawn = _faults.draw(draw)
        moment = 20 + draw.choose(300, "when it heals")
        faults = replace(drawn, crashes=(), heal_after=moment, unhealed=(Unhealed(1 + seed % 2, how),))
        left += run_checked(program, seed, nodes=3, num_cpus=1, faults=faults).deaths > 0
    assert left > len(SEEDS) // 2


def test_a_node_that_is_cut_off_ends_itself_before_it_is_declared_dead() -> None:
    """Else its actor would live twice. `checkers/fences.py` looks on; what it does not see is that it had worked on."""

    def program() -> None:
        @miniray.remote(num_cpus=1, max_retries=-1)
        def ticks() -> int:
            cluster = simulation.running[0]
            attempt = cluster.note("attempts")
            for _ in range(int(LONG_SECONDS)):
                cluster.sleep(1.0)
                cluster.note(f"seconds of attempt {attempt}")
            return attempt

        cluster = simulation.running[0]
        seat = miniray.remote(num_cpus=1)(Seat).remote()
        assert miniray.get(seat.where.remote()) == 0
        ref = ticks.remote()
        cluster.sleep(1.0)
        heal(cluster)
        assert miniray.get(ref) == 2, "it ran once more, elsewhere"
        assert UNREACHABLE_SECONDS - 1 <= cluster.note("seconds of attempt 1") - 1 <= UNREACHABLE_SECONDS + 2
        assert miniray.get(seat.where.remote()) == 0

    run_checked(program, 0, nodes=3, num_cpus=1, faults=Faults(unhealed=(Unhealed(1, Lasting.CUT_OFF),)))


def test_parts_are_drawn_of_every_kind_and_never_the_node_of_the_driver() -> None:
    drawn = [one for seed in range(200) for one in _faults.draw_unhealed(SeededChoices(seed), 3)]
    assert {one.how for one in drawn} == set(Lasting)
    assert {one.node for one in drawn} == set(OTHERS)
    assert _faults.draw_unhealed(SeededChoices(0), 1) == ()
