"""From nothing to the first result, back to nothing, and what an idle system with two workers costs."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter, sleep

from bench.measure import Goal, Row, interleave_processes
from bench.versus import ADAPTERS, WORKERS, load

SETTLE_SECONDS = 0.5


def life(name: str) -> list[float]:
    """[seconds from start to the first result, seconds to stop], in this fresh process."""
    began = perf_counter()
    adapter = load(name)
    adapter.start(WORKERS)
    adapter.roundtrip(1)
    first = perf_counter()
    adapter.stop()
    return [first - began, perf_counter() - first]


def descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue += parents.get(found[-1], [])
    return found


def idle_pss(name: str) -> list[float]:
    """[MB of proportional set size over this process and its descendants, number of processes]."""
    adapter = load(name)
    adapter.start(WORKERS)
    adapter.submit_gather(200)
    sleep(SETTLE_SECONDS)
    total = 0
    processes = descendants(os.getpid())
    for pid in processes:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    adapter.stop()
    return [total / 1e6, len(processes)]


def _figures(target: str, count: int) -> tuple[list[dict[str, list[float]]], list[str]]:
    """The samples of a target that returns two figures, as two rows of samples."""
    pairs, notes = interleave_processes({name: (target, name) for name in ADAPTERS}, count, tuple)
    return [{name: [pair[i] for pair in found] for name, found in pairs.items()} for i in (0, 1)], notes


def start_and_stop(count: int) -> list[Row]:
    (first, stopped), notes = _figures("bench.rows_lifecycle:life", count)
    return [
        Row("init to the first result", "s", first, [Goal(at_most=0.5)], notes),
        Row("shutdown", "s", stopped, [Goal(at_most=0.3)]),
    ]


def idle(count: int) -> list[Row]:
    (size, processes), notes = _figures("bench.rows_lifecycle:idle_pss", count)
    return [
        Row("idle with two workers, PSS of all processes", "MB", size, [Goal(at_most=60)], notes),
        Row("idle with two workers, processes", "", processes),
    ]


ROWS = {"lifecycle": start_and_stop, "idle": idle}
