"""Links between nodes that break, and nodes that never heal, in programs of users: drawn, found, shrunk, told."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

import miniray
from miniray.core.record import replace
from miniray.errors import ActorUnavailableError, MinirayError
from miniray.testing import (
    Break,
    Faults,
    Lasting,
    SimulationFailed,
    Unhealed,
    explore,
    fault_schedules,
    schedules,
    simulate,
)
from miniray.testing.choices import SeededChoices
from miniray.testing.exploration import DEATHS
from miniray.testing.faults import draw
from miniray.testing.levels import faults_of, more_choices
from miniray.testing.moments import MomentKind, Run
from miniray.testing.recording import read
from miniray.testing.rerun import rerun
from miniray.testing.sequence import to_svg
from miniray.testing.shrinking import Failing, shrink
from miniray.testing.story import tell

SEEDS = range(60)
CUTS = Faults(one_long_in=20, one_pause_in=50, broken_links=(Break(5, 0.3, True), Break(3, 0.0, True)))


@miniray.remote(num_cpus=1)
class Account:
    def __init__(self) -> None:
        self.balance = 0

    def deposit(self, amount: int) -> int:
        time.sleep(0.01)
        self.balance += amount
        return self.balance


@miniray.remote(num_cpus=1, max_retries=-1)
def nap() -> None:
    time.sleep(0.1)


@miniray.remote(num_cpus=1)
class Seat:
    def name(self) -> str:
        return "seat"


def account_elsewhere() -> Any:
    """This node is busy while it is made."""
    ref = nap.remote()
    account = Account.remote()
    miniray.get([ref, account.deposit.options(max_task_retries=-1).remote(0)])
    return account


def deposits_again() -> None:
    """The account is on another node; the program takes "unavailable" for "not done"."""
    account = account_elsewhere()
    try:
        miniray.get(account.deposit.remote(10))
    except ActorUnavailableError:
        miniray.get(account.deposit.remote(10))
    assert miniray.get(account.deposit.remote(0)) == 10


def asks_first() -> None:
    """The same, done right."""
    account = account_elsewhere()
    try:
        miniray.get(account.deposit.remote(10))
    except ActorUnavailableError:
        if miniray.get(account.deposit.remote(0)) == 0:
            miniray.get(account.deposit.remote(10))
    assert miniray.get(account.deposit.remote(0)) == 10


def test_one_node_draws_none_of_it_and_several_nodes_what_they_drew_and_more() -> None:
    for seed in SEEDS:
        one = faults_of("all", SeededChoices(seed), 1, more_choices(seed))
        several = faults_of("all", SeededChoices(seed), 3, more_choices(seed))
        assert one == draw(SeededChoices(seed))
        drawn_before = draw(SeededChoices(seed), 3)
        more = {"broken_links": (), "unhealed": (), "control_crashes": (), "control_breaks": (), "node_strikes": ()}
        assert replace(several, node_crashes=(), **more) == replace(drawn_before, node_crashes=())
        assert several.node_crashes in ((), drawn_before.node_crashes), "nodes are struck instead"
        assert all(cut.between_nodes for cut in several.broken_links)
        assert several.heal_after or not several.unhealed
    drawn = [faults_of("all", SeededChoices(seed), 3, more_choices(seed)) for seed in SEEDS]
    assert any(one.broken_links for one in drawn) and any(one.unhealed for one in drawn)
    assert any(one.control_crashes for one in drawn) and any(one.control_breaks for one in drawn)
    assert any(one.node_strikes for one in drawn) and any(one.node_crashes for one in drawn)
    for level in ("none", "delays", "crashes"):
        for seed in SEEDS:
            lower = faults_of(level, SeededChoices(seed), 3, more_choices(seed))  # type: ignore[arg-type]
            assert not lower.broken_links and not lower.unhealed
            assert not lower.control_crashes and not lower.control_breaks and not lower.node_strikes


@pytest.mark.parametrize(
    ("faults", "nodes", "told"),
    [
        (Faults(broken_links=(Break(1, between_nodes=True),)), 1, "Break between nodes, and there is one node"),
        (Faults(heal_after=9, unhealed=(Unhealed(0, Lasting.DEAD),)), 3, "0, the driver's, always heals"),
        (Faults(heal_after=9, unhealed=(Unhealed(3, Lasting.DEAD),)), 3, "those from 1 to 2 may stay"),
        (Faults(unhealed=(Unhealed(1, Lasting.DEAD),)), 3, "give heal_after, too"),
    ],
)
def test_faults_that_cannot_be_are_refused(faults: Faults, nodes: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        simulate(asks_first, nodes=nodes, faults=faults)


def test_links_of_one_node_do_not_break_between_nodes() -> None:
    def program() -> int:
        @miniray.remote(num_cpus=0)
        def here() -> int:
            return 1

        return sum(miniray.get([here.remote() for _ in range(5)]))

    done = simulate(program, nodes=2, num_cpus=8, faults=Faults(broken_links=(Break(0, between_nodes=True),)))
    assert done.value == 5 and not done.statistics.broken_links


def test_a_call_that_a_broken_link_made_twice_is_found_shrunk_told_drawn_and_run_again(tmp_path: Path) -> None:
    with pytest.raises(SimulationFailed) as failed:
        explore(folder=tmp_path, num_cpus=1, nodes=3, faults=CUTS)(deposits_again)()
    text = str(failed.value)
    assert "AssertionError: assert 20 == 10" in text
    assert "broken links: 1, nodes: 2)" in text and "deaths: 0" in text, text
    assert re.search(r"link between .* broke at 0.*, before the answer of Account.deposit .*, which had run, arr", text)
    assert len(text.splitlines()) < 20
    (file,) = tmp_path.iterdir()
    recording = read(file)
    assert len(recording.faults["broken_links"]) == 1 and recording.faults["broken_links"][0]["silent_seconds"] == 0
    assert re.search(r"its link to driver p1 breaks, with Account.deposit .* under way; both live", tell(recording))
    assert "the link breaks</text>" in to_svg(recording)
    assert rerun(recording).trace_hash == recording.trace_hash
    run = Run(recording)
    (cut,) = [one for one in run.moments if one.kind is MomentKind.CUT]
    assert run.name(cut.task) == "Account.deposit"


def test_the_program_that_asks_first_is_right_under_all_that_may_happen() -> None:
    explore(num_cpus=1, nodes=3, faults=CUTS, seeds=40)(asks_first)()


def test_what_a_broken_link_shows_a_program_is_an_error_that_is_allowed() -> None:
    """Or a retry: tasks and calls that may run again do."""
    seen: set[str] = set()
    for seed in range(40):
        faults = Faults(broken_links=tuple(Break(seed % 20, (0.0, 0.3)[seed % 2], True) for _ in range(2)))

        def program() -> str:
            work = miniray.remote(num_cpus=1, max_retries=0)(time.sleep)
            refs = [work.remote(0.01) for _ in range(4)] + [Account.remote().deposit.remote(1)]
            told = []
            for ref in refs:
                try:
                    miniray.get(ref)
                except MinirayError as error:
                    assert isinstance(error, DEATHS)
                    told.append(type(error).__name__)
            return " ".join(told)

        seen.update(simulate(program, seed=seed, num_cpus=1, nodes=3, faults=faults).value.split())
    assert {"ActorUnavailableError", "WorkerCrashedError"} <= seen


def test_messages_keep_their_causes_over_a_broken_link() -> None:
    """What was under way is no cause of what arrives on the next link."""

    def program() -> None:
        account = account_elsewhere()
        deposit = account.deposit.options(max_task_retries=-1)
        assert miniray.get([deposit.remote(0) for _ in range(5)]) == [0] * 5

    faults = Faults(broken_links=tuple(Break(after, between_nodes=True) for after in (4, 1, 0)))
    done = simulate(program, seed=3, num_cpus=1, nodes=2, faults=faults, record=True)
    assert done.statistics.broken_links >= 2
    by_number = {step.number: step for step in done.trace}
    received = [step for step in done.trace if step.event["kind"] == "Received"]
    assert received
    for step in received:
        assert step.cause is not None, step
        sent = [one["message"] for one in by_number[step.cause].effects if one.get("peer") == step.process]
        assert step.event["message"] in sent, step


def test_shrinking_leaves_one_break_as_early_as_it_may_be_with_nothing_lost_before() -> None:
    def fails(one: Failing) -> bool:
        return one.nodes > 1 and any(cut.after >= 11 for cut in one.faults.broken_links) and any(one.choices)

    cuts = (Break(40, 0.3, True), Break(90, 0.3, True))
    faults = Faults(broken_links=cuts, one_pause_in=50, heal_after=300, unhealed=(Unhealed(2, Lasting.CUT_OFF),))
    smallest = shrink(Failing(faults, (0, 3, 9), 4), fails, max_seconds=600.0)
    assert smallest.nodes == 2 and smallest.faults == Faults(broken_links=(Break(11, between_nodes=True),))


def test_shrinking_leaves_one_node_behind_as_early_as_it_may_be_and_just_dead() -> None:
    def fails(one: Failing) -> bool:
        return bool(one.faults.unhealed) and one.faults.heal_after >= 23 and any(one.choices)

    faults = Faults(heal_after=300, unhealed=(Unhealed(1, Lasting.STANDS_STILL), Unhealed(3, Lasting.CUT_OFF)))
    smallest = shrink(Failing(faults, (0, 3, 9), 4), fails, max_seconds=600.0)
    assert smallest.nodes == 2
    assert smallest.faults == Faults(heal_after=23, unhealed=(Unhealed(1, Lasting.DEAD),))


@pytest.mark.parametrize("how", [Lasting.CUT_OFF, Lasting.STANDS_STILL])
def test_a_node_that_is_left_behind_is_told_and_drawn(tmp_path: Path, how: Lasting) -> None:
    def program() -> None:
        seats = [Seat.remote() for _ in range(2)]
        for _ in range(30):
            assert miniray.get([seat.name.remote() for seat in seats]) == ["seat", "seat"]

    faults = Faults(heal_after=90, unhealed=(Unhealed(1, how),))
    with pytest.raises(SimulationFailed, match=f"with all that runs there .*{how.value} for ever at ") as failed:
        explore(folder=tmp_path, num_cpus=1, nodes=2, allow=(), faults=faults, shrink_seconds=3.0)(program)()
    assert "ActorDiedError" in str(failed.value)
    (file,) = tmp_path.iterdir()
    recording = read(file)
    assert f"{how.value}, for ever</text>" in to_svg(recording)
    again: Any = rerun(recording) if "<locals>" not in recording.program["name"] else None
    assert again is None or again.trace_hash == recording.trace_hash


FEW = settings(max_examples=15, deadline=None, database=None, derandomize=True)


@FEW
@given(schedule=schedules(), faults=fault_schedules(max_node_crashes=1, max_broken_links=2, max_unhealed=2))
def test_hypothesis_draws_them(schedule: Any, faults: Faults) -> None:
    def program() -> int:
        work = miniray.remote(num_cpus=1, max_retries=-1)(lambda x: x)
        return sum(miniray.get([work.remote(number) for number in range(4)]))

    assert simulate(program, choices=schedule, faults=faults, num_cpus=1, nodes=3).value == 6
