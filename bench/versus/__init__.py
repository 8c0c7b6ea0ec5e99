"""One adapter a peer, all with the same few verbs; every verb returns the seconds of its measured part.

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

ADAPTERS = {  # name in the table -> module of this folder, and the module that must be there
    "miniray": ("miniray_adapter", "miniray"),
    "mp.Pool": ("mp_pool", "multiprocessing"),
    "Executor": ("process_pool_executor", "concurrent.futures"),
    "Ray": ("ray_adapter", "ray"),
}
WORKERS = 2


class Unavailable(Exception):
    """This system is not installed, or lacks this verb."""


def load(name: str) -> Any:
    module, needs = ADAPTERS[name]
    if find_spec(needs) is None:
        raise Unavailable(f"{needs} is not installed")
    return import_module(f"bench.versus.{module}").Adapter()


def systems(verb: str, *arguments: Any) -> dict[str, tuple[Any, ...]]:
    """The samples of one verb, by system, for `interleave_processes`."""
    return {name: ("bench.versus:sample", name, verb, *arguments) for name in ADAPTERS}


def sample(name: str, verb: str, *arguments: Any) -> float:
    """Seconds of one verb in this process, after one full run of it to warm up."""
    adapter = load(name)
    run = getattr(adapter, verb, None)
    if run is None:
        raise Unavailable(f"{name} has no {verb}")
    adapter.start(WORKERS)
    try:
        run(*arguments)
        return run(*arguments)
    finally:
        adapter.stop()
