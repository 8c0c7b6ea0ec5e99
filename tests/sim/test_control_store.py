"""The control store crashes at any step and begins again from its log; no program notices that it was away."""

from __future__ import annotations

import miniray
from miniray.testing import cluster as simulation
from miniray.testing import simulate
from miniray.testing.faults import AWAY_SECONDS, ControlCrash, Faults
from miniray.testing.recording import Step
from miniray.testing.seeds import run_checked

MOMENTS = range(20)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def up(self) -> int:
        self.count += 1
        return self.count


def work(x: int, depth: int = 0) -> int:
    simulation.running[0].sleep(0.05)
    return x + 1 if not depth else int(miniray.get(miniray.remote(work).remote(x, depth - 1)))


def on_all_nodes() -> None:
    """More than the node of the driver can do alone, for longer than the store takes to begin."""
    counters = [miniray.remote(num_cpus=0.5)(Counter).remote() for _ in range(3)]
    ups = [one.up.remote() for one in counters for _ in range(2)]
    sums = [miniray.remote(work).remote(number, number % 2) for number in range(8)]
    assert miniray.get(sums) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert miniray.get(ups) == [1, 2] * 3
    assert not simulation.running[0].disturbed


def _lives() -> int:
    control = simulation.running[0].control
    assert control is not None
    return control.lives


def test_a_crash_at_any_step_and_another_soon_after_change_no_result() -> None:
    lives: list[int] = []

    def program() -> None:
        on_all_nodes()
        lives.append(_lives())

    for after in MOMENTS:
        away = AWAY_SECONDS[after % len(AWAY_SECONDS)]
        crashes = (ControlCrash(after, bool(after % 2), away), ControlCrash(after % 5, not after % 2, 0.0))
        run_checked(program, after, nodes=3, num_cpus=1, faults=Faults(control_crashes=crashes))
    assert sum(life == 3 for life in lives) > len(lives) // 2, "both are to come while the program runs"


def test_links_between_it_and_nodes_break_and_nobody_is_dead() -> None:
    broken = 0
    for after in MOMENTS[::2]:
        faults = Faults(control_breaks=(after, after % 3, 0))
        assert not run_checked(on_all_nodes, after, nodes=3, num_cpus=1, faults=faults).deaths
        trace = simulate(on_all_nodes, seed=after, nodes=3, num_cpus=1, faults=faults, record=True).trace
        broken += sum(step.event["kind"] == "LinkBroke" for step in trace)
    assert broken >= len(MOMENTS)


def retried() -> None:
    work_again = miniray.remote(max_retries=-1)(work)
    assert miniray.get([work_again.remote(number) for number in range(8)]) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_node_that_dies_is_found_dead_whatever_the_store_has_lost_of_it() -> None:
    """It dies while the store is away; or the store crashes while it is fenced, or as it tells some of that death."""
    met: dict[str, None] = {}
    for seed in MOMENTS:
        crashes = (ControlCrash(0, bool(seed % 2), 0.01, at_news=bool(seed % 4)), ControlCrash(seed % 7, False, 0.3))
        faults = Faults(node_crashes=(30 + 5 * seed,), control_crashes=crashes)
        trace = simulate(retried, seed=seed, nodes=3, num_cpus=1, faults=faults, record=True).trace
        met.update(dict.fromkeys(_moments(trace)))
        run_checked(retried, seed, nodes=3, num_cpus=1, faults=faults)
    assert set(met) == {"away", "fenced", "telling"}, met


def _moments(trace: list[Step]) -> list[str]:
    """In which of these a node or the store crashed."""
    found, is_away, lost, told = [], False, "", False
    for step in trace:
        kind, is_control = step.event["kind"], step.process == "control.p0"
        if is_control and kind == "Crashed":
            is_away = True
            found += ["telling"] if told else ["fenced"] if lost else []
        elif is_control and kind == "BeganAgain":
            is_away = False
        elif is_control:
            lost = step.event["peer"] if kind == "PeerLost" else lost
            told = any(one.get("message", {}).get("kind") == "NodeDied" for one in step.effects)
            lost = "" if told else lost
        elif kind == "Crashed" and is_away and step.process.endswith("p0"):
            found.append("away")
    return found
