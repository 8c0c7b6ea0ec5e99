"""Programs of actors as values: what a strategy draws, what a cluster runs, and what it must give.

Each actor is a tally, which its steps add to. One step follows the other in the program, but nothing waits for the
outcome of an earlier one, except where another caller could overtake it: calls of *one* caller to an actor begin in
order, those of two do not. So before an actor is called by a task or by another actor, and before it is killed, what
it was asked so far has its outcome; `expected`, the oracle, is then simply one step after the other.

- An actor is given only handles of actors made before it: two that hold each other would never end.
- A killed actor is called by the program alone, which knows of it at once; who else has its address may still reach it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import miniray
from miniray.core.record import Record
from miniray.testing.graphs import PLANNED, Outcome, outcome

DIED = ("error", "ActorDiedError")
NOTHING_KEPT = ("error", "LookupError: no handle was given")
NONE = ("value", None)
_DEATHS = ("ActorDiedError", "WorkerCrashedError", "ObjectLostError", "OwnerDiedError")


class _Tally:
    def __init__(self) -> None:
        self.total = 0
        self.kept: Any = None

    def add(self, amount: int, fails: bool = False) -> int:
        self.total += amount
        if fails:
            raise ValueError("planned")
        return self.total

    def keep(self, handles: list[Any]) -> None:
        self.kept = handles[0]

    def relay(self, amount: int) -> Any:
        if self.kept is None:
            raise LookupError("no handle was given")
        return miniray.get(self.kept.add.remote(amount))


_Actor: Any = miniray.remote(_Tally)


@miniray.remote
def _add(tally: Any, amount: int) -> Any:
    return miniray.get(tally.add.remote(amount))


class Do(Enum):
    """What a step does. Those that make no call have the outcome None."""

    CREATE = "create"  # one more actor
    CALL = "call"  # it adds the amount to its total, which is the outcome
    FAIL = "fail"  # so it does, and raises
    TASK = "task"  # a task is given its handle, and calls it
    GIVE = "give"  # it is given the handle of `other`, and keeps it
    RELAY = "relay"  # it calls the actor whose handle it keeps
    KILL = "kill"
    DROP = "drop"  # the program's handle of it goes; it ends when nobody keeps one


_CALLS = (Do.CALL, Do.FAIL, Do.TASK, Do.GIVE, Do.RELAY)


class ActorStep(Record, frozen=True):
    """Actors are named by the order of their creation, from 0."""

    do: Do
    actor: int = 0
    amount: int = 0
    other: int = 0


class ActorProgram(Record, frozen=True):
    """`run().value == expected()`, whatever is late. When processes die as well, `allows` says what may be."""

    steps: tuple[ActorStep, ...]

    def run(self) -> list[Outcome]:
        """Do all of it; the outcome of each step."""
        run = _Run()
        refs = [run.do(place, step) for place, step in enumerate(self.steps)]
        return [NONE if ref is None else outcome(ref) for ref in refs]

    def expected(self) -> list[Outcome]:
        oracle = _Oracle()
        return [oracle.do(step) for step in self.steps]

    def allows(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether a run may end so when processes have died: each outcome is the expected one, or an error that says
        that somebody died. Once a call of the program has ended so, every later one to that actor does.

        What an actor was asked by a task or another actor may have been done twice, or never: a task runs again when
        its worker dies. So its totals may be others from then on.
        """
        dead: dict[int, None] = {}
        uncertain: dict[int, None] = {}
        keeps: dict[int, int] = {}
        for step, expected, found in zip(self.steps, self.expected(), outcomes, strict=True):
            target = keeps.get(step.actor, step.actor) if step.do is Do.RELAY else step.actor
            if step.do in (Do.TASK, Do.RELAY):
                uncertain[target] = None
            if step.do is Do.GIVE:
                keeps[step.actor] = step.other
            died = found[0] == "error" and found[1] in _DEATHS
            if not died and step.actor in dead and step.do in _CALLS and step.do is not Do.TASK:
                return False
            if died and step.do in (Do.CALL, Do.FAIL, Do.GIVE):
                dead[step.actor] = None
            another_total = target in uncertain and found[0] == expected[0] == "value"
            if not (died or found == expected or another_total):
                return False
        return True


class _Run:
    """What the program holds. `asked`: of each actor who asked it last, and what has perhaps no outcome yet."""

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self.keeps: dict[int, int] = {}
        self.asked: dict[int, tuple[str, list[Any]]] = {}

    def do(self, place: int, step: ActorStep) -> Any:
        """The ref of its outcome, or None."""
        actor = step.actor
        if step.do is Do.CREATE:
            self.handles.append(_Actor.remote())
        elif step.do is Do.DROP:
            self.handles[actor] = None
        elif step.do is Do.KILL:
            self._after_others(actor, "kill")
            miniray.kill(self.handles[actor])
        elif step.do is Do.TASK:
            pending = self._after_others(actor, f"task {place}")
            pending.append(_add.remote(self.handles[actor], step.amount))
            return pending[-1]
        else:
            return self._call(step)
        return None

    def _call(self, step: ActorStep) -> Any:
        tally = self.handles[step.actor]
        pending = self._after_others(step.actor, "program")
        if step.do is Do.GIVE:
            self.keeps[step.actor] = step.other
            ref = tally.keep.remote([self.handles[step.other]])
        elif step.do is Do.RELAY:
            kept = self.keeps.get(step.actor)
            pending_there = self._after_others(kept, f"actor {step.actor}") if kept is not None else []
            ref = tally.relay.remote(step.amount)
            pending_there.append(ref)
        else:
            ref = tally.add.remote(step.amount, step.do is Do.FAIL)
        pending.append(ref)
        return ref

    def _after_others(self, actor: int, who: str) -> list[Any]:
        """What `who` asks this actor from now on goes in here; what others have asked has its outcome."""
        before, pending = self.asked.get(actor, (who, []))
        if before != who and pending:
            miniray.wait(pending, num_returns=len(pending))
            pending = []
        self.asked[actor] = who, pending
        return pending


class _Oracle:
    def __init__(self) -> None:
        self.totals: list[int] = []
        self.keeps: dict[int, int] = {}
        self.killed: dict[int, None] = {}

    def do(self, step: ActorStep) -> Outcome:
        actor = step.actor
        if step.do is Do.CREATE:
            self.totals.append(0)
        elif step.do is Do.KILL:
            self.killed[actor] = None
        if step.do not in _CALLS:
            return NONE
        if actor in self.killed:
            return DIED
        if step.do is Do.GIVE:
            self.keeps[actor] = step.other
            return NONE
        if step.do is Do.RELAY:
            if actor not in self.keeps:
                return NOTHING_KEPT
            actor = self.keeps[actor]
        self.totals[actor] += step.amount
        return PLANNED if step.do is Do.FAIL else ("value", self.totals[actor])
