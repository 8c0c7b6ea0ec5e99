"""Sessions and pools that come and go leave nothing. `tests/system/test_leaks.py` runs thirty of each."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import psutil

from bench.measure import MINIRAY, Goal, MeasurementError, Row, in_process
from bench.versus import WORKERS

CYCLES = 1000
FIRST = 5  # what is made once and kept is there by then
SETTLE_SECONDS = 0.5  # a session lets drops drain and leases go
TIMEOUT_SECONDS = 1800
MEET_SECONDS = 20
GROWN_MB = 10  # allowed, in 1,000 cycles
COUNTED = ("processes", "descriptors", "threads", "files")
FIGURES = (*COUNTED, "maps", "objects", "MB")


def grown(what: str, times: int) -> dict[str, float]:
    """What there is more after `times` sessions (or pools, in one session) than after the first five: processes below
    this one, its descriptors, threads, temporary files, memory maps and objects, and MB of memory that are its own and
    its descendants'. To be called in a process of its own."""
    with TemporaryDirectory(prefix="miniray-bench-") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        return _grown(what, times)


def _grown(what: str, times: int) -> dict[str, float]:
    import miniray

    cycle: Callable[[int], None] = {"sessions": session, "pools": pool}[what]
    if what == "pools":
        miniray.init(num_cpus=WORKERS)
    for i in range(FIRST):
        cycle(i)
    before = figures_at_rest(what)
    for i in range(times):
        cycle(i)
    deadline = monotonic() + MEET_SECONDS
    after = figures_at_rest(what)
    while any(after[name] > before[name] for name in COUNTED) and monotonic() < deadline:
        after = figures_at_rest(what)  # a leak stays; what only ends late, on a busy machine, goes
    miniray.shutdown()
    return {name: after[name] - before[name] for name in FIGURES}


class Doubling:
    def double(self, x: int) -> int:
        return 2 * x


def session(i: int) -> None:
    import miniray

    miniray.init(num_cpus=WORKERS)
    actor = miniray.remote(Doubling).remote()
    task = miniray.remote(lambda x: 2 * x)
    assert miniray.get([task.remote(i), actor.double.remote(i)]) == [2 * i, 2 * i]
    large = miniray.get(miniray.put(bytearray(200_000)))
    if i % 2:
        task.remote(i)  # still runs
    miniray.shutdown()
    assert len(large) == 200_000


def pool(i: int) -> None:
    import miniray

    with miniray.Pool(WORKERS, initializer=len, initargs=("",)) as made:
        assert made.map(abs, range(-20, 0)) == list(range(20, 0, -1))
        assert len(made.apply(bytearray, (200_000,))) == 200_000
        assert list(made.imap_unordered(abs, range(3))) is not None
        if i % 3 == 0:
            made.apply_async(sleep, (60,))
        elif i % 3 == 1:
            made.close()
            made.join()


def figures_at_rest(what: str) -> dict[str, float]:
    """A session keeps at most one idle worker a CPU. After a pool there may be none, or one that was started for it and
    came too late: how many is chance, unless all are there."""
    import miniray

    if what == "pools":
        with TemporaryDirectory(prefix="miniray-meet-") as folder:
            task = miniray.remote(meet)
            miniray.get([task.remote(folder) for _ in range(WORKERS)])
    return figures()


def meet(folder: str) -> None:
    """Return when as many run this as there are CPUs, each in a worker of its own."""
    Path(folder, str(os.getpid())).touch()
    deadline = monotonic() + MEET_SECONDS
    while len(os.listdir(folder)) < WORKERS:
        if monotonic() > deadline:
            raise MeasurementError("the workers do not all come")
        sleep(0.001)


def figures() -> dict[str, float]:
    sleep(SETTLE_SECONDS)
    gc.collect()
    me = psutil.Process()
    below = me.children(recursive=True)
    return {
        "processes": len(below),
        "descriptors": me.num_fds(),
        "threads": threading.active_count(),
        "files": len(os.listdir(tempfile.gettempdir())),
        "maps": len(Path("/proc/self/maps").read_text().splitlines()),
        "objects": len(gc.get_objects()),
        "MB": sum(process.memory_full_info().uss for process in (me, *below)) / 1e6,
    }


def cycles(count: int) -> list[Row]:
    rows = []
    for what in ("sessions", "pools"):
        name = f"left by {CYCLES:,} {what}"
        try:
            found = in_process("bench.rows_leaks:grown", what, CYCLES, timeout_seconds=TIMEOUT_SECONDS)
        except MeasurementError as error:
            rows.append(Row(name, "", {}, [], [f"{MINIRAY}: {error}"]))
            continue
        for figure in FIGURES:
            goal = {"MB": GROWN_MB, "objects": CYCLES / 10, "maps": 10}.get(figure, 0)
            rows.append(Row(f"{name}: {figure}", figure, {MINIRAY: [found[figure]]}, [Goal(at_most=goal)]))
    return rows


ON_REQUEST = {"cycles": cycles}
