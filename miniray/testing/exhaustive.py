"""Every interleaving of a small program, instead of some that a seed draws.

A *transition system* says what may happen next, lets one thing of it happen, and judges itself at the end.
`every_interleaving` walks depth first over all choices. Machines cannot be copied, so going back is a fresh system and
the same moves again: the cost of one interleaving is its length.

Two moves at different processes commute: a step at p takes from the head of a queue to p, changes p, and appends to
queues from p. So of all orders that differ only in swapping such moves one suffices, and *sleep sets* (Godefroid,
"Partial-Order Methods", 1996, chapter 5) leave out the others: after a move was explored, it sleeps in the branches
beside it until something happens at its own process. What is counted is therefore interleavings of which no two are
the same up to such swaps (Mazurkiewicz traces), each exactly once. A move that is not `local` (it reaches into queues
that others read, as a crash that loses frames) commutes with nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from miniray.core.record import Record

MAX_DEPTH = 400


class Move(Record, frozen=True):
    """Something that may happen; its `name` is the same in every order in which it may."""

    place: str  # the process at which it happens
    name: str
    local: bool = True

    def commutes(self, other: Move) -> bool:
        return self.local and other.local and self.place != other.place


class TransitionSystem(Protocol):
    def moves(self) -> list[Move]:
        """What may happen next, always in the same order in the same state; nothing: the program has ended."""

    def take(self, move: Move) -> None:
        """Let it happen.

        Raises:
            AssertionError: something is wrong from then on.
        """

    def judge(self) -> None:
        """At the end: assert the outcome."""


class Explored(Record, frozen=True):
    """What `every_interleaving` has seen."""

    interleavings: int  # run to their end; no two the same up to commuting moves
    moves: int  # taken for the first time, and again on the way to a branch
    longest: int
    complete: bool  # False: the bound was reached first

    def __str__(self) -> str:
        bound = "all" if self.complete else "BOUND REACHED after"
        return f"{bound} {self.interleavings:,} interleavings, {self.moves:,} moves, at most {self.longest} in one"


class WrongInterleaving(AssertionError):
    """One order of moves after which something is wrong."""

    def __init__(self, path: list[Move], error: BaseException) -> None:
        super().__init__(f"{error!r}\nafter these moves:\n" + "\n".join(f"  {move.name}" for move in path))
        self.path = path


class _Branch:
    """What is still to be tried after the first so many moves of the path."""

    def __init__(self, depth: int, awake: list[Move], sleeping: list[Move]) -> None:
        self.depth = depth
        self.awake = awake
        self.sleeping = sleeping


def every_interleaving(make: Callable[[], TransitionSystem], *, max_interleavings: int = 100_000) -> Explored:
    """Run every interleaving of the system that `make` gives, the same one each time.

    Raises:
        WrongInterleaving: the first in which a move or the judgement raises AssertionError.
    """
    interleavings = taken = longest = 0
    path: list[Move] = []
    system = make()
    branches = [_Branch(0, system.moves(), [])]
    assert branches[0].awake, "nothing can happen: there is nothing to explore"
    while branches:
        branch = branches[-1]
        if not branch.awake:
            branches.pop()
            continue
        if interleavings >= max_interleavings:
            return Explored(interleavings, taken, longest, False)
        if len(path) != branch.depth:  # `system` has gone further than this branch
            del path[branch.depth :]
            system = make()
            for move in path:
                system.take(move)
            taken += branch.depth
        move = branch.awake.pop(0)
        sleeping = [other for other in branch.sleeping if other.commutes(move)]
        branch.sleeping.append(move)
        path.append(move)
        _or_wrong(path, partial(system.take, move))
        taken += 1
        longest = max(longest, len(path))
        assert len(path) <= MAX_DEPTH, f"no end after {MAX_DEPTH} moves"
        moves = system.moves()
        if not moves:
            _or_wrong(path, system.judge)
            interleavings += 1
        branches.append(_Branch(len(path), [one for one in moves if one not in sleeping], sleeping))
    return Explored(interleavings, taken, longest, True)


def _or_wrong(path: list[Move], action: Callable[[], None]) -> None:
    try:
        action()
    except AssertionError as error:
        raise WrongInterleaving(path, error) from error
