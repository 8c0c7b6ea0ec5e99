"""One adapter a system; every verb returns the seconds of its measured part.

Three families, as users meet them. A system may be in several, and a verb that it lacks leaves an empty cell.

    TASKS       bare calls: `f.remote(x)`, and what comes nearest to it elsewhere
    POOLS       what is used like `multiprocessing.Pool`; their verbs are in `pool_verbs.py`
    EXECUTORS   what is used like `concurrent.futures.Executor`

    start(workers)              ready to take work; imports included, processes may come later
    roundtrip(n)                n times: one call of a function that does nothing, and its result
    actor_roundtrip(n)          the same, a method of one actor (systems that have actors)
    submit_gather(n)            n calls submitted one by one, then all results
    map_trivial(n)              the system's own map over range(n)
    share_array(nbytes, tasks)  one array to so many tasks
    pin_worker(core)            every thread of the one worker
    stop()
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bench.measure import cores, pin_threads

TASKS = {  # name in the table -> module of this folder, and the module that must be there
    "miniray": ("miniray_adapter", "miniray"),
    "mp.Pool": ("mp_pool", "multiprocessing"),
    "Executor": ("process_pool_executor", "concurrent.futures"),
    "Ray": ("ray_adapter", "ray"),
}
POOLS = {
    "miniray": ("miniray_pool", "miniray"),
    "mp.Pool": ("mp_pool", "multiprocessing"),
    "Executor": ("process_pool_executor", "concurrent.futures"),
    "loky": ("loky_executor", "loky"),
    "mpire": ("mpire_pool", "mpire"),
    "Ray Pool": ("ray_pool", "ray"),
    "Dask": ("dask_client", "distributed"),
}
EXECUTORS = {
    "miniray": ("miniray_executor", "miniray.executor"),
    "Executor": ("process_pool_executor", "concurrent.futures"),
    "loky": ("loky_executor", "loky"),
    "Dask": ("dask_client", "distributed"),
}
FAMILIES = {"tasks": TASKS, "pools": POOLS, "executors": EXECUTORS}
SYSTEMS = list(dict.fromkeys(name for family in FAMILIES.values() for name in family))  # the columns of the table
SLOW = {"Ray", "Ray Pool", "Dask"}  # seconds to start, milliseconds a call: only on request, and with fewer calls
SLOW_PART = 20  # one call for so many of the others'
WORKERS = 2


class Unavailable(Exception):
    """This system is not installed, or lacks this verb."""


def keep_only(names: set[str]) -> None:
    """Measure no other systems from now on."""
    for family in FAMILIES.values():
        for name in [name for name in family if name not in names]:
            del family[name]


def load(name: str, family: str = "tasks") -> Any:
    module, needs = FAMILIES[family][name]
    if not _is_there(needs):
        raise Unavailable(f"{needs} is not installed")
    return import_module(f"bench.versus.{module}").Adapter()


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def systems(verb: str, *arguments: Any, family: str = "tasks") -> dict[str, tuple[Any, ...]]:
    """The samples of one verb, by system, for `interleave_processes`."""
    return {name: ("bench.versus:sample", family, name, verb, *arguments) for name in FAMILIES[family]}


def counted(
    verb: str, calls: int, family: str, by: str = "bench.versus:seconds_a_call"
) -> dict[str, tuple[Any, ...]]:
    """The same for a verb of so many calls, of which slow systems make a few only; each sample is seconds a call."""
    counts = {name: calls // SLOW_PART if name in SLOW else calls for name in FAMILIES[family]}
    return {name: (by, family, name, verb, count) for name, count in counts.items()}


def sample(family: str, name: str, verb: str, *arguments: Any) -> float:
    """Seconds of one verb in this process, after one full run of it to warm up."""
    adapter = load(name, family)
    run = getattr(adapter, verb, None)
    if run is None:
        raise Unavailable(f"{name} has no {verb}")
    adapter.start(WORKERS)
    try:
        run(*arguments)
        return run(*arguments)
    finally:
        adapter.stop()


def seconds_a_call_on_one_core(family: str, name: str, verb: str, count: int) -> float:
    pin_threads(cores()[0])
    return seconds_a_call(family, name, verb, count)


def seconds_a_call(family: str, name: str, verb: str, count: int) -> float:
    return sample(family, name, verb, count) / count
