"""Shows every step of a simulated cluster to every checker that wants to see it."""

from __future__ import annotations

from miniray.core.machine import Received, Send
from miniray.core.record import Effect, Event
from miniray.core.task_spec import PushedTask
from miniray.testing.checkers.call_order import CallOrder
from miniray.testing.checkers.checker import After, Checker, Decided, Kind
from miniray.testing.checkers.ends import Ends
from miniray.testing.checkers.fences import Fences
from miniray.testing.checkers.forks import ForkedForOne
from miniray.testing.checkers.freed_ids import FreedIds
from miniray.testing.checkers.held import Held
from miniray.testing.checkers.leases import Leases
from miniray.testing.checkers.limits import Limits
from miniray.testing.checkers.one_task import OneTask
from miniray.testing.checkers.outcomes import Outcomes
from miniray.testing.checkers.places import Places
from miniray.testing.checkers.quiet import Quiet
from miniray.testing.checkers.registry import Registry
from miniray.testing.checkers.spread import Spread, Spreading
from miniray.testing.checkers.stale import Stale
from miniray.testing.checkers.starts import Starts
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess

LOOK_EVERY_STEPS = 10

ALL: tuple[type[Checker], ...] = (
    Held,
    Ends,
    Outcomes,
    Leases,
    CallOrder,
    Starts,
    Stale,
    Fences,
    Registry,
    FreedIds,
    Places,
    Limits,
    OneTask,
    ForkedForOne,
    Quiet,  # the last at the end: what the others say is nearer to the cause
)


class Watch:
    """All checkers of one run."""

    def __init__(self, cluster: SimulatedCluster, *, look_every: int = LOOK_EVERY_STEPS) -> None:
        self._spreading = Spreading(cluster)
        self._checkers: list[Checker] = [*(kind(cluster) for kind in ALL), self._spreading]
        self._after: dict[Kind, list[After]] = {}
        self._decided: dict[Kind, list[Decided]] = {}
        for checker in self._checkers:
            for kind, after in checker.after.items():
                self._after.setdefault(kind, []).append(after)
            for kind, decided in checker.decided.items():
                self._decided.setdefault(kind, []).append(decided)
        self._started = [one.started for one in self._checkers if type(one).started is not Checker.started]
        self._looks = [one.look for one in self._checkers if type(one).look is not Checker.look]
        cluster.watch = self
        cluster.on_every(look_every, self.look)

    @property
    def spread(self) -> Spread:
        return self._spreading.counts

    def observe(self, home: SimulatedProcess, event: Event, effects: list[Effect]) -> None:
        """A machine has made a step; its effects are not performed yet."""
        kind: Kind = type(event.message) if type(event) is Received else type(event)
        for after in self._after.get(kind, ()):
            after(home, event, effects)
        for effect in effects:
            kind = type(effect.message) if type(effect) is Send else type(effect)
            for decided in self._decided.get(kind, ()):
                decided(home, effect)

    def task_starts(self, home: SimulatedProcess, task: PushedTask) -> None:
        for started in self._started:
            started(home, task)

    def look(self) -> None:
        for look in self._looks:
            look()

    def at_end(self) -> None:
        self.look()
        for checker in self._checkers:
            checker.at_end()
