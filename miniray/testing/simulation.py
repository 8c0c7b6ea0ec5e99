"""`simulate`: run your own program, unchanged, in a simulated cluster. One seed is one run.

- The program is an ordinary function; it, its tasks and its actors call `miniray.get` and the rest as always. All of
  them run in this process, one at a time, in virtual time; so module globals are shared by all simulated processes.
- Every run begins with a new cluster. What an earlier one, or another test, has left in this process (a module's
  global, a cache, a class attribute) is still there, and may change what happens in it.
- What a program returns outlives its cluster, so refs in it are got first.
- A run that ends with an error says which line runs it again.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from miniray._api.actor import ActorHandle
from miniray._api.object_ref import ObjectRef
from miniray._api.objects import get
from miniray.core.owner.lineage import MAX_LINEAGE_BYTES
from miniray.core.record import Record
from miniray.testing.arguments import check_program, check_whole
from miniray.testing.choices import SeededChoices
from miniray.testing.waits import SimulationError
from miniray.testing.faults import Faults
from miniray.testing.heap import frozen_heap
from miniray.testing.levels import Level, faults_of, more_choices
from miniray.testing.recorder import Recorder
from miniray.testing.recording import Step
from miniray.testing.shrinking import keep_users_frames
from miniray.testing.size import Size
from miniray.testing.world import World
from miniray.transport import Choices

Program = Callable[[], Any]

_MAX_LOOKED_AT = 100_000  # objects of a result that are searched for refs


class Statistics(Record, frozen=True):
    """What a run was made of. `deaths` counts processes, of workers and of nodes, that did not end by themselves,
    `broken_links` those of which both ends lived."""

    steps: int
    frames: int
    virtual_seconds: float  # until the program ended
    deaths: int
    tasks: int  # executions that began, calls of actors among them
    repeats: int  # of them, those that were not the first of their task
    real: tuple[str, ...]  # what users' code did with the real world: "task p1.t2: socket.connect(...)"
    broken_links: int = 0


class Simulated(Record, frozen=True):
    """One run. `error` is what it ended with, or None; `choices` are the numbers that were taken.

    `trace` has every step when the run was recorded, else nothing; `trace_hash` is of all of them, and `digests` has
    one after each: two runs part where these do.
    """

    value: Any
    error: BaseException | None
    trace_hash: str
    trace: tuple[Step, ...]
    statistics: Statistics
    faults: Faults
    choices: tuple[int, ...]
    nodes: int
    digests: tuple[bytes, ...] = ()


class SimulationFailed(AssertionError):
    """A simulated run has ended with an error, which is the cause; `simulated` is the run."""

    def __init__(self, message: str, simulated: Simulated) -> None:
        super().__init__(message)
        self.simulated = simulated


def simulate(
    program: Program,
    *,
    seed: int = 0,
    num_cpus: int = 2,
    nodes: int = 1,
    faults: Level | Faults = "none",
    choices: Choices | None = None,
    num_gpus: int = 0,
    object_store_memory: int | None = None,
    resources: Mapping[str, float] | None = None,
    max_lineage_bytes: int = MAX_LINEAGE_BYTES,
    record: bool = False,
) -> Simulated:
    """Run a program in a simulated cluster.

    Args:
        program: a function without arguments.
        seed: of all choices: delays, what happens first, faults, what `random` draws. One seed is one run.
        num_cpus: of each node.
        nodes: how many hosts. The driver runs on one of them; the others may crash as a whole.
        faults: what may go wrong: "none", "delays", "crashes" or "all", of which the seed draws when and how often; or
            `Faults`, exactly.
        choices: another source of all choices, such as `RecordedChoices` or `DrawnChoices`; then `seed` is not used.
        num_gpus, resources: as of `miniray.init`, of each node.
        object_store_memory: of each node; 1 GiB by default, and it takes the memory that its values need.
        max_lineage_bytes: as of `miniray.init`.
        record: keep every step in `trace`, with its cause.

    Raises:
        SimulationFailed: the program raised, or waits for ever, or a rule of miniray itself was broken: see its cause.
        RuntimeError: the module of the program is still being imported.
        ValueError, TypeError: an argument is wrong.
    """
    __tracebackhide__ = True
    check_program(program)
    check_whole("seed", seed)
    size = Size(num_cpus, nodes, num_gpus, object_store_memory, resources, max_lineage_bytes)
    size.check("simulate")
    source = SeededChoices(seed) if choices is None else choices
    drawn = faults_of(faults, source, nodes, more_choices(seed) if choices is None else source)
    recorder = Recorder() if record else None
    done = run_once(program, source, drawn, size, recorder)
    if done.error is not None:
        name = getattr(program, "__qualname__", "program")
        again = f"miniray.testing.simulate({name}, seed={seed}, {size}, faults={faults!r})"
        if choices is not None:
            again = f"simulate({name}, {size}, faults={drawn}, choices=RecordedChoices({done.choices}))"
        keep_users_frames(done.error)
        raise SimulationFailed(f"{one_line(done.error)}\nrun it again: {again}", done) from done.error
    return done


def one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@frozen_heap()
def run_once(
    program: Program,
    choices: Choices,
    faults: Faults,
    size: Size,
    recorder: Recorder | None = None,
) -> Simulated:
    """One run with these faults; its error is returned, not raised."""
    function = _function_of(program)
    _assert_imported(function)
    results: list[Any] = []
    taken: list[int] = []
    ended_at: list[float] = []
    world = World(_Kept(choices, taken), faults, size, recorder)
    cluster = world.cluster
    error: BaseException | None = None
    try:
        world.begin(getattr(function, "__globals__", {}))
        world.call(lambda: results.append(_resolved(program())))
        ended_at.append(cluster.timeline.now)
        world.settle()
    except BaseException as raised:
        if not (isinstance(raised, Exception | SystemExit) or _is_pytest_failure(raised)):
            raise
        error = raised
    finally:
        seconds = ended_at[0] if ended_at else cluster.timeline.now
        figures = (cluster.steps, cluster.frames, seconds, len(cluster.deaths))
        trace_hash, digests = cluster.trace_hash, tuple(cluster.digests)
        try:
            world.end()
        except SimulationError as stuck:
            error = error or stuck
    began = world.began
    statistics = Statistics(*figures, len(began), len(began) - len(set(began)), tuple(world.real), cluster.links_broken)
    value = results[0] if results and error is None else None
    steps = tuple(recorder.steps) if recorder is not None else ()
    return Simulated(value, error, trace_hash, steps, statistics, faults, tuple(taken), size.nodes, digests)


def _function_of(program: Program) -> Any:
    """The function that a user has written, inside of `partial` and of what decorators have made of it."""
    found: Any = program
    while isinstance(found, functools.partial):
        found = found.func
    return inspect.unwrap(found)


def _assert_imported(function: Any) -> None:
    """Its tasks run in other threads: what they look up in a module that is being imported waits for the end of that.

    Raises:
        RuntimeError: it is the end of that import which waits for them.
    """
    name = getattr(function, "__module__", None)
    spec = getattr(sys.modules.get(name or ""), "__spec__", None)
    if getattr(spec, "_initializing", False):
        raise RuntimeError(
            f"a simulation cannot run while the module of its program, {name}, is still being imported: its tasks would"
            " wait for the end of that import. Call it in a function (a test), or below if __name__ == '__main__':"
        )


def _is_pytest_failure(error: BaseException) -> bool:
    """Of `pytest.fail`, or `pytest.raises` to which nothing was raised: no Exception, and a failure of this seed."""
    pytest: Any = sys.modules.get("pytest")
    return pytest is not None and type(error) is pytest.fail.Exception


class _Kept:
    """Any source of choices; what it chose is kept."""

    def __init__(self, source: Choices, taken: list[int]) -> None:
        self._source = source
        self._taken = taken

    def choose(self, count: int, why: str) -> int:
        chosen = self._source.choose(count, why)
        self._taken.append(chosen)
        return chosen


# ---- what outlives a run -----------------------------------------------------------------------------------


def _resolved(value: Any) -> Any:
    if type(value) is ObjectRef:
        return get(value)
    if type(value) in (list, tuple):
        return type(value)([_resolved(part) for part in value])
    if type(value) is dict:
        return {key: _resolved(part) for key, part in value.items()}
    if inspect.isgenerator(value) or inspect.iscoroutine(value) or inspect.isasyncgen(value):
        if inspect.iscoroutine(value):
            value.close()  # or it says a second time that nobody has awaited it
        raise TypeError(f"the program returned a {type(value).__name__}, and nothing of it has run")
    for found in _inside(value):
        if isinstance(found, ObjectRef | ActorHandle):
            raise TypeError(
                f"the program returned {type(value).__name__} with a {type(found).__name__} inside, which cannot"
                " outlive the simulated cluster: return values (refs in lists, tuples and dicts are got)"
            )
    return value


def _inside(value: Any) -> Iterator[Any]:
    """`value`, and what it keeps alive; not what functions, classes and modules do."""
    seen = {id(value): value}
    pending = [value]
    while pending and len(seen) < _MAX_LOOKED_AT:
        one = pending.pop()
        yield one
        if isinstance(one, type | FunctionType | ModuleType | ObjectRef | ActorHandle):
            continue
        for part in gc.get_referents(one):
            if id(part) not in seen:
                seen[id(part)] = part
                pending.append(part)
