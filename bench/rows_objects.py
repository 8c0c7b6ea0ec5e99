"""Large objects: one array to many tasks, `get` and `put` on one host."""

from __future__ import annotations

from time import perf_counter, sleep

from bench.limits import TouchedMemory
from bench.measure import MINIRAY, Goal, MeasurementError, Row, in_process, interleave, interleave_processes
from bench.versus import WORKERS, load, systems
from bench.versus.work import make_array

OBJECT_BYTES = 100_000_000
TASKS = 20
COPY = "bare copy"


def share(count: int) -> list[Row]:
    samples, notes = interleave_processes(systems("share_array", OBJECT_BYTES, TASKS), count, lambda s: 1e3 * s)
    goals = [Goal("mp.Pool", at_most=1 / 20)]
    return [Row(f"one 100 MB array to {TASKS} tasks", "ms", samples, goals, notes)]


def local_get(count: int) -> dict[str, list[float]]:
    """Microseconds of single `get`s of 100 MB objects: the first after its put, with caches that the copy has
    emptied, and later ones, each a view of its own."""
    import miniray

    adapter = load(MINIRAY)
    adapter.start(WORKERS)
    array = make_array(OBJECT_BYTES)
    found: dict[str, list[float]] = {"first": [], "later": []}
    for turn in range(count + 2):
        ref = miniray.put(array)
        for repeat in range(10):
            began = perf_counter()
            value = miniray.get(ref)
            took = (perf_counter() - began) * 1e6
            assert value[-1] == 1.0
            del value
            if turn >= 2:
                found["later" if repeat else "first"].append(took)
        del ref
    adapter.stop()
    return found


def get(count: int) -> list[Row]:
    found: dict[str, list[float]] = {"first": [], "later": []}
    notes = []
    try:
        found = in_process("bench.rows_objects:local_get", 4 * count)
    except MeasurementError as error:
        notes.append(f"{MINIRAY}: {error}")
    return [
        Row("get of a local 100 MB object", "us", {MINIRAY: found["later"]}, [Goal(at_most=100)], notes),
        Row("the same, the first after its put", "us", {MINIRAY: found["first"]}, [], notes),
    ]


def put_blocks(count: int, with_miniray: bool) -> dict[str, list[float]]:
    """GB/s of a 100 MB put into reused memory beside a copy into a touched map, in one process."""
    array, memory = make_array(OBJECT_BYTES), TouchedMemory(OBJECT_BYTES)
    measured = {COPY: lambda: OBJECT_BYTES / memory.copy(array) / 1e9}
    adapter = None
    if with_miniray:
        import miniray

        adapter = load(MINIRAY)
        adapter.start(WORKERS)

        def put() -> float:
            began = perf_counter()
            ref = miniray.put(array)
            seconds = perf_counter() - began
            del ref
            sleep(0.01)  # the drop reaches the store, so that the next put finds warm memory
            return OBJECT_BYTES / seconds / 1e9

        measured[MINIRAY] = put
    for run in measured.values():
        run(), run(), run()
    samples = interleave(measured, count)
    if adapter is not None:
        adapter.stop()
    return samples


def put(count: int) -> list[Row]:
    notes = []
    try:
        samples = in_process("bench.rows_objects:put_blocks", 4 * count, True)
    except MeasurementError as error:
        notes.append(f"{MINIRAY}: {error}")
        samples = in_process("bench.rows_objects:put_blocks", 4 * count, False)
    return [Row("put of 100 MB into reused memory", "GB/s", samples, [Goal(COPY, at_least=0.8)], notes)]


ROWS = {"share": share, "get": get, "put": put}
