"""What is known of the slots of a program while it is drawn (`drawing.py`): the oracle's side."""

from __future__ import annotations

from miniray.core.record import Row
from miniray.testing.programs import FAULT, VALUE

MAX_OPS = 80  # of one program, nested ones included


class Keep(Row):
    """Refs that an actor has in its state, under this key."""

    key: str
    number: int
    outcomes: int


class Slot(Row):
    """What is known of one slot."""

    kind: str  # "number", "box" (a list of refs), "actor"
    number: int = 0
    outcomes: int = VALUE
    own: int = 0  # of a box: of the list itself, whatever becomes of what its refs name; 0: the same
    is_ref: bool = True
    shared: bool = False  # an actor that others may call, too: its total is not known
    calls: int = 0  # of this actor from this program
    dead: bool = False
    stateless: bool = False  # an actor that may be restarted: what it answers depends on nothing that a restart loses
    fault: int = FAULT  # of an actor: the outcome of its calls that a death may add
    busy: bool = False  # it comes of an actor's call: an actor that waits for it may wait for itself
    keeps: list[Keep] = []  # of this actor: what it was given to keep
    given: int = -1  # of a block's slot: which of the surrounding program it is


class Budget(Row):
    """What a whole program may still have."""

    ops: int = MAX_OPS
