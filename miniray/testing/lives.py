"""Actors that may be restarted, in random programs: what each call may give when processes die.

An actor that is restarted without a limit answers every call that may be made again without a limit: no death may
show in it. Whatever has a limit, or is killed for good, may fail by a death.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniray.testing.programs import FAULT, VALUE, Op
from miniray.testing.slots import Slot

if TYPE_CHECKING:
    from miniray.testing.drawing import Drawing

DIES_AFTER = (0.0, 0.0001, 0.0005, 0.003)  # 0: at once


def begin(drawing: Drawing) -> None:
    """One such actor, and some calls. What its constructor gets is needed for every life."""
    used = drawing.some(("number",), 1)
    number, outcomes = drawing.sum(used)
    given: tuple[int, ...] = () if used else (drawing.pick(50),)
    restarts, retries = (-1, -1, 1, 2)[drawing.pick(4)], (-1, -1, 0, 1)[drawing.pick(4)]
    fault = 0 if restarts == retries == -1 else FAULT
    row = Slot("actor", number if used else given[0], outcomes | fault, shared=drawing.chance(2), stateless=True)
    row.fault = fault
    actor = drawing.new(row)
    options = {"max_restarts": restarts, "max_task_retries": retries}
    drawing.ops.append(Op("make_phoenix", actor, tuple(used), (options, *given)))
    drawing.let_go(used)
    for _ in range(1 + drawing.pick(4)):
        call(drawing, actor)


def call(drawing: Drawing, actor: int) -> None:
    """A call of an own actor, also of one that others call: they do not change what it answers."""
    row = drawing.slots[actor]
    used = drawing.some(("number",), 1)
    amount, outcomes = drawing.sum(used)
    given: tuple[int, ...] = () if used else (drawing.pick(9),)
    number = row.number + (amount if used else given[0])
    both = (row.outcomes & outcomes & VALUE) | ((row.outcomes | outcomes) & ~VALUE) | row.fault
    how = drawing.pick(4)
    slot = drawing.new(Slot("number", number, both), (actor, *used))
    if how == 3:
        drawing.ops.append(Op("call_flaky", slot, (actor, *used), (drawing.key(), *given)))
        return
    order: tuple[Any, ...] = (drawing.name or "driver", row.calls)
    row.calls += 1
    method = "add"
    if how == 2:
        method, order = "add_and_die", (drawing.key(), DIES_AFTER[drawing.pick(len(DIES_AFTER))], *order)
    drawing.ops.append(Op("call_actor", slot, (actor, *used), (method, (*order, *given), False)))
