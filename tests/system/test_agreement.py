"""Real processes under SIGKILL and simulated ones under many schedules come to the same outcomes.

Each scenario of `crash_scenarios.py` runs under SCHEDULES seeds, half of them with long delays and slow links, and once
on the local transport. What real processes tell is allowed; schedules tell all that is allowed (an outcome that none
reaches is a hole in the simulator, or no outcome), and what broken links do beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import crash_scenarios
import pytest
from crash_scenarios import ALLOWED, ONLY_SIMULATED, Told, World

from miniray.core.ids import ProcessId
from miniray.testing.cluster import running
from miniray.testing.faults import NO_FAULTS, Faults
from miniray.testing.seeds import prepare, run_checked
from miniray.testing.simulated import SimulatedProcess

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

        def start_dead(process: ProcessId) -> None:
            setattr(host, "start", start)  # noqa: B010
            self.note("doomed")
            start(process)
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
    prepare()


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


def test_every_scenario_is_compared() -> None:
    shape = {"world": "World", "return": "Told"}
    written = [name for name, one in vars(crash_scenarios).items() if getattr(one, "__annotations__", None) == shape]
    assert sorted(written) == sorted(scenario.__name__ for scenario in ALLOWED)
    assert len(written) >= 12
