"""Throughput of tasks that do nothing: submitted one by one, and a million with their refs dropped."""

from __future__ import annotations

import gc
from collections import deque
from pathlib import Path
from time import perf_counter, sleep

from bench import limits
from bench.measure import MINIRAY, Goal, MeasurementError, Row, in_process, interleave_processes
from bench.versus import WORKERS, systems

TASKS = 20_000
MILLION = 1_000_000
WINDOW = 10_000
PENDING = 100_000
SETTLE_SECONDS = 0.5  # drops are drained, and leases that lie idle are given back
LONGEST_SETTLE_SECONDS = 5.0  # on a busy machine; what is there then stays
FRAMES = "frames of 64"


def frames(count: int) -> float:
    limits.records(count)
    return limits.records(count)


def submit(count: int) -> list[Row]:
    wanted = {**systems("submit_gather", TASKS), FRAMES: ("bench.rows_tasks:frames", 10 * TASKS)}
    samples, notes = interleave_processes(wanted, count)
    rates = {name: [(10 if name == FRAMES else 1) * TASKS / s for s in found] for name, found in samples.items()}
    goals = [Goal(at_least=60_000), Goal("mp.Pool", at_least=2), Goal("Ray", at_least=20), Goal(FRAMES)]
    return [Row(f"{TASKS:,} no-op tasks, one by one, gathered", "tasks/s", rates, goals, notes)]


def million_tasks(tasks: int) -> list[float]:
    """[tasks a second, MB of resident memory that the driver has more than before, entries left in its tables]."""
    import miniray
    from bench.versus.work import nothing

    miniray.init(num_cpus=WORKERS)
    work = miniray.remote(nothing)
    miniray.get([work.remote(i) for i in range(2 * WINDOW)])
    gc.collect()
    before = resident_bytes()
    began = perf_counter()
    pending = deque()
    for i in range(tasks):
        pending.append(work.remote(i))
        if len(pending) >= WINDOW:
            miniray.get([pending.popleft() for _ in range(WINDOW // 2)])
    miniray.get(list(pending))
    seconds = perf_counter() - began
    del work
    pending.clear()
    gc.collect()
    sleep(SETTLE_SECONDS)
    grown = (resident_bytes() - before) / 1e6
    latest = perf_counter() + LONGEST_SETTLE_SECONDS
    while (left := entries_left()) and perf_counter() < latest:
        sleep(SETTLE_SECONDS)
    miniray.shutdown()
    return [tasks / seconds, grown, left]


def pending_bytes(tasks: int) -> float:
    """Resident bytes that the driver has more for each of so many calls that cannot start yet, refs included."""
    import tempfile

    import miniray
    from bench.versus.work import nothing

    def wait_for(path: str) -> None:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)

    miniray.init(num_cpus=WORKERS)
    work = miniray.remote(nothing)
    miniray.get([work.remote(i) for i in range(1000)])
    with tempfile.TemporaryDirectory(prefix="miniray-bench-") as folder:
        gate = Path(folder, "gate")
        blockers = [miniray.remote(wait_for).remote(str(gate)) for _ in range(WORKERS)]
        sleep(SETTLE_SECONDS)
        gc.collect()
        before = resident_bytes()
        refs = [work.remote(i) for i in range(tasks)]
        grown = resident_bytes() - before
        ready, _ = miniray.wait(refs, num_returns=1, timeout=0)
        assert not ready, "a call was answered while it was to be pending"
        gate.touch()
        miniray.get(blockers + refs)
    miniray.shutdown()
    return grown / tasks


def entries_left() -> int:
    """Rows in the tables of this driver's machines, its places in the store, its waits. No public name tells this, so
    it is asked of the runtime."""
    from miniray._runtime.context import current

    process = current()
    process.post()  # takes in what was dropped
    sizes = process.drives.locked(process.loop.statistics)
    left_behind = [process.dropped, process.views_dropped, process.functions_dropped, process.finalised]
    return (
        sum(sizes.values())
        + process.store.statistics()["live_places"]
        + len(process.waiters._waiting)
        + sum(map(len, left_behind))
    )


def resident_bytes() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def million(count: int) -> list[Row]:
    try:
        rate, grown, left = in_process("bench.rows_tasks:million_tasks", MILLION)
    except MeasurementError as error:
        return [Row("a million tasks, refs dropped", "tasks/s", {}, [], [f"{MINIRAY}: {error}"])]
    return [
        Row("a million tasks, refs dropped", "tasks/s", {MINIRAY: [rate]}),
        Row("memory grown after a million tasks", "MB", {MINIRAY: [grown]}, [Goal(at_most=20)]),
        Row("entries left in the driver's tables", "", {MINIRAY: [left]}, [Goal(at_most=0)]),
    ]


def pending(count: int) -> list[Row]:
    wanted = {MINIRAY: ("bench.rows_tasks:pending_bytes", PENDING)}
    samples, notes = interleave_processes(wanted, count)
    return [Row(f"memory of a pending task, {PENDING:,} pending", "bytes", samples, [Goal(at_most=1200)], notes)]


ROWS = {"submit": submit, "pending": pending}
ON_REQUEST = {"million": million}
