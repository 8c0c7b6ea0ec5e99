"""Drawing a random program (`programs.py`) from choices, with the oracle's expectation of each of its slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from miniray.testing import lives, situations
from miniray.testing.programs import CANCEL, FAULT, USER, VALUE, Op
from miniray.testing.remote_code import FirstTime
from miniray.testing.slots import MAX_OPS, Budget, Keep, Slot
from miniray.transport import Choices

MAX_DEPTH = 3
#: Ops that make a task.
CALLS = ("call", "pass_on", "make_actor", "call_actor", "make_phoenix", "make_seated", "call_flaky")
SECONDS = (0.0, 0.0, 0.0, 0.0005, 0.003, 0.03, 0.3)


class Drawing:
    """One program, or one block of it."""

    def __init__(self, choices: Choices, budget: Budget, depth: int = 0, name: str = "", first_slot: int = 0) -> None:
        self._choices = choices
        self._depth = depth
        self._budget = budget
        self.name = name
        self.slots: dict[int, Slot] = {}
        self.ops: list[Op] = []
        self.total = 0
        self.outcomes = VALUE
        self._next = first_slot

    # ---- small choices ----

    def pick(self, count: int) -> int:
        return self._choices.choose(count, "program")

    def chance(self, one_in: int) -> bool:
        return not self.pick(one_in)

    def some(self, kinds: tuple[str, ...], most: int) -> list[int]:
        found = [slot for slot, row in self.slots.items() if row.kind in kinds]
        return [found[self.pick(len(found))] for _ in range(self.pick(most + 1))] if found else []

    def one(self, *kinds: str) -> int | None:
        found = [slot for slot, row in self.slots.items() if row.kind in kinds]
        return found[self.pick(len(found))] if found else None

    def seconds(self) -> float:
        return SECONDS[self.pick(len(SECONDS))]

    def new(self, row: Slot, needs: Iterable[int] = ()) -> int:
        """`needs`: what it is made from."""
        row.busy = row.busy or any(self.slots[one].busy or self.slots[one].kind == "actor" for one in needs)
        slot = self._next
        self._next += 1
        self.slots[slot] = row
        return slot

    def key(self) -> str:
        return f"{self.name}{len(self.ops)}"

    def sum(self, used: list[int]) -> tuple[int, int]:
        """(number, outcomes) of what needs all of these."""
        number, value, others = 0, VALUE, 0
        for slot in used:
            row = self.slots[slot]
            number += row.number
            value &= row.outcomes
            others |= row.outcomes & ~VALUE
        return number, value | others

    # ---- a program ----

    def draw(self, least: int, most: int) -> None:
        for _ in range(least + self.pick(most - least + 1)):
            if self._budget.ops <= 0:
                break
            self._draw_op()
        self.finish()

    def draw_tasks(self, tasks: int) -> None:
        """Until so many tasks, calls and actors are made, those of blocks included."""
        while count_tasks(self.ops) < tasks:
            self._budget.ops = max(self._budget.ops, MAX_OPS)
            self._draw_op()
        self.finish()

    def _draw_op(self) -> None:
        self._budget.ops -= 1
        self._OPS[self.pick(len(self._OPS))](self)

    def finish(self) -> None:
        """Get what is left, or some of it, in a random order."""
        left = [slot for slot, row in self.slots.items() if row.kind != "actor"]
        while left:
            slot = left.pop(self.pick(len(left)))
            if not self.chance(4):
                self.get(slot)

    def get(self, slot: int) -> None:
        row = self.slots[slot]
        nested = self._depth > 0
        put = any(op.kind == "put" and op.slot == slot for op in self.ops)
        given = (nested, put and not nested)
        self.ops.append(Op("get", slots=(slot,), given=given, expected=row.number, outcomes=row.outcomes))
        self.total += row.number
        self.outcomes |= row.outcomes & ~VALUE
        if not row.outcomes & VALUE:
            self.outcomes &= ~VALUE

    def _op_put(self) -> None:
        number, large = self.pick(100), self.chance(3)
        self.ops.append(Op("put", self.new(Slot("number", number)), given=(number, large)))

    def _op_put_box(self) -> None:
        used = [slot for slot in self.some(("number", "box"), 3) if self.slots[slot].is_ref]
        if used:
            number, outcomes = self.sum(used)
            self.ops.append(Op("put_box", self.new(Slot("box", number, outcomes, VALUE), used), tuple(used)))
            self.let_go(used)

    def let_go(self, used: Iterable[int]) -> None:
        """Whoever was given these may be the last to hold them."""
        for slot in dict.fromkeys(used):
            if self.chance(3):
                self.slots.pop(slot)
                self.ops.append(Op("drop", slots=(slot,)))

    def _op_open_here(self) -> None:
        box = self.one("box")
        if box is None or not self.slots[box].is_ref or self.slots[box].own != VALUE:
            return
        row = self.slots[box]
        slot = self.new(Slot("box", row.number, row.outcomes, VALUE, is_ref=False), (box,))
        self.ops.append(Op("open", slot, (box,)))
        if not self.chance(3):
            self.let_go([box])

    def drop_all(self, slots: list[int]) -> None:
        for slot in slots:
            del self.slots[slot]
            self.ops.append(Op("drop", slots=(slot,)))

    def _op_call(self) -> None:
        self._call(self.some(("number",), 3))

    def _op_open(self) -> None:
        """Boxes, opened by a task: passed by name, so they arrive resolved and their refs are got there."""
        self._call(self.some(("box", "number"), 2))

    def _call(self, used: list[int]) -> None:
        kind = ("add", "add", "fill", "two", "fail", "once", "flaky")[self.pick(7)]
        number, outcomes = self.sum(used)
        first: tuple[Any, ...] = (self.seconds(),)
        options: dict[str, Any] = {}
        if kind == "fail":
            outcomes = USER | (outcomes & ~VALUE)
        elif kind == "once":
            first, options, outcomes = (self.key(), *first), {"max_retries": 0}, outcomes | FAULT
        elif kind == "flaky":
            first, options = (self.key(), *first), {"retry_exceptions": [FirstTime]}
        elif kind == "two":
            options = {"num_returns": 2}
        boxed = self.pick(len(used) + 1) if self.chance(2) else -1
        slot = self.new(Slot("number", number, outcomes), used)
        if kind == "two":
            self.new(Slot("number", number + 1, outcomes), used)
        self.ops.append(Op("call", slot, tuple(used), (kind, first, options, boxed)))
        if kind not in ("two", "flaky") and self.chance(6):
            self._cancel_later(slot, outcomes)

    def _cancel_later(self, slot: int, outcomes: int) -> None:
        """Soon, and before anything else can need it."""
        row = self.slots[slot]
        row.outcomes, row.own = outcomes | CANCEL, row.own | CANCEL if row.own else 0
        if self.chance(2):
            self._op_sleep()
        force = self.chance(3)
        self.ops.append(Op("cancel", slots=(slot,), given=(force, bool(self.pick(2)))))

    def _op_make_box(self) -> None:
        """Refs that a worker owns, which may die."""
        numbers = tuple(self.pick(50) for _ in range(1 + self.pick(3)))
        slot = self.new(Slot("box", sum(numbers), VALUE | FAULT, VALUE))
        self.ops.append(Op("call", slot, (), ("box_of", (self.chance(3), *numbers), {}, -1)))

    def _op_rebox(self) -> None:
        """Refs go to a task, inside a list or a value, and come back in its result."""
        used = [slot for slot in self.some(("number", "box"), 3) if self.slots[slot].is_ref]
        if not used:
            return
        number, outcomes = self.sum(used)
        # The sender of a hand-off may die before the receiver has registered: the ref is then lost, legally.
        slot = self.new(Slot("box", number, outcomes | FAULT, VALUE), used)
        self.ops.append(Op("call", slot, tuple(used), ("rebox", (), {}, len(used))))
        self.let_go(used)

    def draw_block(self) -> None:
        """A nested program. Its result is the sum of what it gets, or a box of refs: given ones, and its own."""
        if self._depth >= MAX_DEPTH:
            return
        inner = Drawing(self._choices, self._budget, self._depth + 1, f"{self.name}{len(self.ops)}.")
        by_reference = self.some(("number", "box", "actor"), 3)
        by_reference = [slot for slot in by_reference if self.slots[slot].kind != "actor" or self.slots[slot].shared]
        by_name = self.some(("number", "box"), 2)
        outcomes = VALUE  # of what must be there before it starts
        for slot in by_reference:
            row = self.slots[slot]
            known = [Keep(keep.key, keep.number, keep.outcomes) for keep in row.keeps] if self.chance(2) else []
            given = Slot(row.kind, row.number, row.outcomes, row.own, row.is_ref, row.shared, dead=row.dead)
            given.keeps, given.given, given.busy = known, slot, row.busy
            given.stateless, given.fault = row.stateless, row.fault
            inner.new(given)
        for slot in by_name:  # arrives as the value itself
            row = self.slots[slot]
            inner.new(Slot(row.kind, row.number, row.outcomes, row.own, is_ref=False))
            own = row.own or row.outcomes
            outcomes = (outcomes & own & VALUE) | ((outcomes | own) & ~VALUE)
        inner.draw(1, 5)
        whole = (outcomes & inner.outcomes & VALUE) | ((outcomes | inner.outcomes) & ~VALUE)
        used = tuple([*by_reference, *by_name])
        busy = any(op.kind in ("call_actor", "make_actor") for op in inner.ops)
        returned = [slot for slot in inner.some(("number", "box"), 3) if inner.slots[slot].is_ref]
        if returned and self.chance(2):
            number, of_refs = inner.sum(returned)
            # An own ref dies with its worker; a given one may lose its hold with whoever hands it on.
            all_of = (whole & of_refs & VALUE) | ((whole | of_refs) & ~VALUE) | FAULT
            slot = self.new(Slot("box", number, all_of, whole, busy=busy), used)
            how: tuple[Any, ...] = ("block_box", (tuple(inner.ops), tuple(returned)), {}, len(by_reference))
        else:
            slot = self.new(Slot("number", inner.total, whole, busy=busy), used)
            how = ("block", (tuple(inner.ops),), {}, len(by_reference))
        self.ops.append(Op("call", slot, used, how))
        cancelled = self.chance(8)
        if cancelled:
            self._cancel_later(slot, self.slots[slot].outcomes)
        self._learn_keeps(inner, slot, whole, cancelled)
        self.let_go(by_reference)

    def _learn_keeps(self, inner: Drawing, block: int, whole: int, cancelled: bool) -> None:
        """What a block has given to actors of this program can be asked for when the block has ended."""
        new = []
        for row in inner.slots.values():
            if row.given >= 0 and row.kind == "actor":
                mine = self.slots[row.given]
                had = [keep.key for keep in mine.keeps]
                new += [(mine, keep) for keep in row.keeps if keep.key not in had]
        if not new or cancelled or self.chance(2):
            return
        self.ops.append(Op("wait", slots=(block,), given=(1, None)))
        missing = USER if whole != VALUE else 0  # it may have ended before
        for mine, keep in new:
            mine.keeps.append(Keep(keep.key, keep.number, keep.outcomes | FAULT | missing))

    def _op_make_actor(self) -> None:
        used = self.some(("number",), 1)
        number, outcomes = self.sum(used)
        given: tuple[int, ...] = () if used else (self.pick(50),)
        row = Slot("actor", number if used else given[0], outcomes | FAULT, shared=self.chance(2))
        self.ops.append(Op("make_actor", self.new(row), tuple(used), given))
        for _ in range(self.pick(3)):
            self._op_call_actor()

    def _op_call_actor(self) -> None:
        actor = self.one("actor")
        if actor is None:
            return
        row = self.slots[actor]
        if row.stateless and row.given < 0 and not row.dead:
            lives.call(self, actor)
            return
        used = self.some(("number",), 1)
        amount, outcomes = self.sum(used)
        given: tuple[int, ...] = () if used else (self.pick(9),)
        if row.shared or row.dead:  # others call it as well: only that it answers is known
            key = self.key()
            slot = self.new(Slot("number", 2, VALUE | row.fault | (row.outcomes & ~VALUE)), (actor,))
            self.ops.append(Op("call", slot, (actor,), ("call_often", (key, 2), {}, -1)))
            return
        if outcomes == USER:  # it fails without being called: it leaves its queue, and takes no number
            slot = self.new(Slot("number", 0, USER | FAULT), (actor, *used))
            self.ops.append(Op("call_actor", slot, (actor, *used), ("add", (self.name or "driver", row.calls), False)))
            return
        sure = outcomes == VALUE and row.outcomes & ~FAULT == VALUE
        if not sure:  # whether it is counted would not be known
            return
        row.number += amount if used else given[0]
        slot = self.new(Slot("number", row.number, VALUE | FAULT), (actor,))
        first = (self.name or "driver", row.calls)
        row.calls += 1
        self.ops.append(Op("call_actor", slot, (actor, *used), ("add", (*first, *given), False)))

    def _op_keep(self) -> None:
        """Refs stay in an actor's state."""
        actor = self.one("actor")
        used = self.some(("number", "box"), 2)
        used = [slot for slot in used if self.slots[slot].is_ref and not self.slots[slot].busy]
        if actor is None or self.slots[actor].dead or self.slots[actor].stateless or not used:
            return
        row = self.slots[actor]
        if row.shared:  # they may come of tasks that call this very actor: pending, it would wait for itself
            for slot in used:
                self.get(slot)
        number, outcomes = self.sum(used)
        key = f"keep {self.key()}"
        done = self.new(Slot("number", 0, row.outcomes | FAULT), (actor,))
        self.ops.append(Op("call_actor", done, (actor, *used), ("keep", (key,), True)))
        if self._depth > 0:  # another caller may ask for it: only when it is known to be there
            self.get(done)
        row.keeps.append(Keep(key, number, outcomes))
        self.let_go(used)

    def _op_kept(self) -> None:
        """What an actor keeps is read there, comes back, or is given up."""
        actor = self.one("actor")
        if actor is None or not self.slots[actor].keeps or self.slots[actor].dead:
            return
        row = self.slots[actor]
        keep = row.keeps[self.pick(len(row.keeps))]
        others = (row.outcomes | keep.outcomes) & ~VALUE | FAULT
        value = row.outcomes & VALUE
        what = ("kept", "lend", "lend", "give_up")[self.pick(4)]
        if what == "kept":
            slot = self.new(Slot("number", keep.number, (value & keep.outcomes) | others), (actor,))
        elif what == "lend":
            slot = self.new(Slot("box", keep.number, (value & keep.outcomes) | others, value | others), (actor,))
        elif row.given >= 0 or row.shared:
            return  # others may still ask for it
        else:
            row.keeps.remove(keep)
            slot = self.new(Slot("number", 0, VALUE | others), (actor,))
            self.slots.pop(slot)  # its result, a count, is not looked at
        self.ops.append(Op("call_actor", slot, (actor,), (what, (keep.key,), False)))

    def _op_kill(self) -> None:
        actor = self.one("actor")
        if actor is None or not self.chance(2):
            return
        row = self.slots[actor]
        for_good = not row.stateless or (row.fault != 0 and self.chance(3))
        row.dead = row.dead or for_good
        self.ops.append(Op("kill", slots=(actor,), given=(for_good,)))

    def _op_get(self) -> None:
        slot = self.one("number", "box")
        if slot is not None:
            self.get(slot)

    def _op_get_soon(self) -> None:
        slot = self.one("number", "box")
        if slot is not None and self.slots[slot].is_ref:
            row = self.slots[slot]
            self.ops.append(Op("get_soon", slots=(slot,), given=(self.seconds(),), outcomes=row.outcomes))

    def _op_wait(self) -> None:
        used = list(dict.fromkeys(self.some(("number", "box"), 4)))
        used = [slot for slot in used if self.slots[slot].is_ref]
        if used:
            timeout = None if self.chance(2) else self.seconds()
            self.ops.append(Op("wait", slots=tuple(used), given=(1 + self.pick(len(used)), timeout)))

    def _op_drop(self) -> None:
        slot = self.one("number", "box", "actor")
        if slot is not None:
            del self.slots[slot]
            self.ops.append(Op("drop", slots=(slot,)))

    def _op_sleep(self) -> None:
        self.ops.append(Op("sleep", given=(self.seconds(),)))

    _OPS: tuple[Callable[[Drawing], None], ...] = (
        _op_put,
        _op_put_box,
        _op_call,
        _op_call,
        _op_call,
        _op_open,
        _op_open_here,
        _op_open_here,
        _op_make_box,
        situations.later_box,
        situations.inherit,
        situations.gap,
        situations.hand_on,
        situations.hand_on,
        situations.thrown,
        situations.given,
        situations.given_box,
        situations.transferred,
        lives.begin,
        lives.begin,
        _op_rebox,
        draw_block,
        draw_block,
        _op_make_actor,
        _op_call_actor,
        _op_keep,
        _op_keep,
        _op_kept,
        _op_kept,
        _op_kill,
        _op_get,
        _op_get_soon,
        _op_wait,
        _op_drop,
        _op_sleep,
    )


def count_tasks(ops: Iterable[Op]) -> int:
    """How many tasks, calls and actors a program makes, if nothing fails and nothing is run again."""
    count = 0
    for op in ops:
        if op.kind in CALLS:
            count += 1
        if op.kind == "call" and op.given[0] in ("block", "block_box"):
            count += count_tasks(op.given[1][0])
    return count


def draw_program(choices: Choices, tasks: int = 0) -> tuple[Op, ...]:
    """A program of at least so many tasks, calls and actors; 0: a small one, of a drawn size."""
    drawing = Drawing(choices, Budget())
    if tasks:
        drawing.draw_tasks(tasks)
    else:
        drawing.draw(*((2, 6), (4, 14), (10, 30))[choices.choose(3, "size of the program")])
    return tuple(drawing.ops)
