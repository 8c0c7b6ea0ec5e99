"""`@explore`: a test whose body runs as a simulated program under many seeds; the first failure is told shortly.

- The seeds are the same each time, so a test that passes passes again.
- A program may end with an error that says that somebody has died: that is an outcome of a fault, and `allow` names
  such errors. Anything else that it raises is a failure, and so is a wait without an end.
- What fails is run again before anything is told. If that run is another one, the program depends on something that is
  no choice of the simulation (a real clock, `id`, what an earlier run left in a global), and that is the failure. So it
  is when it is another one in an interpreter where sets of strings have another order (`new_interpreters.py`).
- Then it is shrunk, recorded into a file, and raised as one error that fits on a screen.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, overload

from miniray._api.options import runs_later
from miniray._runtime import context
from miniray.core.record import replace
from miniray.errors import ActorDiedError, ActorUnavailableError, ObjectLostError, WorkerCrashedError
from miniray.testing.arguments import check_allowed, check_whole, what_it_is
from miniray.testing.choices import RecordedChoices, SeededChoices
from miniray.testing.faults import NO_FAULTS, Faults
from miniray.testing.heap import frozen_heap
from miniray.testing.levels import Level, faults_of, more_choices
from miniray.testing.matters import order_of_calls, what_matters
from miniray.testing.moments import Run
from miniray.testing.new_interpreters import Elsewhere, NewInterpreters, comparable, pack
from miniray.testing.recorder import Recorder
from miniray.testing.recording import Recording, Step, plain, write
from miniray.testing.rerun import is_loading
from miniray.testing.shrinking import MAX_SECONDS, Failing, keep_users_frames, shrink, signature
from miniray.testing.size import Size
from miniray.testing.simulation import Program, Simulated, SimulationFailed, one_line, run_once
from miniray.testing.waits import NotSimulated, SimulationError

F = TypeVar("F", bound=Callable[..., Any])

SEEDS = 200
FOLDER = ".miniray-failures"
_MORE_RUNS = 3  # of a failure that came otherwise the second time: a coin that is tossed in it falls otherwise in one
DEATHS: tuple[type[BaseException], ...] = (
    WorkerCrashedError,
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
)


class NotDeterministic(SimulationFailed):
    """The same choices have given two different runs; the message names the task where they part."""


@overload
def explore(test: F) -> F: ...
@overload
def explore(
    *,
    seeds: int = ...,
    first_seed: int = ...,
    faults: Level | Faults = ...,
    num_cpus: int = ...,
    nodes: int = ...,
    num_gpus: int = ...,
    object_store_memory: int | None = ...,
    resources: Mapping[str, float] | None = ...,
    allow: tuple[type[BaseException], ...] = ...,
    folder: str | Path = ...,
    shrink_seconds: float = ...,
) -> Callable[[F], F]: ...
def explore(
    test: Any = None,
    *,
    seeds: int = SEEDS,
    first_seed: int = 0,
    faults: Level | Faults = "all",
    num_cpus: int = 2,
    nodes: int = 1,
    num_gpus: int = 0,
    object_store_memory: int | None = None,
    resources: Mapping[str, float] | None = None,
    allow: tuple[type[BaseException], ...] = DEATHS,
    folder: str | Path = FOLDER,
    shrink_seconds: float = MAX_SECONDS,
) -> Any:
    """Make a function (a test, with fixtures or without) run its body in simulated clusters, one a seed.

    Args:
        seeds, first_seed: how many, from which on.
        faults, num_cpus, nodes, num_gpus, object_store_memory, resources: as of `simulate`.
        allow: errors that a program may end with when a process has died. `()`: it has to survive every fault.
        folder: where the file of a failure is written.
        shrink_seconds: how long a failure is made smaller, at most, in seconds of CPU.

    Raises (when it is called):
        SimulationFailed: a seed fails; the message says what matters and where the story is, the cause what was raised.
        NotDeterministic: a seed fails, and the same choices give another run.
    """

    check_whole("seeds", seeds, 1)
    check_whole("first_seed", first_seed)
    size = Size(num_cpus, nodes, num_gpus, object_store_memory, resources)
    size.check("explore")
    check_allowed(allow)

    def decorate(test: Any) -> Any:
        if not callable(test) or runs_later(test):
            raise TypeError(f"explore takes a plain function, not {what_it_is(test)}")

        @functools.wraps(test)
        def explored(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            if is_loading():
                return
            program = functools.partial(test, *args, **kwargs) if args or kwargs else test
            tried = range(first_seed, first_seed + seeds)
            exploration = Exploration(program, test, tried, size, allow)
            _explore(exploration, faults, Path(folder), shrink_seconds)

        setattr(explored, "explores", True)  # noqa: B010
        return explored

    return decorate if test is None else decorate(test)


@contextmanager
def no_session(why: str) -> Iterator[None]:
    """In here a call that would begin a session raises `SessionError` with this text; simulated code is free."""
    before = context.forbid_implicit_start(why)
    try:
        yield
    finally:
        context.forbid_implicit_start(before)


class Exploration:
    """A program and how it is run; told apart what fails from what may happen."""

    def __init__(
        self,
        program: Program,
        test: Any,
        seeds: range,
        size: Size,
        allow: tuple[type[BaseException], ...],
    ) -> None:
        self.program = program
        self.packed = pack(program)  # as it is before any run
        self.test = test
        self.name = getattr(test, "__qualname__", "program").rpartition("<locals>.")[2]
        self.seeds = seeds
        self._size = size
        self.allow = allow

    def size(self, nodes: int) -> Size:
        """Of a cluster: a smaller one may do."""
        return replace(self._size, nodes=nodes)

    def try_seed(self, seed: int, faults: Level | Faults) -> Simulated:
        choices = SeededChoices(seed)
        drawn = faults_of(faults, choices, self._size.nodes, more_choices(seed))
        return run_once(self.program, choices, drawn, self._size)

    def run(self, failing: Failing, recorder: Recorder | None = None) -> Simulated:
        choices = RecordedChoices(failing.choices)
        return run_once(self.program, choices, failing.faults, self.size(failing.nodes), recorder)

    def fails(self, done: Simulated) -> bool:
        if done.error is None:
            return False
        struck = done.statistics.deaths or done.statistics.broken_links
        return not (struck and isinstance(done.error, self.allow))


def _explore(exploration: Exploration, faults: Level | Faults, folder: Path, shrink_seconds: float) -> None:
    __tracebackhide__ = True
    ended = 0
    with frozen_heap():
        for seed in exploration.seeds:
            done = exploration.try_seed(seed, faults)
            if exploration.fails(done):
                assert done.error is not None
                keep_users_frames(done.error)
                if isinstance(done.error, NotSimulated):
                    text = f"{exploration.name} cannot be simulated, as seed {seed} shows"
                    raise SimulationFailed(f"{text}: {done.error}", done) from done.error
                raise _failure(exploration, seed, done, folder, shrink_seconds)
            ended += done.error is None
    if exploration.seeds and not ended:
        raise SimulationFailed(
            f"{exploration.name} never came to its end: in each of {len(exploration.seeds)} runs somebody died first. "
            'Explore fewer faults (faults="delays"), or let it survive them (max_retries, try/except)', done
        ) from done.error  # fmt: skip


def _failure(
    exploration: Exploration, seed: int, done: Simulated, folder: Path, shrink_seconds: float
) -> SimulationFailed:
    __tracebackhide__ = True
    first = Failing(done.faults, done.choices, done.nodes)
    again = {"choices": first.choices, "faults": plain(first.faults), "cluster": exploration.size(done.nodes).words()}
    with NewInterpreters(exploration.packed, again) as others:
        done, note = _settled(exploration, seed, first, done)
        first = Failing(done.faults, done.choices, done.nodes)
        last, recorder = _smallest(exploration, first, done, shrink_seconds)
        elsewhere = _elsewhere(exploration, seed, done, others)
        elsewhere = elsewhere or _only_here(exploration, seed, done, last, others)
    assert done.error is not None and last.error is not None
    recording = recording_of(exploration, seed, last, recorder)
    run = Run(recording)
    struck = what_matters(run)
    recording = replace(recording, matters=struck or order_of_calls(run))
    file = folder / _file_name(exploration.name, seed)
    write(recording, file)
    keep_users_frames(last.error)
    line = signature(done.error)[1]
    message = _message(exploration, seed, last, line, recording.matters, bool(struck), file)
    error = SimulationFailed(message + note + elsewhere, last)
    error.__cause__ = last.error
    return error


def _file_name(name: str, seed: int) -> str:
    """With the parameters of a test of pytest, or two of them that fail would share one file."""
    node = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0].rpartition("::")[2]
    test, bracket, rest = node.partition("[")
    parameters = ""
    if bracket and test == name.rpartition(".")[2]:
        digest = blake2b(rest.encode("utf-8", "replace"), digest_size=3).hexdigest()
        parameters = f"-{re.sub(r'[^A-Za-z0-9_.]+', '-', rest[:-1])[:40].strip('-')}-{digest}"
    return f"{name.replace('.', '-')}{parameters}-{seed}.json"


def _smallest(
    exploration: Exploration, first: Failing, done: Simulated, shrink_seconds: float
) -> tuple[Simulated, Recorder]:
    assert done.error is not None
    wanted = signature(done.error)
    is_real = False

    def same(candidate: Failing) -> bool:
        nonlocal is_real
        if is_real:
            return False  # the next may block as long, and takes nothing of the CPU, whose seconds are counted
        if isinstance(done.error, SimulationError) and candidate.nodes < done.nodes:
            return False  # where there are fewer CPUs, to wait for ever may be another failure
        found = exploration.run(candidate)
        is_real = isinstance(found.error, NotSimulated)
        return exploration.fails(found) and found.error is not None and signature(found.error) == wanted

    plainest = Failing(NO_FAULTS, ())
    smallest = plainest if same(plainest) else shrink(first, same, max_seconds=shrink_seconds)
    recorder = Recorder()
    last = exploration.run(smallest, recorder)
    if last.error is None or signature(last.error) != wanted:  # it shrank into what happens once only
        recorder = Recorder()
        last = exploration.run(first, recorder)
    return last, recorder


def _message(
    exploration: Exploration, seed: int, last: Simulated, line: str, matters: Sequence[str], struck: bool, file: Path
) -> str:
    assert last.error is not None
    count = seed - exploration.seeds.start + 1
    figures = last.statistics
    size = f"tasks: {figures.tasks}, deaths: {figures.deaths}"
    size += f", broken links: {figures.broken_links}" if figures.broken_links else ""
    size += f", nodes: {last.nodes}" if last.nodes > 1 else ""
    told = "".join(f"\n  {number}. {sentence}" for number, sentence in enumerate(matters, 1))
    if not struck:
        why = "no fault is needed: the order in which things happened is enough"
        if last.faults == NO_FAULTS and not any(last.choices):
            why = "no fault and no delay is needed: the plainest run of all fails so"
        told = f"\n  {why}; the story tells it{told}"
    place = f"  at {line}\n" if line else ""  # a wait without an end is raised at no line of the user's
    waits = "".join(f"    {line}\n" for line in getattr(last.error, "waits", ()))
    real = f"\n\nIt used the real world: {'; '.join(figures.real)}" if figures.real else ""
    return (
        f"{exploration.name} fails with seed {seed} (run {count} of {len(exploration.seeds)}):\n"
        f"  {one_line(last.error)}\n{place}{waits}"
        f"\nWhat matters, in the smallest run that fails so ({size}):{told}{real}"
        f"\n\nThe whole story: python -m miniray replay {file}"
    )


def recording_of(exploration: Exploration, seed: int | None, done: Simulated, recorder: Recorder) -> Recording:
    test = inspect.unwrap(exploration.test)
    error = done.error
    code = getattr(test, "__code__", None)
    return Recording(
        program={
            "file": code.co_filename if code is not None else "",
            "module": getattr(test, "__module__", "") or "",
            "name": getattr(test, "__qualname__", ""),
        },
        cluster=exploration.size(done.nodes).words(),
        faults=plain(done.faults),
        seed=seed,
        choices=list(done.choices),
        error=None if error is None else {
            "type": signature(error)[0],
            "text": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        },
        trace_hash=done.trace_hash,
        matters=[],
        processes=recorder.processes,
        tasks=recorder.tasks,
        steps=recorder.steps,
    )  # fmt: skip


# ---- the same choices, the same run ------------------------------------------------------------------------


def _settled(exploration: Exploration, seed: int, failing: Failing, done: Simulated) -> tuple[Simulated, str]:
    """The run to go on with, and what there is to say to it: this one, or if the same choices give another run ever
    after, with the same end, that one: something is done the first time only, as a module is imported.

    Raises:
        NotDeterministic: the run is another one when it is run again.
    """
    __tracebackhide__ = True
    second = Recorder()
    again = exploration.run(failing, second)
    if again.trace_hash == done.trace_hash:
        return done, ""
    where = _parts_from(done.digests, again.digests, second)
    what = "the first run was another one than those after it: it may have left something behind, in a module's global"
    if where is not None:
        what = f"{where} did something else the second time, and the same ever after: it may have left something behind"
    steady = _ends_alike(done, again)
    for _ in range(_MORE_RUNS):
        other = Recorder()
        third = exploration.run(failing, other)
        steady = steady and third.trace_hash == again.trace_hash and _ends_alike(third, again)
        found = parting(second.steps, other.steps, second.tasks)
        if found is not None:
            what = f"{where or found} did something else the second time"
            break
    else:
        if steady:
            return again, f"\n\nTold is the second run; the first failed so, too, but was another one: {what}."
    real = f"\nIt used the real world: {'; '.join(done.statistics.real)}" if done.statistics.real else ""
    raise NotDeterministic(
        f"{exploration.name} fails with seed {seed}, but not twice in the same way: {what}.\n"
        "Look for a real clock (datetime.now, a name bound by `from time import ...` in another module), id(), "
        f"NumPy's global random state, a cache, a module's global.{real}", done
    ) from done.error  # fmt: skip


def _parts_from(first: Sequence[bytes], second: Sequence[bytes], recorder: Recorder) -> str | None:
    """Who did the first thing of a recorded run in which it differs from one before it; None: it only ended sooner."""
    for number, one, other in zip(recorder.observed, first, second, strict=False):
        if one != other:
            return _who_did(recorder.steps[number - 1], recorder.steps, recorder.tasks)
    if len(second) > len(first):
        return _who_did(recorder.steps[recorder.observed[len(first)] - 1], recorder.steps, recorder.tasks)
    return None


def _elsewhere(exploration: Exploration, seed: int, done: Simulated, others: NewInterpreters) -> str:
    """What other interpreters say to it when they are compared with one another, as a part of the message.

    Raises:
        NotDeterministic: it depends on the order of sets.
    """
    __tracebackhide__ = True
    found = others.parting(parting)
    if found is None:
        unknown = "\n\nWhether it fails so in another interpreter is not known"
        return f"{unknown}: {others.why_not}." if others.why_not else ""
    who, by_hash_order = found
    if not by_hash_order:
        return (
            f"\n\nIn another interpreter {who} did something else with the same choices: os.getpid(), a file, or what "
            "a fixture has set, say. So a replay may be another run."
        )
    raise _by_hash_order(exploration, seed, done, who) from done.error


def _by_hash_order(exploration: Exploration, seed: int, done: Simulated, who: str) -> NotDeterministic:
    return NotDeterministic(
        f"{exploration.name} fails with seed {seed}, but depends on hash order: {who} did something else in an "
        "interpreter with another PYTHONHASHSEED, where sets of strings have another order.\n"
        "Iterate over sorted(...) of the set, or over a dict. (With PYTHONHASHSEED=0 in the environment the order is "
        "the same each time, and this is not asked.)", done
    )  # fmt: skip


def _only_here(exploration: Exploration, seed: int, done: Simulated, last: Simulated, others: NewInterpreters) -> str:
    """What there is to say when the same choices end otherwise in a new interpreter, as a part of the message.

    Raises:
        NotDeterministic: no fault and no choice matters: only what was in this process before the run; or it depends
            on the order of sets after all, which was the same in the first of those interpreters.
    """
    __tracebackhide__ = True
    there = others.first()
    assert done.error is not None
    wanted = signature(done.error)

    def so(other: Elsewhere) -> bool:
        return other.error is not None and _same_end(other.error[0], wanted)

    if there is None or so(there):
        return ""
    by_order = others.ended_so_by_order(so, parting)
    if by_order is not None:
        raise _by_hash_order(exploration, seed, done, by_order) from done.error
    recorder = comparable()
    exploration.run(Failing(done.faults, done.choices, done.nodes), recorder)
    who = others.parts_here(recorder, parting)
    ended = f"it ended with {there.error[1]}" if there.error is not None else "it ended with no error"
    count = seed - exploration.seeds.start + 1
    depends = (
        f"With the same choices in a new interpreter {ended}{f', and {who} did something else' if who else ''}.\n"
        f"So it depends on what {'earlier runs, ' if count > 1 else ''}other tests or a fixture have left in this "
        "process: a module's global, a cache, a class attribute, an object of a fixture"
    )
    if last.faults != NO_FAULTS or any(last.choices):
        return f"\n\n{depends}. A replay may be another run."
    line = signature(done.error)[1]
    place = f"  at {line}\n" if line else ""
    raise NotDeterministic(
        f"{exploration.name} fails in run {count} of {len(exploration.seeds)}, and only "
        f"in this process, where the plainest run of all fails:\n  {one_line(done.error)}\n{place}\n{depends}.\n"
        "Make what a run fills in the test itself, or empty it there.", done
    ) from done.error  # fmt: skip


def _ends_alike(one: Simulated, other: Simulated) -> bool:
    if one.error is None or other.error is None:
        return one.error is other.error
    return signature(one.error) == signature(other.error) and one_line(one.error) == one_line(other.error)


def _same_end(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Two interpreters may have come to one file by two paths."""
    return one[0] == other[0] and os.path.basename(one[1]) == os.path.basename(other[1])


def parting(one: Sequence[Step], other: Sequence[Step], tasks: dict[str, dict[str, Any]]) -> str | None:
    """The task (or "the program") that did the first thing in which two recorded runs differ; None: they do not."""
    for step, second in zip(one, other, strict=False):
        if step != second:
            break
    else:
        if len(one) == len(other):
            return None
        step = (one if len(one) > len(other) else other)[min(len(one), len(other))]
    return _who_did(step, one, tasks)


def _who_did(step: Step, steps: Sequence[Step], tasks: dict[str, dict[str, Any]]) -> str:
    by_number = {found.number: found for found in steps}
    found: Step | None = step
    while found is not None:
        if found.event["kind"] == "TaskStarted":
            task = found.event["task"]
            told = tasks.get(task, {})
            return f"task {told.get('name') or task} (called at {told.get('site')})"
        if found.event["kind"] == "Began":
            return "the program"
        found = by_number.get(found.cause) if found.cause is not None else None
    return f"process {step.process}"
