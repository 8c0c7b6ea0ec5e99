"""Situations: short sequences of ops that chance would seldom make, since each of them ends a hold at a bad moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniray.testing.programs import FAULT, USER, VALUE, Op
from miniray.testing.slots import Slot

if TYPE_CHECKING:
    from miniray.testing.drawing import Drawing


def later_box(drawing: Drawing) -> None:
    """Refs of pending tasks that a worker owns, used by tasks of this process; that worker may die of itself."""
    number, dies_after = drawing.pick(50), (0.0, 0.0005, 0.003, 0.03)[drawing.pick(4)]
    box = drawing.new(Slot("box", number, VALUE | FAULT, VALUE))
    first = (drawing.key(), dies_after, drawing.seconds(), number)
    drawing.ops.append(Op("call", box, (), ("later_box", first, {}, -1)))
    opened = drawing.new(Slot("box", number, VALUE | FAULT, VALUE, is_ref=False), (box,))
    drawing.ops.append(Op("open", opened, (box,)))
    slot = drawing.new(Slot("number", number, VALUE | FAULT), (opened,))
    drawing.ops.append(Op("pass_on", slot, (opened,)))
    drawing.let_go([box, opened])


def inherit(drawing: Drawing) -> None:
    """An actor is the last that holds a ref, and dies while it hands that on to a third process."""
    number = drawing.pick(100)
    given = drawing.new(Slot("number", number))
    drawing.ops.append(Op("put", given, given=(number, drawing.chance(3))))
    actor = drawing.new(Slot("actor", 0, FAULT, dead=True))
    drawing.ops.append(Op("make_actor", actor, (), (0,)))
    key = f"keep {drawing.key()}"
    kept = drawing.new(Slot("number", 0, VALUE | FAULT), (actor,))
    drawing.ops.append(Op("call_actor", kept, (actor, given), ("keep", (key,), True)))
    drawing.ops.append(Op("wait", slots=(kept,), given=(1, None)))  # another caller asks for it
    slot = drawing.new(Slot("number", number, VALUE | FAULT), (actor,))
    drawing.ops.append(Op("call", slot, (actor,), ("inherit", (key,), {}, -1)))
    drawing.drop_all([given, actor])


def hand_on(drawing: Drawing) -> None:
    """Refs that a worker owns go on through this process, which lets go of them before they can have arrived."""
    number = drawing.pick(50)
    box = drawing.new(Slot("box", number, VALUE | FAULT, VALUE))
    how: tuple[Any, ...] = ("box_of", (False, number))
    if drawing.chance(2):
        how = ("later_box", (drawing.key(), 0.0, drawing.seconds(), number))
    drawing.ops.append(Op("call", box, (), (*how, {}, -1)))
    opened = drawing.new(Slot("box", number, VALUE | FAULT, VALUE, is_ref=False), (box,))
    drawing.ops.append(Op("open", opened, (box,)))
    gone = [box, opened]
    got = drawing.new(Slot("box", number, VALUE | FAULT, VALUE | FAULT), (opened,))
    way = drawing.pick(3)
    if way == 0:
        drawing.ops.append(Op("call", got, (opened,), ("rebox", (), {}, 1)))
    elif way == 1:
        outer = drawing.new(Slot("box", number, VALUE | FAULT, VALUE), (opened,))
        drawing.ops.append(Op("put_box", outer, (opened,)))
        drawing.ops.append(Op("call", got, (outer,), ("unwrap", (), {}, 1)))
        gone.append(outer)
    else:
        _through_an_actor(drawing, opened, got, gone)
        return
    drawing.drop_all(gone)


def _through_an_actor(drawing: Drawing, opened: int, got: int, gone: list[int]) -> None:
    """Asked for, let go, and come back before that is answered."""
    actor = drawing.new(Slot("actor", 0, FAULT))
    drawing.ops.append(Op("make_actor", actor, (), (0,)))
    key = f"keep {drawing.key()}"
    kept = drawing.new(Slot("number", 0, VALUE | FAULT), (actor,))
    drawing.ops.append(Op("call_actor", kept, (actor, opened), ("keep", (key,), True)))
    drawing.ops.append(Op("wait", slots=(kept,), given=(1, None)))
    if drawing.chance(2):
        drawing.ops.append(Op("get_soon", slots=(opened,), given=(drawing.seconds(),), outcomes=VALUE | FAULT))
    drawing.drop_all(gone)
    drawing.ops.append(Op("call_actor", got, (actor,), ("lend", (key,), False)))
    drawing.drop_all([actor])
    if drawing.chance(2):
        drawing.get(got)


def gap(drawing: Drawing) -> None:
    """A call whose argument fails later stands before one that is ready (60850)."""
    failing = drawing.new(Slot("number", 0, USER))
    drawing.ops.append(Op("call", failing, (), ("fail", (drawing.seconds(),), {}, -1)))
    actor = drawing.new(Slot("actor", 0, FAULT))
    drawing.ops.append(Op("make_actor", actor, (), (0,)))
    first = drawing.new(Slot("number", 0, USER | FAULT), (actor, failing))
    drawing.ops.append(Op("call_actor", first, (actor, failing), ("add", ("gap", 0), False)))
    amount = drawing.pick(9)
    second = drawing.new(Slot("number", amount, VALUE | FAULT), (actor,))
    drawing.ops.append(Op("call_actor", second, (actor,), ("add", ("gap", 0, amount), False)))
    drawing.drop_all([failing, actor])


def thrown(drawing: Drawing) -> None:
    """Refs leave with an exception, perhaps through a task whose argument it fails, and are read off it."""
    used = [slot for slot in drawing.some(("number", "box"), 2) if drawing.slots[slot].is_ref]
    number, outcomes = drawing.sum(used)
    failed = drawing.new(Slot("number", 0, USER), used)
    drawing.ops.append(Op("call", failed, tuple(used), ("throw", (), {}, len(used))))
    drawing.let_go(used)
    gone = [failed]
    if drawing.chance(3):
        through = drawing.new(Slot("number", 0, USER), (failed,))
        drawing.ops.append(Op("call", through, (failed,), ("add", (drawing.seconds(),), {}, -1)))
        gone.append(through)
    if drawing.chance(3):  # nobody reads it
        drawing.let_go(gone)
        return
    row = Slot("box", number, outcomes | FAULT, VALUE)  # the worker's own ref dies with it
    if drawing.chance(2):
        caught = drawing.new(row, (gone[-1],))
        drawing.ops.append(Op("call", caught, (gone[-1],), ("catch", (), {}, 1)))
    else:
        row.is_ref = False
        caught = drawing.new(row, (gone[-1],))
        drawing.ops.append(Op("catch", caught, (gone[-1],)))
    drawing.drop_all(gone)


def _an_owner(drawing: Drawing) -> int | None:
    """An actor that lives, or has died of a fault or of a kill."""
    actor = drawing.one("actor")
    return actor if actor is not None and drawing.slots[actor].outcomes & ~FAULT == VALUE else None


def given(drawing: Drawing) -> None:
    """A value, or a box of refs, that belongs to an actor."""
    actor = _an_owner(drawing)
    if actor is None:
        return
    used = [slot for slot in drawing.some(("number", "box"), 2) if drawing.slots[slot].is_ref]
    if used:
        number, outcomes = drawing.sum(used)
        slot = drawing.new(Slot("box", number, outcomes | FAULT, VALUE | FAULT), used)
        drawing.ops.append(Op("give_refs", slot, (actor, *used)))
        drawing.let_go(used)
    else:
        number, large = drawing.pick(100), drawing.chance(2)
        slot = drawing.new(Slot("number", number, VALUE | FAULT))
        drawing.ops.append(Op("give", slot, (actor,), (number, large)))
    if drawing.chance(4):
        drawing.drop_all([actor])


def given_box(drawing: Drawing) -> None:
    """A worker gives refs to an actor and dies, perhaps; they outlive it."""
    actor = _an_owner(drawing)
    if actor is None:
        return
    number, large, dies_after = drawing.pick(30), drawing.chance(2), (0.0, 0.0005, 0.003, 0.03)[drawing.pick(4)]
    slot = drawing.new(Slot("box", 3 * number, VALUE | FAULT, VALUE))
    first = (drawing.key(), dies_after, large, number)
    drawing.ops.append(Op("call", slot, (actor,), ("give_box", first, {}, -1)))
    if drawing.chance(4):
        drawing.drop_all([actor])


def transferred(drawing: Drawing) -> None:
    """The same value again, which belongs to an actor."""
    actor, ref = _an_owner(drawing), drawing.one("number", "box")
    if actor is None or ref is None or not drawing.slots[ref].is_ref:
        return
    row = drawing.slots[ref]
    outcomes = row.outcomes | FAULT
    slot = drawing.new(Slot(row.kind, row.number, outcomes, row.own | FAULT if row.own else 0), (ref,))
    drawing.ops.append(Op("transfer", slot, (ref, actor), outcomes=outcomes))
    drawing.let_go([ref])
