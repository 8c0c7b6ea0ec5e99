"""Shrinking: the same failure in fewer faults and fewer choices that matter.

A candidate is `Faults` and a list of choices; where the list ends, everything is the first possibility (the shortest
delay, no pause). It counts when its run ends with the same error: the same class, raised at the same line of the
user's.

First the plainest runs of all: no fault, then one crash in a quiet cluster, as early as it does, on one node and then
(of a node) on two; most bugs show there, and nothing smaller is to be found. Else from what failed: nodes and faults go
first, since they are what a reader has to understand (each node, each crash, each kind of delay), then choices (all of
them, blocks of them, the tail), then the moments of the crashes, towards the beginning.

Bounded in real time; the best so far counts. Every candidate is a whole run, so nothing can be shrunk wrongly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import miniray
from miniray.core.record import Record, replace
from miniray.errors import TaskError
from miniray.testing.faults import NO_FAULTS, Crash, CrashMode, Faults

MAX_SECONDS = 20.0
MAX_MOMENTS = 100  # of one crash in a quiet cluster that are tried
_HERE = str(Path(miniray.__file__).parent)
_QUIETER = ("one_failed_start_in", "one_node_pause_in", "one_pause_in", "one_slow_link_in", "one_long_in", "heal_after")
_STRIKES = ("control_crashes", "control_breaks", "node_crashes", "broken_links", "crashes")


class Failing(Record, frozen=True):
    """What made a run fail."""

    faults: Faults
    choices: tuple[int, ...]
    nodes: int = 1


def signature(error: BaseException) -> tuple[str, str]:
    """Two failures with an equal one are the same failure: class, and the line of the user's that raised."""
    root = error
    while isinstance(root, TaskError) and root.cause is not None:
        root = root.cause
    return f"{type(root).__module__}.{type(root).__qualname__}", user_line(error.__traceback__)


def user_line(trace: TracebackType | None) -> str:
    """`file.py:31`, the innermost one outside of miniray."""
    frames = users_frames(trace)
    return f"{frames[-1].tb_frame.f_code.co_filename}:{frames[-1].tb_lineno}" if frames else ""


def users_frames(trace: TracebackType | None) -> list[TracebackType]:
    """Those outside of miniray, the outermost first."""
    frames = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_HERE):
            frames.append(trace)
        trace = trace.tb_next
    return frames


def keep_users_frames(error: BaseException) -> None:
    """Its traceback shows the user's code alone, if that is in it."""
    kept: TracebackType | None = None
    for one in reversed(users_frames(error.__traceback__)):
        kept = TracebackType(kept, one.tb_frame, one.tb_lasti, one.tb_lineno)
    if kept is not None:
        error.__traceback__ = kept


def shrink(
    failing: Failing,
    fails: Callable[[Failing], bool],
    *,
    max_seconds: float = MAX_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Failing:
    """The smallest that was found in so many real seconds.

    Args:
        fails: runs it, and tells whether it is the same failure.
    """
    until = clock() + max_seconds
    best, plain = _descend(failing, _plainest, fails, lambda: clock() < until, once=True)
    if plain:
        return best
    improved = True
    while improved:
        improved = False
        for simpler in (_fewer_nodes, _without_faults, _without_choices, _earlier_crashes):
            best, better = _descend(best, simpler, fails, lambda: clock() < until)
            improved = improved or better
            if clock() >= until:
                return best
    return best


def _descend(
    best: Failing,
    simpler: Callable[[Failing], Iterator[Failing]],
    fails: Callable[[Failing], bool],
    in_time: Callable[[], bool],
    *,
    once: bool = False,
) -> tuple[Failing, bool]:
    """Take the first candidate that fails, and go on from there, until none does."""
    first = best
    found = True
    while found:
        found = False
        for candidate in simpler(best):
            if not in_time():
                return best, best != first
            if candidate != best and fails(candidate):
                best, found = candidate, not once
                break
    return best, best != first


def _plainest(one: Failing) -> Iterator[Failing]:
    yield Failing(NO_FAULTS, ())
    last = sum(crash.after + 1 for crash in one.faults.crashes)
    for after in range(min(last, MAX_MOMENTS)):
        for mode in CrashMode:
            yield Failing(Faults((Crash(after, mode),)), ())
    if one.nodes == 1:
        return
    yield Failing(NO_FAULTS, (), 2)
    last = max(one.faults.node_crashes, default=0)
    for after in range(0, last + 1, 1 + last // MAX_MOMENTS):
        yield Failing(Faults(node_crashes=(after,)), (), 2)


def _fewer_nodes(one: Failing) -> Iterator[Failing]:
    for nodes in range(1, one.nodes):
        faults = one.faults if nodes > 1 else replace(one.faults, node_crashes=())
        for choices in dict.fromkeys((one.choices, ())):
            yield Failing(faults, choices, nodes)


def _without_faults(one: Failing) -> Iterator[Failing]:
    faults = one.faults
    for choices in dict.fromkeys((one.choices, ())):  # other faults, other numbers of choices: or none of them
        yield replace(one, faults=Faults(faults.crashes, node_crashes=faults.node_crashes), choices=choices)
        for name in _QUIETER:
            if getattr(faults, name):
                yield replace(one, faults=replace(faults, **{name: 0}), choices=choices)
        for name in _STRIKES:
            strikes = getattr(faults, name)
            for index in range(len(strikes)):
                fewer = strikes[:index] + strikes[index + 1 :]
                yield replace(one, faults=replace(faults, **{name: fewer}), choices=choices)


def _without_choices(one: Failing) -> Iterator[Failing]:
    choices = _trimmed(one.choices)
    yield replace(one, choices=())
    yield replace(one, choices=choices)
    size = len(choices)
    while size > 1:
        size //= 2
        for start in range(0, len(choices), size):
            block = choices[start : start + size]
            if any(block):
                zeros = choices[:start] + (0,) * len(block) + choices[start + size :]
                yield replace(one, choices=_trimmed(zeros))
        if size * 16 < len(choices):
            return


def _earlier_crashes(one: Failing) -> Iterator[Failing]:
    """Each crash in turn, as early as it may be: of a worker step by step, of a node by halves."""
    crashes, of_nodes = one.faults.crashes, one.faults.node_crashes
    for index, crash in enumerate(crashes):
        for after in range(crash.after):
            earlier = (*crashes[:index], Crash(after, crash.mode), *crashes[index + 1 :])
            yield replace(one, faults=replace(one.faults, crashes=earlier))
    for index, moment in enumerate(of_nodes):
        for after in dict.fromkeys((0, moment // 2, moment - moment // 4, moment - 1)):
            if 0 <= after < moment:
                sooner = (*of_nodes[:index], after, *of_nodes[index + 1 :])
                yield replace(one, faults=replace(one.faults, node_crashes=sooner))


def _trimmed(choices: Sequence[int]) -> tuple[int, ...]:
    end = len(choices)
    while end and not choices[end - 1]:
        end -= 1
    return tuple(choices[:end])
