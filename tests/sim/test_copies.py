"""Stored values that are read on other nodes: copies, and what becomes of them when nodes die."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from crashing_nodes import runs_with_deaths

import miniray
from miniray._runtime.context import current
from miniray.core.ids import ProcessId, node_of
from miniray.core.task_spec import Stored
from miniray.testing import cluster as simulation
from miniray.testing.checkers import Watch
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.seeds import run_checked

SEEDS = range(40)
LARGE = 150_000
MAY_BE = (miniray.errors.ActorDiedError, miniray.errors.ObjectLostError, miniray.errors.WorkerCrashedError)


def _values_that_travel() -> None:
    """Large values as results, arguments, parts of others, of actors, in closures: each read wherever there is room."""

    @miniray.remote(max_retries=20)
    def make(mark: int) -> bytes:
        simulation.running[0].sleep(0.05)
        return bytes([mark]) * LARGE

    @miniray.remote(max_retries=20)
    def marks(*values: bytes) -> list[int]:
        simulation.running[0].sleep(0.02)
        assert all(len(value) == LARGE and len(set(value)) == 1 for value in values)
        return [value[0] for value in values]

    @miniray.remote(max_retries=20)
    def fetched(refs: list[object]) -> list[int]:
        return [value[0] for value in miniray.get(refs)]

    @miniray.remote(max_retries=20)
    def box(mark: int) -> list[object]:
        return [miniray.put(bytes([mark]) * LARGE), b"x" * LARGE]

    @miniray.remote(max_restarts=-1, max_task_retries=-1)
    class Keeper:
        def __init__(self, first: bytes) -> None:
            self.kept = first

        def swap(self, other: bytes) -> bytes:
            self.kept, other = other, self.kept
            return other

    captured = bytes([9]) * LARGE

    @miniray.remote(max_retries=20)
    def closed(value: bytes) -> int:
        return captured[0] + value[0]

    try:
        mine = miniray.put(bytes([7]) * LARGE)
        made = [make.remote(mark) for mark in range(6)]
        crossed = marks.remote(made[0], mine, made[5])
        inside = fetched.remote([made[1], made[2], mine])
        boxed = box.remote(3)
        keeper = Keeper.remote(made[3])
        swapped = keeper.swap.remote(made[4])
        added = [closed.remote(one) for one in made[:3]]
        assert [value[0] for value in miniray.get(made)] == list(range(6))
        assert miniray.get(crossed) == [0, 7, 5]
        assert miniray.get(inside) == [1, 2, 7]
        assert miniray.get(added) == [9, 10, 11]
        assert miniray.get(marks.remote(swapped)) == [3]
        assert miniray.get(miniray.get(boxed)[0])[0] == 3
    except MAY_BE:
        if not simulation.running[0].disturbed:
            raise


def test_stored_values_are_read_on_every_node() -> None:
    for seed in SEEDS:
        assert not run_checked(_values_that_travel, seed, nodes=2 + seed % 2, num_cpus=1).deaths


@pytest.mark.parametrize("count", [1, 2])
def test_nodes_that_die_leave_values_that_are_right(count: int) -> None:
    assert runs_with_deaths(_values_that_travel, SEEDS, count, 500) > len(SEEDS) // 2


# ---- what a copy saves, and what is made again ----


def _lies_on(ref: Any) -> ProcessId:
    process = simulation.running[0].driver.process
    assert process is not None
    value = process.values[ref._id]
    assert isinstance(value, Stored)
    return node_of(value.place.holder)


def _runs_after_a_crash(seed: int, *, read_before: bool) -> int:
    """A value lies on another node than the driver's, and it dies: how often its task runs again for four readers."""
    told: list[int] = []

    def program() -> None:
        cluster = simulation.running[0]

        @miniray.remote
        def make() -> bytes:
            simulation.running[0].sleep(0.2)
            simulation.running[0].note("made")
            return b"v" * LARGE

        @miniray.remote
        def size(value: bytes) -> int:
            simulation.running[0].sleep(0.2)
            return len(value)

        @miniray.remote
        def fetched(refs: list[Any]) -> int:
            return len(miniray.get(refs[0]))

        made: list[Any] = [make.remote() for _ in range(3)]
        miniray.wait(made, num_returns=3)
        ref = next(one for one in made if _lies_on(one) != cluster.head.me)
        host = cluster.hosts[_lies_on(ref)]
        made.clear()
        if read_before:
            assert miniray.get([size.remote(ref) for _ in range(6)]) == [LARGE] * 6
        before = cluster.note("made")
        cluster.crash_host(host)
        waiters = [size.remote(ref), fetched.remote([ref]), fetched.remote([ref])]
        assert miniray.get(waiters) == [LARGE] * 3
        assert len(miniray.get(ref)) == LARGE
        told.append(cluster.note("made") - before - 1)

    run_checked(program, seed, nodes=3, num_cpus=1)
    return told[0]


def test_a_copy_saves_a_value_whose_node_died() -> None:
    assert [_runs_after_a_crash(seed, read_before=True) for seed in SEEDS] == [0] * len(SEEDS)


def test_without_a_copy_it_is_made_again_once_for_all_who_wait() -> None:
    assert [_runs_after_a_crash(seed, read_before=False) for seed in SEEDS] == [1] * len(SEEDS)


@pytest.mark.parametrize("seed", range(5))
def test_wait_has_what_it_was_asked_for_though_some_of_it_was_lost_meanwhile(seed: int) -> None:
    """It counted a value that was ready when it began, and came back with fewer than it was to wait for."""

    def program() -> None:
        cluster = simulation.running[0]

        @miniray.remote
        def make(seconds: float) -> bytes:
            simulation.running[0].sleep(seconds)
            return b"v" * LARGE

        made: list[Any] = [make.remote(5.0) for _ in range(3)]
        miniray.wait(made, num_returns=3)
        first = next(one for one in made if _lies_on(one) != cluster.head.me)
        host = cluster.hosts[_lies_on(first)]
        made.clear()
        cluster.timeline.after(1.0, lambda: cluster.crash_host(host))
        ready, rest = miniray.wait([first, make.remote(3.0)], num_returns=2)
        assert len(ready) == 2 and not rest

    run_checked(program, seed, nodes=3, num_cpus=1)


# ---- no room for a copy ----

TOO_LARGE = 1_100_000  # the arena of each node holds one such value and no second
NO_ROOM = "a copy of 1,100,192 bytes does not fit"


def _run_in_little_memory(program: Callable[[], None], seed: int = 1) -> None:
    cluster = SimulatedCluster(SeededChoices(seed), nodes=2, num_cpus=1, arena_bytes=2 << 20)
    try:
        watch = Watch(cluster)
        cluster.run(program)
        cluster.settle()
        watch.at_end()
    finally:
        cluster.close()


def test_a_value_for_which_a_node_has_no_room_fails_its_reader_there_alone() -> None:
    def program() -> None:
        cluster = simulation.running[0]

        @miniray.remote
        def make() -> bytes:
            simulation.running[0].sleep(0.2)
            return b"v" * TOO_LARGE

        made = [make.remote() for _ in range(2)]
        miniray.wait(made, num_returns=2)
        assert sorted(map(_lies_on, made)) == sorted(cluster.hosts)
        far = next(one for one in made if _lies_on(one) != cluster.head.me)
        with pytest.raises(miniray.errors.ObjectStoreFullError, match=NO_ROOM):
            miniray.get(far)
        del made[:]
        assert len(miniray.get(far)) == TOO_LARGE, "asked for again, now that there is room"

    _run_in_little_memory(program)


class Borrower:
    """Holds a ref of the driver, and memory of its node."""

    def __init__(self, refs: list[Any]) -> None:
        self.refs = refs
        self.kept: Any = None

    def node(self) -> ProcessId:
        return node_of(current().me)

    def fill(self) -> None:
        self.kept = miniray.put(b"k" * TOO_LARGE)

    def free(self) -> None:
        self.kept = None

    def read(self) -> int:
        return len(miniray.get(self.refs[0]))

    def read_in_vain(self) -> bool:
        try:
            miniray.get(self.refs[0])
        except miniray.errors.ObjectStoreFullError:
            return True
        return False

    def give(self) -> list[Any]:
        return [miniray.put(b"g" * TOO_LARGE)]

    def take(self, refs: list[Any]) -> None:
        self.refs = refs

    def pass_on(self) -> int:
        """As an argument of a task that it submits."""
        size = miniray.remote(num_cpus=0)(len)
        return miniray.get(size.remote(self.refs[0]))


@pytest.mark.parametrize("method", ["read", "pass_on"])
def test_a_borrower_asks_again_when_there_is_room(method: str) -> None:
    """That there was none is no outcome of the value: it holds for those who asked."""

    def program() -> None:
        ref = miniray.put(b"v" * TOO_LARGE)
        borrower = miniray.remote(num_cpus=1)(Borrower)
        both = [borrower.remote([ref]) for _ in range(2)]
        far = next(one for one in both if miniray.get(one.node.remote()) != simulation.running[0].head.me)
        miniray.get(far.fill.remote())
        for _ in range(2):
            with pytest.raises(miniray.errors.ObjectStoreFullError, match=NO_ROOM):
                miniray.get(getattr(far, method).remote())
        miniray.get(far.free.remote())
        assert miniray.get(getattr(far, method).remote()) == TOO_LARGE

    for seed in range(10):
        _run_in_little_memory(program, seed)


def test_what_a_borrower_had_no_room_for_ends_with_its_owner() -> None:
    def program() -> None:
        borrower = miniray.remote(num_cpus=1)(Borrower)
        owner, far = (borrower.remote([]) for _ in range(2))
        if miniray.get(far.node.remote()) == simulation.running[0].head.me:
            owner, far = far, owner
        ref = miniray.get(owner.give.remote())[0]
        miniray.get([far.fill.remote(), far.take.remote([ref])])
        del ref
        with pytest.raises(miniray.errors.ObjectStoreFullError, match=NO_ROOM):
            miniray.get(far.read.remote())
        miniray.kill(owner)
        with pytest.raises(miniray.errors.ActorDiedError):
            miniray.get(owner.node.remote())
        with pytest.raises(miniray.errors.OwnerDiedError):
            while miniray.get(far.read_in_vain.remote()):
                simulation.running[0].sleep(0.01)

    for seed in range(10):
        _run_in_little_memory(program, seed)
