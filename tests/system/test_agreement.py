"""Real processes under SIGKILL and simulated ones under many schedules come to the same outcomes.

Each scenario of `crash_scenarios.py` runs under SCHEDULES seeds, half of them with long delays and slow links, and once
on the local transport. What real processes tell is allowed; schedules tell all that is allowed (an outcome that none
reaches is a hole in the simulator, or no outcome), and what broken links do beside it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import crash_scenarios
import pytest
from crash_scenarios import ALLOWED, ONLY_SIMULATED, Told, World

from miniray.core.ids import ProcessId, TaskId
from miniray.testing.cluster import running
from miniray.testing.faults import NO_FAULTS, Faults
from miniray.testing.seeds import FailedSeed, run_checked
from miniray.testing.simulated import SimulatedProcess
from tests.sim.mutants import ALL as MUTANTS
from tests.sim.mutants.search import load_all

SCHEDULES = 40
SLOW = Faults(one_long_in=5, one_slow_link_in=4)
HERE = str(Path(__file__).parent)
SOURCE = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from crash_world import main
    main(*sys.argv[2:])
"""


class SimulatedWorld:
    """`notes` and `places` are what the files of a real world are: they outlive every process of a run."""

    notes: dict[str, int] = {}
    places: dict[str, SimulatedProcess] = {}

    @classmethod
    def begin(cls) -> SimulatedWorld:
        cls.notes.clear()
        cls.places.clear()
        return cls()

    def die(self) -> NoReturn:
        running[-1].die()
        raise AssertionError("a dead fiber does not go on")

    def note(self, key: str) -> int:
        self.notes[key] = self.count(key) + 1
        return self.notes[key]

    def count(self, key: str) -> int:
        return self.notes.get(key, 0)

    def here(self, name: str) -> None:
        cluster = running[-1]
        self.places[name] = next(home for home in cluster.processes.values() if cluster.awake in home.fibers)

    def kill(self, name: str) -> None:
        running[-1].crash(self.places[name], -9, "killed by its program")

    def doom_next_start(self) -> None:
        host = running[-1].head
        start = host.start

        def start_dead(process: ProcessId, fork: TaskId | None) -> None:
            setattr(host, "start", start)  # noqa: B010
            self.note("doomed")
            start(process, fork)
            host.kill(process)

        setattr(host, "start", start_dead)  # noqa: B010

    def sleep(self, seconds: float) -> None:
        running[-1].sleep(seconds)


def simulated(scenario: Callable[[World], Told]) -> list[Told]:
    """What it tells under each schedule, each once."""
    found: list[Told] = []

    def program() -> None:
        told = scenario(SimulatedWorld.begin())
        if told not in found:
            found.append(told)

    for seed in range(SCHEDULES):
        run_checked(program, seed, num_cpus=crash_scenarios.NUM_CPUS, faults=SLOW if seed % 2 else NO_FAULTS)
    SimulatedWorld.begin()
    return found


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    load_all()


@pytest.mark.parametrize("scenario", ALLOWED, ids=lambda scenario: scenario.__name__)
def test_agreement(scenario: Callable[[World], Told], script: Callable[..., Any], tmp_path: Path) -> None:
    allowed = ALLOWED[scenario]
    found = simulated(scenario)
    for told in found:
        assert told in [*allowed, *ONLY_SIMULATED.get(scenario, [])]
    for told in allowed:
        assert told in found
    folder = tmp_path / "world"
    folder.mkdir()
    real = json.loads(script(SOURCE, HERE, scenario.__name__, folder).end())
    assert real in allowed


# For each scenario a wrong protocol under which it tells something else.
WRONG = {
    crash_scenarios.a_task_is_retried: "attempts_are_not_numbered",
    crash_scenarios.retries_are_used_up: "what_has_started_costs_no_retry",
    crash_scenarios.no_retry_is_no_second_start: "no_retries_left_is_retried",
    crash_scenarios.a_result_that_was_sent_counts: "a_lost_worker_is_not_noticed",
    crash_scenarios.what_is_queued_behind_costs_nothing: "what_has_not_started_costs_a_retry",
    crash_scenarios.arguments_that_kill_are_a_start: "a_lost_worker_is_not_noticed",
    crash_scenarios.a_worker_dies_at_its_start: "nobody_hears_of_a_death",
    crash_scenarios.a_stored_value_survives_its_maker: "a_lost_worker_is_not_noticed",
    crash_scenarios.views_end_with_their_process: "a_lost_worker_is_not_noticed",
    crash_scenarios.children_end_with_their_parent: "a_lost_worker_is_not_noticed",
    crash_scenarios.a_dead_parent_without_retries: "a_lost_worker_is_not_noticed",
    crash_scenarios.killed_while_it_waits: "a_lost_worker_is_not_noticed",
    crash_scenarios.a_forced_cancel_kills_what_runs: "a_cancelled_task_has_no_outcome",
    crash_scenarios.a_forced_cancel_crosses_completion: "a_cancelled_task_has_no_outcome",
    crash_scenarios.values_end_with_their_owner: "calls_of_a_dead_actor_wait",
    crash_scenarios.the_last_holder_dies: "calls_of_a_dead_actor_wait",
    crash_scenarios.an_actor_dies_in_a_call: "calls_of_a_dead_actor_wait",
    crash_scenarios.an_actor_dies_between_calls: "calls_of_a_dead_actor_wait",
    crash_scenarios.an_actor_dies_in_its_constructor: "a_lost_worker_is_not_noticed",
    crash_scenarios.an_actor_is_ended_by_kill: "the_end_of_an_actor_is_not_told",
    crash_scenarios.the_giver_dies_during_the_hand_off: "gone_is_not_heard",
}


@pytest.mark.parametrize("scenario", ALLOWED, ids=lambda scenario: scenario.__name__)
def test_every_scenario_can_fail(scenario: Callable[[World], Told]) -> None:
    allowed = [*ALLOWED[scenario], *ONLY_SIMULATED.get(scenario, [])]
    found: list[Told] = []

    def program() -> None:
        found.append(scenario(SimulatedWorld.begin()))

    for seed in range(2):
        with MUTANTS[WRONG[scenario]].on(), contextlib.suppress(FailedSeed):  # a checker may stop it, too
            run_checked(program, seed, num_cpus=crash_scenarios.NUM_CPUS, faults=SLOW if seed % 2 else NO_FAULTS)
    SimulatedWorld.begin()
    assert [told for told in found if told not in allowed], f"{WRONG[scenario]} is not noticed"


def test_every_scenario_is_compared() -> None:
    shape = {"world": "World", "return": "Told"}
    written = [name for name, one in vars(crash_scenarios).items() if getattr(one, "__annotations__", None) == shape]
    assert sorted(written) == sorted(scenario.__name__ for scenario in ALLOWED)
    assert len(written) >= 12
