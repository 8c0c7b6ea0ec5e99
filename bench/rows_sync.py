"""Synchronous round trips, pinned, every system in one process, blocks interleaved with the bare ping-pong.

Unpinned, one run gave ratios from 0.6 to 5.4: the kernel decides whether both ends share a core.
"""

from __future__ import annotations

from bench.limits import PingPong
from bench.measure import MINIRAY, Goal, Measurement, MeasurementError, Row, cores, in_process, interleave, pin_threads
from bench.versus import Unavailable, load

CALLS = 500
WARM_CALLS = 200
BARE = "bare"
PEERS = ("mp.Pool", "Executor")  # before miniray: they fork, and a fork must not meet its threads


def blocks(kind: str, one_core: bool, count: int) -> dict[str, list[float]]:
    """Microseconds a call, by system; `kind` is "task" or "actor". Runs in a process of its own."""
    driver_core, worker_core = cores()
    worker_core = driver_core if one_core else worker_core
    bare = PingPong()
    bare.pin(worker_core)
    measured = {BARE: bare.roundtrip}
    started = []
    try:
        for name in (*PEERS, MINIRAY) if kind == "task" else (MINIRAY,):
            adapter = load(name)
            adapter.start(1)
            started.append(adapter)
            if kind == "task":
                adapter.pin_worker(worker_core)
                measured[name] = adapter.roundtrip
            else:
                adapter.start_actor()
                adapter.pin_actor(worker_core)
                measured[name] = adapter.actor_roundtrip
        pin_threads(driver_core)
        for run in measured.values():
            run(WARM_CALLS)
        return interleave({name: _microseconds(run) for name, run in measured.items()}, count)
    finally:
        for adapter in reversed(started):
            adapter.stop()
        bare.close()


def limits_only(one_core: bool, count: int) -> dict[str, list[float]]:
    """The row without miniray, so that the table stands while it cannot run."""
    driver_core, worker_core = cores()
    bare, pool = PingPong(), load("mp.Pool")
    pool.start(1)
    try:
        core = driver_core if one_core else worker_core
        bare.pin(core)
        pool.pin_worker(core)
        pin_threads(driver_core)
        runs = {BARE: bare.roundtrip, "mp.Pool": pool.roundtrip}
        return interleave({name: _microseconds(run) for name, run in runs.items()}, count)
    finally:
        pool.stop()
        bare.close()


def _microseconds(run: Measurement) -> Measurement:
    return lambda: run(CALLS) / CALLS * 1e6


def _rows(kind: str, what: str, count: int) -> list[Row]:
    rows = []
    for one_core in (False, True):
        notes = []
        try:
            samples = in_process("bench.rows_sync:blocks", kind, one_core, count)
        except (MeasurementError, Unavailable) as error:
            notes.append(f"{MINIRAY}: {error}")
            samples = in_process("bench.rows_sync:limits_only", one_core, count)
        goals = [Goal(BARE, at_most=2.0)] if not one_core else [Goal(BARE)]
        rows.append(Row(f"{what} {'one core' if one_core else 'two cores'}", "us", samples, goals, notes))
    return rows


def sync_task(count: int) -> list[Row]:
    return _rows("task", "get(f.remote(i)), pinned,", 3 * count)


def sync_actor(count: int) -> list[Row]:
    return _rows("actor", "get(actor.f.remote(i)), pinned,", 3 * count)


ROWS = {"sync_task": sync_task, "sync_actor": sync_actor}
