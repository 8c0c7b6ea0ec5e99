"""Same seed, same trace: in two processes, whatever the hash seed, and in whatever order seeds are run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from miniray.testing.choices import RecordedChoices, SeededChoices
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.drawing import draw_program
from miniray.testing.faults import draw
from miniray.testing.seeds import main, run_program, run_seed

PROGRAM = """
import sys
from miniray.testing.seeds import run_seed
for seed in map(int, sys.argv[1:]):
    print(seed, run_seed(seed))
"""


def _traces(hash_seed: str, seeds: list[int]) -> dict[str, str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", PROGRAM, *map(str, seeds)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in told.stdout.splitlines())


def test_same_seed_same_trace_in_two_processes() -> None:
    seeds = list(range(60))
    first = _traces("1", seeds)
    assert len(first) == len(seeds)
    assert first == _traces("2", seeds[::-1])


def test_two_seeds_have_two_traces() -> None:
    assert run_seed(1).trace_hash != run_seed(2).trace_hash


def test_recorded_choices_give_the_same_run() -> None:
    def run(choices: SeededChoices | RecordedChoices) -> str:
        ops = draw_program(choices)
        cluster = SimulatedCluster(choices, num_cpus=1 + choices.choose(3, "CPUs"), faults=draw(choices))
        try:
            run_program(cluster, ops)
            return cluster.trace_hash
        finally:
            cluster.close()

    seeded = SeededChoices(0)  # with no broken links, forks or small stores: those are drawn from other sources
    trace = run(seeded)
    assert trace == run(RecordedChoices(seeded.taken)) == run_seed(0, nodes=1).trace_hash


def test_one_seed_tells_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    told = run_seed(3)
    assert main(["3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"nodes: {told.nodes}" and lines[-1] == str(told)
    assert lines[1].startswith("Faults(") and lines[2].startswith("Op(")
    assert sum(line[9:15].strip().isdigit() for line in lines) >= told.steps
