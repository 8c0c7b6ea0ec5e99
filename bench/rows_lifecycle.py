"""From nothing to the first result, back to nothing, and what an idle system with two workers costs."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

from bench.measure import MINIRAY, Goal, MeasurementError, Row, descendants, in_process, interleave_processes
from bench.versus import FAMILIES, WORKERS, load

SETTLE_SECONDS = 0.5


def life(family: str, name: str) -> list[float]:
    """[seconds from start to the first result, seconds to stop], in this fresh process."""
    began = perf_counter()
    adapter = load(name, family)
    adapter.start(WORKERS)
    adapter.roundtrip(1)
    first = perf_counter()
    adapter.stop()
    return [first - began, perf_counter() - first]


def idle_pss(family: str, name: str) -> list[float]:
    """[MB of proportional set size over this process and its descendants, number of processes]."""
    adapter = load(name, family)
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


def figures(target: str, family: str, count: int) -> tuple[list[dict[str, list[float]]], list[str]]:
    """The samples of a target that returns two figures, as two rows of samples."""
    pairs, notes = interleave_processes({name: (target, family, name) for name in FAMILIES[family]}, count, tuple)
    return [{name: [pair[i] for pair in found] for name, found in pairs.items()} for i in (0, 1)], notes


def start_and_stop(count: int) -> list[Row]:
    (first, stopped), notes = figures("bench.rows_lifecycle:life", "tasks", count)
    return [
        Row("init to the first result", "s", first, [Goal(at_most=0.5)], notes),
        Row("shutdown", "s", stopped, [Goal(at_most=0.3)]),
    ]


def idle(count: int) -> list[Row]:
    (size, processes), notes = figures("bench.rows_lifecycle:idle_pss", "tasks", count)
    return [
        Row("idle with two workers, PSS of all processes", "MB", size, [Goal(at_most=60)], notes),
        Row("idle with two workers, processes", "", processes),
    ]


def killed_tasks(count: int) -> list[float]:
    """Milliseconds from a task's SIGKILL of its own worker until it runs again in another one, in this process."""
    import miniray

    def killed_once(path: str) -> float:
        import os
        import signal
        import time

        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return time.monotonic() * 1e3
        os.write(descriptor, repr(time.monotonic() * 1e3).encode())
        os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    miniray.init(num_cpus=WORKERS)
    task = miniray.remote(killed_once)
    found = []
    with TemporaryDirectory(prefix="miniray-bench-") as folder:
        for number in range(count):
            path = Path(folder, str(number))
            again = miniray.get(task.remote(str(path)))
            found.append(again - float(path.read_text()))
    miniray.shutdown()
    return found


def recovery(count: int) -> list[Row]:
    found: list[float] = []
    notes = []
    try:
        found = in_process("bench.rows_lifecycle:killed_tasks", 6 * count)
    except MeasurementError as error:
        notes.append(f"{MINIRAY}: {error}")
    return [Row("a killed worker's task runs again after", "ms", {MINIRAY: found}, [Goal(at_most=100)], notes)]


ROWS = {"lifecycle": start_and_stop, "idle": idle, "recovery": recovery}
