"""Mutants: wrong versions of the protocol, one small change each, to show that the checkers can fail.

A mutant replaces one method of a shipping machine while it is switched on; production code knows nothing of it. Each
must be caught within `MOST_SEEDS` seeds of `miniray.testing`. One that survives is a hole in a checker or in what the
programs do: mend that, never the mutant.

    python -m tests.sim.mutants            # the full search: for each mutant the first seed that catches it
    python -m tests.sim.mutants NAME ...   # only these, each with what was found

The seeds that a search has found are in `first_seeds.json`; they are a hint, tried first, and nothing else: when the
drawing of programs changes they are wrong, and the range is searched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MOST_SEEDS = 1000
Wrong = Callable[..., Any]


class Mutant:
    """One wrong method. `change` gets the right one and returns the wrong one."""

    def __init__(self, owner: type, method: str, change: Callable[[Any], Any], nodes: int, tasks: int) -> None:
        self.nodes, self.tasks = nodes, tasks  # of the clusters and programs in which it shows
        self.name = change.__name__
        self.why = change.__doc__ or ""
        self._owner, self._method, self._change = owner, method, change

    @contextmanager
    def on(self) -> Iterator[None]:
        right = self._owner.__dict__[self._method]  # a KeyError here: the method has gone, and the mutant with it
        setattr(self._owner, self._method, self._change(right))
        try:
            yield
        finally:
            setattr(self._owner, self._method, right)


ALL: dict[str, Mutant] = {}


def mutant(
    owner: type, method: str, *, nodes: int = 1, tasks: int = 0
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def register(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        made = Mutant(owner, method, change, nodes, tasks)
        assert made.name not in ALL and made.why, f"{made.name}: a name of its own, and what it does wrong"
        ALL[made.name] = made
        return change

    return register


def nothing(right: Any) -> Wrong:
    """The method does nothing."""
    return lambda *args, **named: None
