"""Programs that fork: some of the actors that the driver of a drawn program makes are forked from it (`start="fork"`).

Whatever they answer they answer as any others; the node has rules of its own for them (`core/node/forks.py`). Only the
driver's actors can be: what tasks and actors make is left as it was drawn.
"""

from __future__ import annotations

from miniray.core.record import replace
from miniray.testing.programs import Op
from miniray.transport import Choices

ACTORS = ("make_actor", "make_phoenix", "make_seated")


def fork_some(choices: Choices, ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """The same program; about two in three of its actors are forked."""
    return tuple(
        replace(op, fork=True) if op.kind in ACTORS and choices.choose(3, "whether it is forked") else op for op in ops
    )
