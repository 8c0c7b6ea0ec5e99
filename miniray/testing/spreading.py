"""Programs that spread: on several nodes, a drawn program gets such parts between its own ops (`drawing.py`).

A program that does one small thing after the other stays on the driver's node: what it needs is there, and free. Work
goes elsewhere only when several long tasks are under way at once; so here they come in groups, with values that are
large enough to be stored, and that are read again by tasks which are under way at once themselves.

- A part stands between two ops of the program, undivided, and uses its own slots only: what the program itself draws
  is what it would be on one node.
- An actor that occupies a CPU may have taken the last one. So nothing of its part waits for a task, and its handle goes
  before anybody else waits: everything else then waits for its end, and no more.
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.testing.drawing import Drawing
from miniray.testing.programs import FAULT, VALUE, Op
from miniray.testing.slots import Budget, Slot
from miniray.transport import Choices

FIRST_SLOT = 1_000  # beyond those of any program that is drawn without
SECONDS = (0.01, 0.1, 0.3, 1.0)
BUSY_SECONDS = (0.3, 1.0, 3.0)
# A class of their own: nobody takes them to be as short as the tasks of the program.
_CLASS = {"num_cpus": 0.9}
_MOST_PARTS = 5
_MOST_KEPT = 6  # slots that the next part may use; of others their values are asked for at the end
Part = Callable[[Drawing], None]


def spread(choices: Choices, ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """The same program, with two to five such parts in it."""
    drawing = Drawing(choices, Budget(), name="wide ", first_slot=FIRST_SLOT)
    parts = [_drawn(drawing, _busy)]
    for _ in range(2 + choices.choose(_MOST_PARTS - 1, "parts that spread")):
        parts.append(_drawn(drawing, _PARTS[drawing.pick(len(_PARTS))]))
    whole = list(ops)
    places = [0, *sorted(choices.choose(len(whole) + 1, "place of a part") for _ in parts[1:])]
    for place, part in zip(reversed(places), reversed(parts), strict=True):
        whole[place:place] = part
    return (*whole, *_drawn(drawing, Drawing.finish))


def _drawn(drawing: Drawing, part: Part) -> list[Op]:
    before = len(drawing.ops)
    part(drawing)
    return drawing.ops[before:]


def _seconds(drawing: Drawing) -> float:
    return SECONDS[drawing.pick(len(SECONDS))]


def _task(drawing: Drawing, kind: str, used: list[int]) -> int:
    """A long one."""
    number, outcomes = drawing.sum(used)
    slot = drawing.new(Slot("number", number, outcomes), used)
    drawing.ops.append(Op("call", slot, tuple(used), (kind, (_seconds(drawing),), _CLASS, -1)))
    return slot


def _source(drawing: Drawing) -> int:
    """A large value: of a put, or of a task."""
    if drawing.chance(3):
        number = drawing.pick(100)
        slot = drawing.new(Slot("number", number))
        drawing.ops.append(Op("put", slot, given=(number, True)))
        return slot
    return _task(drawing, "fill", drawing.some(("number",), 1))


def _busy(drawing: Drawing) -> None:
    """The driver's node has something to do for a while, so that what the program itself asks for goes elsewhere."""
    for _ in range(1 + drawing.pick(2)):
        slot = drawing.new(Slot("number", 0))
        drawing.ops.append(Op("call", slot, (), ("add", (BUSY_SECONDS[drawing.pick(len(BUSY_SECONDS))],), _CLASS, -1)))


def _let_go(drawing: Drawing, used: list[int]) -> None:
    """But not of what was put: when that is gone, what was made of it cannot be made again."""
    put = [op.slot for op in drawing.ops if op.kind == "put"]
    drawing.let_go([slot for slot in used if slot not in put])


def _at_once(drawing: Drawing) -> None:
    """Large values that are made at once, and read by tasks that run at once."""
    made = [_source(drawing) for _ in range(3 + drawing.pick(4))]
    if drawing.chance(3):
        drawing.ops.append(Op("wait", slots=tuple(made), given=(1 + drawing.pick(len(made)), None)))
    for _ in range(2 + drawing.pick(4)):
        used = [made[drawing.pick(len(made))] for _ in range(1 + drawing.pick(2))]
        _task(drawing, ("add", "fill")[drawing.pick(2)], used)
    _let_go(drawing, made)
    _tidy(drawing)


def _chain(drawing: Drawing) -> None:
    """Each is made of the last, which nobody holds any more: if it is lost, all of it is made again."""
    last = _source(drawing)
    _task(drawing, "add", [])  # the driver's node is busy with something else
    for _ in range(1 + drawing.pick(3)):
        link = _task(drawing, "fill", [last])
        _let_go(drawing, [last])
        last = link
    for _ in range(drawing.pick(3)):
        _task(drawing, "add", [last])
    if drawing.chance(2):
        drawing.ops.append(Op("wait", slots=(last,), given=(1, None)))
        drawing.ops.append(Op("sleep", given=(_seconds(drawing),)))  # it may be lost by now
    drawing.get(last)
    _tidy(drawing)


def _boxes(drawing: Drawing) -> None:
    """Refs of large values of workers on several nodes, which go on to tasks on others."""
    boxes = []
    for _ in range(2 + drawing.pick(3)):
        numbers = tuple(drawing.pick(50) for _ in range(1 + drawing.pick(2)))
        box = drawing.new(Slot("box", sum(numbers), VALUE | FAULT, VALUE))
        drawing.ops.append(Op("call", box, (), ("slow_box", (_seconds(drawing), *numbers), _CLASS, -1)))
        boxes.append(box)
    if drawing.chance(2):  # by name: it is opened there
        _task(drawing, "add", boxes)
    for box in boxes:
        row = drawing.slots[box]
        if drawing.chance(2):
            opened = drawing.new(Slot("box", row.number, row.outcomes, VALUE, is_ref=False), (box,))
            drawing.ops.append(Op("open", opened, (box,)))
            through = drawing.new(Slot("number", row.number, row.outcomes), (opened,))
            drawing.ops.append(Op("pass_on", through, (opened,)))
            drawing.let_go([box, opened])
        else:
            again = drawing.new(Slot("box", row.number, row.outcomes, VALUE), (box,))
            drawing.ops.append(Op("call", again, (box,), ("rebox", (), {}, 1)))
            drawing.let_go([box])
    _tidy(drawing)


def _blocks(drawing: Drawing) -> None:
    """Programs of their own, on several nodes at once; what they are given and return goes across."""
    for _ in range(drawing.pick(3)):
        _source(drawing)
    for _ in range(2 + drawing.pick(3)):
        drawing.draw_block()
    _tidy(drawing)


def _seat(drawing: Drawing) -> None:
    """An actor that occupies a CPU, elsewhere if the driver's node is busy; it keeps refs, and reads or lends them."""
    for _ in range(1 + drawing.pick(2)):
        _task(drawing, "add", [])
    number = drawing.pick(50)
    actor = drawing.new(Slot("actor", number, FAULT))
    drawing.ops.append(Op("make_seated", actor, given=(number,)))
    gone = [actor]
    for index in range(1 + drawing.pick(3)):
        value = drawing.pick(50)
        put = drawing.new(Slot("number", value))
        drawing.ops.append(Op("put", put, given=(value, not drawing.chance(3))))
        key = f"keep {drawing.key()}"
        kept = drawing.new(Slot("number", 0, VALUE | FAULT), (actor,))
        drawing.ops.append(Op("call_actor", kept, (actor, put), ("keep", (key,), True)))
        number += value
        added = drawing.new(Slot("number", number, VALUE | FAULT), (actor,))
        drawing.ops.append(Op("call_actor", added, (actor, put), ("add", ("driver", index), False)))
        if drawing.chance(2):
            lent = drawing.new(Slot("box", value, VALUE | FAULT, VALUE | FAULT), (actor,))
            drawing.ops.append(Op("call_actor", lent, (actor,), ("lend", (key,), False)))
        else:
            read = drawing.new(Slot("number", value, VALUE | FAULT), (actor,))
            drawing.ops.append(Op("call_actor", read, (actor,), ("kept", (key,), False)))
        gone.extend([put, kept])
    if drawing.chance(3):
        drawing.get(gone[-1])
    if drawing.chance(6):
        drawing.ops.append(Op("kill", slots=(actor,), given=(True,)))
    drawing.drop_all(gone)
    _tidy(drawing)


def _tidy(drawing: Drawing) -> None:
    """Only a few things are kept for the parts that follow; some are asked for now."""
    refs = [slot for slot, row in drawing.slots.items() if row.kind != "actor"]
    for slot in refs[:-_MOST_KEPT]:
        if not drawing.chance(3):
            drawing.get(slot)
        _let_go(drawing, [slot])


_PARTS: tuple[Part, ...] = (_at_once, _at_once, _chain, _chain, _boxes, _blocks, _seat)
