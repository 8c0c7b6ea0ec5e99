"""Every interleaving of small programs, and that the enumeration finds what is wrong when something is.

How many there are stands in the summary of the run. Of a program that has more than BOUND, SAMPLE are run;
MINIRAY_INTERLEAVINGS asks for another bound of both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any

import pytest
import second_attempts
import small_programs
from scripted_machines import Linked

from miniray.core.owner.arrivals import Arrivals
from miniray.core.owner.burials import Burials
from miniray.core.owner.completion import Completion
from miniray.core.owner.handoffs import Handoffs
from miniray.core.owner.lineage import Lineage
from miniray.testing.exhaustive import Explored, Move, WrongInterleaving, every_interleaving

ASKED = os.environ.get("MINIRAY_INTERLEAVINGS")
BOUND, SAMPLE = int(ASKED or 1000), int(ASKED or 200)

#: program, its options, CPUs, and whether BOUND is enough for all of it
PROGRAMS: list[tuple[Callable[..., None], dict[str, Any], int, bool]] = [
    (small_programs.passed_on_twice, {}, 0, True),
    (small_programs.sender_dies, {}, 0, False),
    (small_programs.sender_dies, {"frames": 0}, 0, True),
    (small_programs.sender_dies, {"frames": 1}, 0, False),
    (small_programs.received_twice, {}, 0, True),
    (small_programs.returned_inside, {}, 0, True),
    (small_programs.cancel_against_completion, {}, 1, True),
    (small_programs.cancel_against_completion, {"force": True}, 1, True),
    (small_programs.cancel_of_the_queued, {}, 1, True),
    (small_programs.return_against_push, {}, 1, True),
    (small_programs.revoked_against_start, {}, 1, True),
    (small_programs.blocked_against_push, {}, 1, True),
    (small_programs.death_against_result, {}, 1, True),
    (small_programs.death_against_result, {"retries": 1}, 1, True),
    (small_programs.death_against_result, {"frames": 0}, 1, True),
    (small_programs.calls_against_death, {}, 0, True),
    (small_programs.calls_against_death, {"kill": True}, 0, False),
    (small_programs.call_against_last_drop, {}, 0, True),
    (second_attempts.calls_against_restart, {}, 0, False),
    (second_attempts.made_again_for_all, {}, 1, False),
]


NODES = {second_attempts.made_again_for_all: 2}


def every(program: Callable[..., None], options: dict[str, Any], cpus: int, bound: int = BOUND) -> Explored:
    setup, nodes = partial(program, **options), NODES.get(program, 1)
    return every_interleaving(lambda: Linked(setup, cpus=cpus, nodes=nodes), max_interleavings=bound)


def named(program: Callable[..., None], options: dict[str, Any]) -> str:
    return "-".join([program.__name__, *(f"{name}={value}" for name, value in options.items())])


@pytest.mark.parametrize(
    "program, options, cpus, is_all", PROGRAMS, ids=[named(program, options) for program, options, *_ in PROGRAMS]
)
def test_every_interleaving(
    program: Callable[..., None],
    options: dict[str, Any],
    cpus: int,
    is_all: bool,
    record_property: Callable[[str, object], None],
) -> None:
    explored = every(program, options, cpus, BOUND if is_all else SAMPLE)
    record_property("interleavings", f"{named(program, options)}: {explored}")
    assert explored.interleavings > 5
    assert explored.complete or not is_all


# ---- mutants: rules of PROTOCOL.md, broken ------------------------------------------------------------------


def stale_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    """`HolderAdded` confirms every receipt of that ref, also later ones."""
    confirm = Handoffs.confirm
    monkeypatch.setattr(Handoffs, "confirm", lambda self, ref, number: confirm(self, ref, 1 << 30))


def pin_released_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result never says that a third party has not confirmed yet."""
    depart = Arrivals.depart
    monkeypatch.setattr(Arrivals, "depart", lambda self, *what: (depart(self, *what)[0], False))


def nothing_retained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result does not say what its worker still holds."""
    depart = Arrivals.depart
    monkeypatch.setattr(Arrivals, "depart", lambda self, *what: ((), depart(self, *what)[1]))


def death_before_the_links_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """News of a death counts before what the dead had sent was read."""

    def on_process_died(self: Any, now: float, message: Any, peer: Any) -> None:
        self._dispatch.worker_lost(now, message.process)
        self._dispatch.worker_died(now, message.process, message)

    monkeypatch.setattr(Burials, "_on_process_died", on_process_died)


def retries_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may have started is made again, whatever retries are left."""
    again = Completion.again
    monkeypatch.setattr(Completion, "again", lambda self, task, spend: again(self, task, spend=False))


def specs_end_with_their_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a value was made is forgotten when it is there: it cannot be made again."""
    monkeypatch.setattr(Lineage, "run_again", lambda self, object_id: None)


@pytest.mark.parametrize(
    "mutant, program, options, cpus",
    [
        (stale_confirmation, small_programs.received_twice, {}, 0),
        (pin_released_early, small_programs.passed_on_twice, {}, 0),
        (nothing_retained, small_programs.passed_on_twice, {}, 0),
        (death_before_the_links_end, small_programs.death_against_result, {}, 1),
        (retries_without_end, second_attempts.calls_against_restart, {}, 0),
        (specs_end_with_their_tasks, second_attempts.made_again_for_all, {}, 1),
    ],
    ids=lambda what: getattr(what, "__name__", None),
)
def test_a_broken_rule_is_found(
    mutant: Callable[[pytest.MonkeyPatch], None],
    program: Callable[..., None],
    options: dict[str, Any],
    cpus: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant(monkeypatch)
    with pytest.raises(WrongInterleaving, match="after these moves"):
        every(program, options, cpus)


# ---- the enumeration itself -----------------------------------------------------------------------------


class Toy:
    """Each process has so many moves to make, one after the other; `taken` is the order."""

    seen: list[tuple[str, ...]] = []

    def __init__(self, left: dict[str, int], local: bool) -> None:
        self.left, self.local = dict(left), local
        self.taken: list[str] = []

    def moves(self) -> list[Move]:
        return [Move(place[0], place, self.local) for place, count in self.left.items() if count]

    def take(self, move: Move) -> None:
        self.left[move.name] -= 1
        self.taken.append(move.name)

    def judge(self) -> None:
        self.seen.append(tuple(self.taken))


@pytest.mark.parametrize(
    "left, local, count",
    [
        ({"a": 3, "b": 3}, True, 1),  # they commute
        ({"a": 3, "b": 3}, False, 20),  # 6! / (3! 3!)
        ({"a1": 2, "a2": 2}, True, 6),  # both at process a
        ({"a1": 1, "a2": 1, "b1": 1, "b2": 1}, True, 4),  # 2! at each
    ],
)
def test_each_class_of_interleavings_once(left: dict[str, int], local: bool, count: int) -> None:
    Toy.seen.clear()
    explored = every_interleaving(lambda: Toy(left, local))
    assert explored.complete and explored.interleavings == len(Toy.seen) == count
    classes = {tuple(sorted((place, order(seen, place)) for place in "ab")) for seen in Toy.seen}
    moves = [name for name, times in left.items() for _ in range(times)]
    reached = {tuple(sorted((place, order(seen, place)) for place in "ab")) for seen in permutations(moves)}
    assert classes == reached


def order(seen: tuple[str, ...], place: str) -> tuple[str, ...]:
    return tuple(name for name in seen if name[0] == place)


def test_a_bound_is_told() -> None:
    explored = every_interleaving(lambda: Toy({"a": 5, "b": 5}, False), max_interleavings=10)
    assert not explored.complete and explored.interleavings == 10
    assert str(explored).startswith("BOUND REACHED after 10 interleavings")
