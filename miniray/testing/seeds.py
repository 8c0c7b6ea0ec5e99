"""One seed is one run: a random program under random faults, checked while it runs and when nothing is left.

A seed that fails says how to run it again; `python -m miniray.testing SEED` tells its story, step by step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from time import monotonic
from typing import Any

from miniray.core.record import Record, replace
from miniray.testing import faults as _faults
from miniray.testing.checkers import BrokenInvariant, Watch
from miniray.testing.checkers.spread import Spread, Tally
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import ARENA_BYTES, SimulatedCluster
from miniray.testing.drawing import draw_program
from miniray.testing.faults import Faults
from miniray.testing.forking import fork_some
from miniray.testing.heap import frozen_heap
from miniray.testing.programs import Op, run_until_full
from miniray.testing.recorder import Recorder
from miniray.testing.spreading import spread
from miniray.testing.story import HEADING, last_steps, whole

# Seeds of other sources: what they draw changes nothing else.
_OF_LINKS, _OF_NODES, _OF_HEALING, _OF_CONTROL, _OF_SPREADING, _OF_FORKS, _OF_ROOM = (1 << bit for bit in range(40, 47))
_NODES = (1, 1, 1, 2, 3)
_FORKS_ONE_IN = 4  # programs
_SMALL_ONE_IN = 6  # programs have stores of so many bytes; a large value has 128,000
_SMALL_BYTES = (512 << 10, 1 << 20, 2 << 20)
_CHUNK = 20  # seeds that one process runs before it says what failed
SAY_SECONDS = 30.0  # between two words of how far it is


class Told(Record, frozen=True):
    """What one run was."""

    seed: int
    trace_hash: str
    steps: int
    virtual_seconds: float
    deaths: int
    nodes: int
    spread: Spread


class FailedSeed(AssertionError):
    """This seed shows that something is wrong; `again` is what runs it again."""

    def __init__(self, seed: int, error: BaseException, again: str, *, story: str = "") -> None:
        told = f"{error}\n\n{story}" if story else f"{error}"
        super().__init__(f"seed {seed}: {told}\n\nrun it again: {again}")
        self.seed = seed


@frozen_heap()
def run_seed(seed: int, *, tasks: int = 0, nodes: int = 0, recorder: Recorder | None = None) -> Told:
    """Run one seed.

    Args:
        tasks: at least so many tasks, calls and actors in its program; 0: a small one. Another number, another run.
        nodes: of the cluster; 0: the seed says how many. Of several some may die. Another number, another run.
        recorder: looks on.

    Raises:
        FailedSeed: and why.
    """
    cluster, ops = _draw(seed, tasks, nodes, recorder)
    try:
        return _told(seed, cluster, run_program(cluster, ops))
    except Exception as error:
        broken = error
    finally:
        cluster.close()
    again = f"python -m miniray.testing {seed}" + (f" --tasks {tasks}" if tasks else "")
    again += f" --nodes {nodes}" if nodes else ""
    story = _story(seed, tasks, nodes, broken)
    raise FailedSeed(seed, broken, f"{again} (it tells the story)", story=story) from broken


def _draw(seed: int, tasks: int, nodes: int, recorder: Recorder | None) -> tuple[SimulatedCluster, tuple[Op, ...]]:
    choices = SeededChoices(seed)
    ops = draw_program(choices, tasks)
    num_cpus = 1 + choices.choose(3, "CPUs")
    if not nodes:
        of_nodes = SeededChoices(seed + _OF_NODES)
        nodes = _NODES[of_nodes.choose(len(_NODES), "nodes")]
        if nodes > 1:
            num_cpus = 1 + of_nodes.choose(2, "CPUs")  # few, so that there is work for others
    of_spreading = SeededChoices(seed + _OF_SPREADING)
    spreads = nodes > 1 and of_spreading.choose(8, "whether it spreads") > 0
    if spreads:
        ops = spread(of_spreading, ops)
        num_cpus = 1 + (of_spreading.choose(4, "CPUs") == 0)
    of_forks = SeededChoices(seed + _OF_FORKS)
    if not of_forks.choose(_FORKS_ONE_IN, "whether it forks"):
        ops = fork_some(of_forks, ops)
    faults = _faults.draw(choices, nodes)
    if spreads:
        faults = _faults.draw_strikes(of_spreading, faults, nodes)
    faults = replace(faults, broken_links=_faults.draw_links(SeededChoices(seed + _OF_LINKS)))
    if faults.heal_after:
        faults = replace(faults, unhealed=_faults.draw_unhealed(SeededChoices(seed + _OF_HEALING), nodes))
    if nodes > 1:
        faults = _faults.draw_control(SeededChoices(seed + _OF_CONTROL), faults)
    of_room = SeededChoices(seed + _OF_ROOM)
    is_small = not of_room.choose(_SMALL_ONE_IN, "whether stores are small")
    room = _SMALL_BYTES[of_room.choose(len(_SMALL_BYTES), "room")] if is_small else ARENA_BYTES
    made = SimulatedCluster(
        choices, nodes=nodes, num_cpus=num_cpus, faults=faults, arena_bytes=room, recorder=recorder
    )
    return made, ops


def _story(seed: int, tasks: int, nodes: int, error: BaseException) -> str:
    """Of what a broken invariant is about. The seed runs once more for it, so that runs that hold pay nothing."""
    broken = error if isinstance(error, BrokenInvariant) else error.__cause__
    if not isinstance(broken, BrokenInvariant):
        return ""
    recorder = Recorder()
    cluster, ops = _draw(seed, tasks, nodes, recorder)
    try:
        run_program(cluster, ops)
    except Exception as again:
        if str(again) != str(error):
            return f"the second time: {again!r}"
        lines = last_steps(recorder.steps, recorder.processes, broken.about)
        return "\n".join([f"the story of {', '.join(broken.about)}:", HEADING, *lines])
    finally:
        cluster.close()
    return "it did not happen a second time"


def run_program(cluster: SimulatedCluster, ops: tuple[Op, ...]) -> Spread:
    """Run it in the driver, let everything settle, and check."""
    return _run(cluster, lambda: run_until_full(ops))


@frozen_heap()
def run_checked(
    program: Callable[[], Any], seed: int, *, nodes: int = 1, num_cpus: int = 2, faults: Faults = _faults.NO_FAULTS
) -> Told:
    """Run a given program as `run_seed` does a drawn one: every checker looks on, and nothing may be left at its end.

    For tests of the protocol. `simulation.simulate` is for programs of users: what they do is virtual, and watched by
    their own assertions.

    Raises:
        FailedSeed: it raised, it waits for ever, or a checker failed.
    """
    cluster = SimulatedCluster(SeededChoices(seed), nodes=nodes, num_cpus=num_cpus, faults=faults)
    try:
        return _told(seed, cluster, _run(cluster, program))
    except Exception as error:
        name = getattr(program, "__qualname__", "program")
        again = f"run_checked({name}, {seed}, nodes={nodes}, num_cpus={num_cpus}, faults={faults!r})"
        raise FailedSeed(seed, error, again) from error
    finally:
        cluster.close()


def _run(cluster: SimulatedCluster, program: Callable[[], Any]) -> Spread:
    watch = Watch(cluster)
    cluster.run(lambda: None if program() is None else None)  # what it returns is dropped at once
    cluster.settle()
    watch.at_end()
    return watch.spread


def _told(seed: int, cluster: SimulatedCluster, spread: Spread) -> Told:
    seconds, deaths = cluster.timeline.now, len(cluster.deaths)
    return Told(seed, cluster.trace_hash, cluster.steps, seconds, deaths, spread.nodes, spread)


def main(arguments: list[str]) -> int:
    """`python -m miniray.testing SEED [COUNT] [--tasks N] [--nodes N] [--jobs N]`: one seed with its story, or many."""
    parser = argparse.ArgumentParser("python -m miniray.testing", description="Run seeds of the simulated cluster.")
    parser.add_argument("seed", type=int, nargs="?", default=0, help="the first one; alone, it tells its story")
    parser.add_argument("count", type=int, nargs="?", default=1, help="how many")
    parser.add_argument("--tasks", type=int, default=0, help="at least so many tasks and actors in each program")
    parser.add_argument(
        "--nodes", type=int, default=0, help="of each cluster, else the seed says; of several some may die"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args(arguments)
    if given.count == 1:
        return _tell(given.seed, given.tasks, given.nodes)
    end = given.seed + given.count
    chunks = [range(first, min(first + _CHUNK, end)) for first in range(given.seed, end, _CHUNK)]
    failed, tally, said = 0, Tally(), monotonic()
    with ProcessPoolExecutor(given.jobs) as pool:
        runs = pool.map(_run_many, chunks, repeat(given.tasks), repeat(given.nodes))
        for chunk, (told, some) in zip(chunks, runs, strict=True):
            tally.add(some)
            for one in told:
                failed += 1
                print(one, file=sys.stderr, flush=True)
            if monotonic() - said > SAY_SECONDS:
                said = monotonic()
                print(f"{chunk.stop - given.seed} of {given.count} seeds, {failed} failed", file=sys.stderr, flush=True)
    print(f"{given.count} seeds, {failed} failed", tally, sep="\n")
    return 1 if failed else 0


def _tell(seed: int, tasks: int, nodes: int) -> int:
    cluster, ops = _draw(seed, tasks, nodes, None)
    cluster.close()
    print(f"nodes: {len(cluster.hosts)}", cluster.faults, *ops, HEADING, sep="\n")
    recorder = Recorder()
    try:
        told = run_seed(seed, tasks=tasks, nodes=nodes, recorder=recorder)
    except FailedSeed as error:
        print(*_whole_story(recorder), sep="\n")
        print(error, file=sys.stderr)
        return 1
    print(*_whole_story(recorder), told, sep="\n")
    return 0


def _whole_story(recorder: Recorder) -> list[str]:
    return [line for step in recorder.steps for line in whole(step, recorder.processes)]


def _run_many(seeds: range, tasks: int, nodes: int) -> tuple[list[str], Tally]:
    """What those that fail say, in short; how far the others have spread."""
    told, tally = [], Tally()
    for seed in seeds:
        try:
            tally.count(run_seed(seed, tasks=tasks, nodes=nodes).spread)
        except FailedSeed as error:
            told.append(str(error).split("\n\n")[0])
    return told, tally
