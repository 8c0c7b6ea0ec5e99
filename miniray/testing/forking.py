"""Programs that fork: some of the actors that the driver of a drawn program makes are forked from it (`start="fork"`).

Whatever they answer they answer as any others; the node has rules of its own for them (`core/node/forks.py`). Only the
driver's actors can be: what tasks and actors make is left as it was drawn. And some more are made that nobody waits
for: they are let go or killed when their process is asked for, while it begins, or when it is there.
"""

from __future__ import annotations

from miniray.core.record import replace
from miniray.testing.programs import Op
from miniray.transport import Choices

ACTORS = ("make_actor", "make_phoenix", "make_seated")
MOST_PASSING = 3
PASSING_SECONDS = (0.0, 0.0001, 0.0005, 0.002)  # from the creation on; a process starts in about a millisecond


def fork_some(choices: Choices, ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """The same program; about two in three of its actors are forked, and up to MOST_PASSING others come and go."""
    forked = [
        replace(op, fork=True) if op.kind in ACTORS and choices.choose(3, "whether it is forked") else op for op in ops
    ]
    free = 2 + max((op.slot for op in ops), default=0)  # some ops fill the slot behind theirs, too
    for slot in range(free, free + choices.choose(MOST_PASSING + 1, "actors that nobody waits for")):
        place = choices.choose(len(forked) + 1, "where one is made")
        forked[place:place] = _passing(choices, slot)
    return tuple(forked)


def _passing(choices: Choices, slot: int) -> list[Op]:
    seconds = PASSING_SECONDS[choices.choose(len(PASSING_SECONDS), "how long it is held")]
    ops = [Op("make_actor", slot, given=(0,), fork=True), Op("sleep", given=(seconds,))]
    if choices.choose(2, "whether it is killed"):
        ops.append(Op("kill_alone", slots=(slot,)))
    return [*ops, Op("drop", slots=(slot,))]
