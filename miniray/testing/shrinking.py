"""Shrinking: the same failure in fewer faults and fewer choices that matter.

A candidate is `Faults` and a list of choices; where the list ends, everything is the first possibility (the shortest
delay, no pause). It counts when its run ends with the same error: the same class, raised at the same line of the
user's.

First the plainest runs of all: no fault, then one strike in a quiet cluster, as early as it does: a crash, a broken
link, or, on two nodes, one that crashes or is left behind. Most bugs show there, and nothing smaller is to be
found. Else from what failed: nodes and faults go first, since they are what a reader has to understand (each node, each
strike, each part of one, each kind of delay), then choices (all of them, blocks of them, the tail), then the moments of
what strikes, towards the beginning.

Bounded in seconds of CPU, so that a machine that is busy with other things gives the same; the best so far counts.
Every candidate is a whole run, so nothing can be shrunk wrongly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import miniray
from miniray.core.record import Record, replace
from miniray.errors import TaskError
from miniray.testing.faults import NO_FAULTS, Break, Crash, CrashMode, Faults, Lasting, Unhealed
from miniray.testing.places import is_own
from miniray.testing.waits import SimulationError

MAX_SECONDS = 20.0
MAX_MOMENTS = 100  # of one strike in a quiet cluster that are tried
_HERE = str(Path(miniray.__file__).parent)
_QUIETER = ("one_failed_start_in", "one_node_pause_in", "one_pause_in", "one_slow_link_in", "one_long_in")
_STRIKES = (
    "unhealed", "control_crashes", "control_breaks", "node_strikes", "node_crashes", "broken_links", "crashes"
)  # fmt: skip


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
    """`file.py:31`, the innermost in a file of the user's own; if there is none, the innermost outside of miniray."""
    frames = users_frames(trace)
    frames = [one for one in frames if is_own(one.tb_frame.f_code.co_filename)] or frames
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
    """Its traceback shows the user's code alone, if that is in it; a wait without an end says itself where."""
    kept: TracebackType | None = None
    for one in reversed(users_frames(error.__traceback__)):
        kept = TracebackType(kept, one.tb_frame, one.tb_lasti, one.tb_lineno)
    if kept is not None or (isinstance(error, SimulationError) and error.waits):
        error.__traceback__ = kept


def shrink(
    failing: Failing,
    fails: Callable[[Failing], bool],
    *,
    max_seconds: float = MAX_SECONDS,
    clock: Callable[[], float] = time.process_time,
) -> Failing:
    """The smallest that was found in so many seconds of CPU.

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
        for simpler in (_fewer_nodes, _without_faults, _plainer_strikes, _without_choices, _earlier_strikes):
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
    """The earliest of each kind comes first: one that does not matter takes no time from the others."""
    faults = one.faults
    yield Failing(NO_FAULTS, ())
    if one.nodes > 1:
        yield Failing(NO_FAULTS, (), 2)
    kinds = [_one_crash(faults), _one_break(faults)]
    if one.nodes > 1:
        kinds += [_one_node(faults), _one_left(faults)]
    while kinds:
        for kind in list(kinds):
            candidates = next(kind, None)
            if candidates is None:
                kinds.remove(kind)
            else:
                yield from candidates


def _one_crash(faults: Faults) -> Iterator[list[Failing]]:
    for after in range(min(MAX_MOMENTS, sum(crash.after + 1 for crash in faults.crashes))):
        yield [Failing(Faults((Crash(after, mode),)), ()) for mode in CrashMode]


def _one_break(faults: Faults) -> Iterator[list[Failing]]:
    between = any(cut.between_nodes for cut in faults.broken_links)
    for after in range(min(MAX_MOMENTS, sum(cut.after + 1 for cut in faults.broken_links))):
        yield [Failing(Faults(broken_links=(Break(after, between_nodes=between),)), (), 2 if between else 1)]


def _one_node(faults: Faults) -> Iterator[list[Failing]]:
    for after in _spread(max(faults.node_crashes, default=-1) + 1):
        yield [Failing(Faults(node_crashes=(after,)), (), 2)]


def _one_left(faults: Faults) -> Iterator[list[Failing]]:
    ways = [how for how in Lasting if how in [left.how for left in faults.unhealed]]
    for after in _spread(faults.heal_after if ways else 0):
        yield [Failing(Faults(heal_after=after + 1, unhealed=(Unhealed(1, how),)), (), 2) for how in ways]


def _spread(count: int) -> range:
    """So many moments, or `MAX_MOMENTS` of them."""
    return range(0, count, max(1, -(-count // MAX_MOMENTS)))


def _fewer_nodes(one: Failing) -> Iterator[Failing]:
    for nodes in range(1, one.nodes):
        for choices in dict.fromkeys((one.choices, ())):
            yield Failing(_on_nodes(one.faults, nodes), choices, nodes)


def _on_nodes(faults: Faults, nodes: int) -> Faults:
    """The same on fewer nodes; on one, without what needs two."""
    left = {min(left.node, nodes - 1): left.how for left in faults.unhealed}
    unhealed = tuple(Unhealed(node, how) for node, how in left.items() if node)
    if nodes > 1:
        return replace(faults, unhealed=unhealed)
    links = tuple(cut for cut in faults.broken_links if not cut.between_nodes)
    of_several = ("node_crashes", "node_strikes", "unhealed", "control_crashes", "control_breaks")
    return replace(faults, broken_links=links, **dict.fromkeys(of_several, ()))


def _without_faults(one: Failing) -> Iterator[Failing]:
    faults = one.faults
    quiet = replace(faults, **dict.fromkeys(_QUIETER, 0))
    for choices in dict.fromkeys((one.choices, ())):  # other faults, other numbers of choices: or none of them
        yield replace(one, faults=quiet, choices=choices)
        for name in _QUIETER:
            if getattr(faults, name):
                yield replace(one, faults=replace(faults, **{name: 0}), choices=choices)
        if faults.heal_after:
            yield replace(one, faults=replace(faults, heal_after=0, unhealed=()), choices=choices)
        for name in _STRIKES:
            strikes = getattr(faults, name)
            for index in range(len(strikes)):
                fewer = strikes[:index] + strikes[index + 1 :]
                yield replace(one, faults=replace(faults, **{name: fewer}), choices=choices)


def _plainer_strikes(one: Failing) -> Iterator[Failing]:
    """A link that just breaks, a node that is just dead."""
    for index, cut in enumerate(one.faults.broken_links):
        yield _with(one, "broken_links", index, replace(cut, silent_seconds=0.0))
    for index, left in enumerate(one.faults.unhealed):
        for how in Lasting:  # the plainest first
            if how is left.how:
                break
            yield _with(one, "unhealed", index, replace(left, how=how))


def _with(one: Failing, name: str, index: int, strike: object) -> Failing:
    strikes = getattr(one.faults, name)
    return replace(one, faults=replace(one.faults, **{name: (*strikes[:index], strike, *strikes[index + 1 :])}))


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


def _earlier_strikes(one: Failing) -> Iterator[Failing]:
    """Each in turn, as early as it may be: a crash of a worker step by step, all others by halves."""
    faults = one.faults
    for index, crash in enumerate(faults.crashes):
        for after in range(crash.after):
            yield _with(one, "crashes", index, Crash(after, crash.mode))
    for name in ("broken_links", "control_crashes", "node_strikes"):
        for index, strike in enumerate(getattr(faults, name)):
            for after in _earlier(strike.after):
                yield _with(one, name, index, replace(strike, after=after))
    for name in ("node_crashes", "control_breaks"):
        for index, moment in enumerate(getattr(faults, name)):
            for after in _earlier(moment):
                yield _with(one, name, index, after)
    for after in _earlier(faults.heal_after):
        if after:
            yield replace(one, faults=replace(faults, heal_after=after))


def _earlier(moment: int) -> list[int]:
    found = dict.fromkeys((0, moment // 2, moment - moment // 4, moment - 1))
    return [after for after in found if 0 <= after < moment]


def _trimmed(choices: Sequence[int]) -> tuple[int, ...]:
    end = len(choices)
    while end and not choices[end - 1]:
        end -= 1
    return tuple(choices[:end])
