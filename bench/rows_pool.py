"""Pools and executors beside the standard library's and others': what their users do all day, and what hurts them."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from heapq import heapreplace
from time import perf_counter
from typing import Any

from bench.measure import MINIRAY, Goal, Row, descendants, interleave_processes
from bench.rows_lifecycle import figures
from bench.versus import POOLS, WORKERS, counted, load, systems
from bench.versus.work import nothing

CALLS = 2_000
SUBMITTED = 20_000
MAPPED = 200_000
UNORDERED = 20_000
BUSY_CALLS, BUSY_SECONDS = 500, 0.001
SKEWED_CALLS, SHORTEST_SECONDS, LONGEST_SECONDS = 64, 0.001, 1.0
QUICK_CALLS, SLOW_SECONDS, SLOW_TIMES = 300, 0.1, 10
BIG_BYTES, BIG_CALLS = 100_000_000, 4
OBJECTS = 50_000
PATIENCE_SECONDS = 5.0  # so long without an outcome: it hangs
RECYCLED_CALLS = 100
POOL = "mp.Pool"


def _rate(seconds_a_call: float) -> float:
    return 1 / seconds_a_call


def _microseconds(seconds: float) -> float:
    return 1e6 * seconds


def _milliseconds(seconds: float) -> float:
    return 1e3 * seconds


def apply(count: int) -> list[Row]:
    samples, notes = interleave_processes(counted("roundtrip", CALLS, "pools"), count, _microseconds)
    pinned, _ = interleave_processes(counted("roundtrip_pinned", CALLS, "pools"), count, _microseconds)
    on_one_core = counted("roundtrip", CALLS, "pools", "bench.versus:seconds_a_call_on_one_core")
    cramped, _ = interleave_processes(on_one_core, count, _microseconds)
    return [
        Row("apply, one call after another", "us", samples, [Goal(POOL, at_most=0.5)], notes),
        Row("the same, pinned, two cores", "us", pinned, [Goal(POOL)]),
        Row("the same, all on one core", "us", cramped, [Goal(POOL)]),
    ]


def apply_async(count: int) -> list[Row]:
    samples, notes = interleave_processes(counted("submit_gather", SUBMITTED, "pools"), count, _rate)
    goals = [Goal(POOL, at_least=2)]
    return [Row(f"{SUBMITTED:,} calls by apply_async, gathered", "calls/s", samples, goals, notes)]


def map_trivial(count: int) -> list[Row]:
    samples, notes = interleave_processes(systems("map_trivial", MAPPED, family="pools"), count, _milliseconds)
    return [Row(f"map over {MAPPED:,} integers", "ms", samples, [Goal(POOL, at_most=1.0)], notes)]


def map_busy(count: int) -> list[Row]:
    wanted = systems("map_busy", BUSY_CALLS, BUSY_SECONDS, family="pools")
    samples, notes = interleave_processes(wanted, count, _milliseconds)
    return [Row(f"map of {BUSY_CALLS} calls of 1 ms", "ms", samples, [Goal(POOL, at_most=1.05)], notes)]


def unordered(count: int) -> list[Row]:
    samples, notes = interleave_processes(counted("unordered_trivial", UNORDERED, "pools"), count, _rate)
    goals = [Goal(POOL, at_least=3)]
    return [Row(f"imap_unordered, chunks of 1, {UNORDERED:,} integers", "calls/s", samples, goals, notes)]


def skewed_seconds() -> list[float]:
    """About as many calls of 1 to 10 ms as of 10 to 100 and of 100 to 1000, in an order of chance, always the same."""
    chance = random.Random(5)
    spread = math.log(LONGEST_SECONDS / SHORTEST_SECONDS)
    return [SHORTEST_SECONDS * math.exp(chance.random() * spread) for _ in range(SKEWED_CALLS)]


def greedy(seconds: list[float], workers: int) -> float:
    """The makespan of list scheduling: each call, in its order, to the worker that is free first."""
    free = [0.0] * workers
    for one in seconds:
        heapreplace(free, free[0] + one)
    return max(free)


def skewed_map(name: str) -> list[float]:
    adapter = load(name, "pools")
    adapter.start(WORKERS)
    try:
        return adapter.skewed(skewed_seconds())
    finally:
        adapter.stop()


def skewed(count: int) -> list[Row]:
    def over_greedy(found: list[float]) -> float:
        return found[0] / greedy(found[1:], WORKERS)

    wanted = {name: ("bench.rows_pool:skewed_map", name) for name in POOLS}
    samples, notes = interleave_processes(wanted, count, over_greedy)
    return [Row("map of 1 ms to 1 s mixed, makespan", "x greedy", samples, [Goal(at_most=1.1), Goal(POOL)], notes)]


def lateness(count: int) -> list[Row]:
    wanted = systems("lateness", QUICK_CALLS, SLOW_SECONDS, SLOW_TIMES, family="pools")
    samples, notes = interleave_processes(wanted, count, lambda late: 1e3 * sorted(late)[len(late) * 95 // 100])
    return [Row("results of quick calls beside slow ones come late, 95 of 100 by", "ms", samples, [Goal(POOL)], notes)]


def big_arguments(count: int) -> list[Row]:
    wanted = systems("big_arguments", BIG_BYTES, BIG_CALLS, family="pools")
    samples, notes = interleave_processes(wanted, count, lambda s: 1e3 * s / BIG_CALLS)
    return [Row("apply to an array of 100 MB", "ms", samples, [Goal(POOL)], notes)]


def big_results(count: int) -> list[Row]:
    wanted = systems("big_results", BIG_BYTES, BIG_CALLS, family="pools")
    samples, notes = interleave_processes(wanted, count, lambda s: 1e3 * s / BIG_CALLS)
    return [Row("apply that returns an array of 100 MB", "ms", samples, [Goal(POOL, at_most=0.1)], notes)]


def small_objects(count: int) -> list[Row]:
    samples, notes = interleave_processes(systems("small_objects", OBJECTS, family="pools"), count, _milliseconds)
    return [Row(f"map over {OBJECTS:,} small dicts, which come back", "ms", samples, [Goal(POOL)], notes)]


def life(count: int) -> list[Row]:
    (first, stopped), notes = figures("bench.rows_lifecycle:life", "pools", count)
    return [
        Row("a pool, from nothing to the first result", "s", first, [], notes),
        Row("close and join, and what else it needs to end", "s", stopped),
    ]


def recycle(count: int) -> list[Row]:
    """Executors have no such verb: the standard one cannot fork for it."""
    rows = []
    for what, start in (("a call of a pool with maxtasksperchild=1", None), ("the same, workers forked", "fork")):
        wanted = {name: ("bench.rows_pool:recycled", name, start) for name in (MINIRAY, POOL) if name in POOLS}
        samples, notes = interleave_processes(wanted, count, _milliseconds)
        rows.append(Row(what, "ms", samples, [Goal(POOL)], notes))
    return rows


def recycled(name: str, start: str | None) -> float:
    """Seconds a call, each of which takes a process of its own. The standard pool forks in any case."""
    import multiprocessing

    import miniray

    context: Any = start and multiprocessing.get_context(start)
    standard = multiprocessing.get_context("fork").Pool
    made = standard(WORKERS, None, (), 1) if name == POOL else miniray.Pool(WORKERS, None, (), 1, context)
    with made as pool:
        pool.map(nothing, range(2 * WORKERS), 1)
        began = perf_counter()
        assert pool.map(nothing, range(RECYCLED_CALLS), 1) == list(range(RECYCLED_CALLS))
        return (perf_counter() - began) / RECYCLED_CALLS


def idle(count: int) -> list[Row]:
    (size, _), notes = figures("bench.rows_lifecycle:idle_pss", "pools", count)
    return [Row("an idle pool of two, PSS of all processes", "MB", size, [], notes)]


def recover(name: str) -> Any:
    """Seconds; None: it hangs, and this process ends here, since such a pool cannot always be stopped."""
    adapter = load(name, "pools")
    adapter.start(WORKERS)
    found = adapter.recover(PATIENCE_SECONDS)
    if found < math.inf:
        adapter.stop()
        return found
    print(json.dumps(None), flush=True)
    for pid in descendants(os.getpid())[1:]:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def recovery(count: int) -> list[Row]:
    wanted = {name: ("bench.rows_pool:recover", name) for name in POOLS}
    samples, notes = interleave_processes(wanted, count, lambda s: math.inf if s is None else 1e3 * s)
    return [Row("a worker is killed, all calls behind it have results", "ms", samples, [Goal(at_most=1000)], notes)]


def executor_submit(count: int) -> list[Row]:
    samples, notes = interleave_processes(counted("submit_gather", SUBMITTED, "executors"), count, _rate)
    goals = [Goal("Executor", at_least=4)]
    rows = [Row(f"{SUBMITTED:,} calls by Executor.submit, gathered", "calls/s", samples, goals, notes)]
    samples, notes = interleave_processes(counted("gather_asyncio", CALLS, "executors"), count, _rate)
    goals = [Goal("Executor")]
    rows.append(Row(f"{CALLS:,} calls by Executor.submit, gathered by asyncio", "calls/s", samples, goals, notes))
    return rows


def executor_call(count: int) -> list[Row]:
    rows = []
    for verb, how in (("roundtrip", "result"), ("roundtrip_wait", "wait"), ("roundtrip_asyncio", "asyncio")):
        samples, notes = interleave_processes(counted(verb, CALLS, "executors"), count, _microseconds)
        name = f"one call after another by Executor.submit and {how}"
        rows.append(Row(name, "us", samples, [Goal("Executor", at_most=1.0)], notes))
    return rows


ROWS = {
    "apply": apply,
    "apply_async": apply_async,
    "map": map_trivial,
    "map_busy": map_busy,
    "unordered": unordered,
    "skewed": skewed,
    "lateness": lateness,
    "big_arguments": big_arguments,
    "big_results": big_results,
    "small_objects": small_objects,
    "pool_life": life,
    "pool_idle": idle,
    "pool_recycle": recycle,
    "pool_recovery": recovery,
    "executor_submit": executor_submit,
    "executor_call": executor_call,
}
