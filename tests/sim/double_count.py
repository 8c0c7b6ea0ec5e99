"""A program with a fault that only a crash shows, and recordings of it: a retried task counts twice."""

from __future__ import annotations

import miniray
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.faults import Crash, CrashMode, Faults
from miniray.testing.recorder import Recorder
from miniray.testing.recording import Recording, plain

MOST_SEEDS = 300


@miniray.remote
class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, number: int) -> int:
        self.total += number
        return self.total

    def value(self) -> int:
        return self.total


@miniray.remote(max_retries=3)
def record(counter: miniray.ActorHandle, number: int) -> int:
    miniray.get(counter.add.remote(number))
    return number


def program() -> None:
    counter = Counter.remote()
    sent = sum(miniray.get([record.remote(counter, number) for number in (1, 2, 3)]))
    total = miniray.get(counter.value.remote())
    assert total == sent, f"the counter says {total}, but {sent} was sent"


def recorded(seed: int, faults: Faults) -> Recording:
    choices, recorder = SeededChoices(seed), Recorder()
    cluster = SimulatedCluster(choices, num_cpus=3, faults=faults, recorder=recorder)
    error = None
    try:
        cluster.run(program)
    except Exception as raised:
        error = {"type": f"{type(raised).__module__}.{type(raised).__qualname__}", "text": str(raised), "traceback": ""}
    finally:
        trace_hash = cluster.trace_hash
        cluster.close()
    return Recording(
        program={"file": "double_count.py", "module": __name__, "name": "program"},
        cluster={"num_cpus": 3},
        faults=plain(faults),
        seed=seed,
        choices=choices.taken,
        error=error,
        trace_hash=trace_hash,
        matters=["a worker was killed", "record ran again"],
        processes=recorder.processes,
        tasks=recorder.tasks,
        steps=recorder.steps,
    )


def failing() -> Recording:
    """The first seed that counts twice."""
    for seed in range(MOST_SEEDS):
        found = recorded(seed, Faults((Crash(seed % 60, CrashMode.AT_STEP),), one_long_in=20))
        if found.error is not None and "counter says" in found.error["text"]:
            return found
    raise AssertionError(f"none of {MOST_SEEDS} seeds counts twice")
