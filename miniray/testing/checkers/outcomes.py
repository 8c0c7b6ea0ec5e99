"""Invariant 4: one outcome for each attempt, and an outcome once told never changes.

The one change that is allowed: an actor's address becomes the failure of its death. What a holder concludes from a
death is its own (its owner died; it came too late), and may follow the value that it was told.
"""

from __future__ import annotations

from miniray.core.failures import FailureKind
from miniray.core.ids import ObjectId, TaskId, owner_of, show
from miniray.core.machine import Send
from miniray.core.messages import TasksDone
from miniray.core.owner.events import Ready
from miniray.core.task_spec import ActorAt, Failed, Value
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess

_OF_THE_HOLDER = (FailureKind.OWNER_DIED, FailureKind.OBJECT_LOST)


class Outcomes(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.decided = {Ready: self._told, TasksDone: self._answered}
        self._outcomes: dict[ObjectId, Value] = {}
        self._attempts: dict[tuple[TaskId, int], bool] = {}

    def _told(self, home: SimulatedProcess, effect: Ready) -> None:
        assert home.process is not None
        values = home.process.owner.values
        for object_id in effect.object_ids:
            value = values.get(object_id)
            if value is None or (
                isinstance(value, Failed)
                and (value.failure.kind in _OF_THE_HOLDER)
                and owner_of(object_id) != home.me
            ):
                continue
            before = self._outcomes.setdefault(object_id, value)
            if before != value and not isinstance(before, ActorAt):
                told = f"{home.name} is told {_brief(value)} of {show(object_id)}, which was {_brief(before)} before"
                raise BrokenInvariant(4, told, object_id)

    def _answered(self, home: SimulatedProcess, effect: Send) -> None:
        message = effect.message
        assert type(message) is TasksDone
        for result in message.results:
            if (result.task_id, result.attempt) in self._attempts:
                told = f"attempt {result.attempt} of {show(result.task_id)} is answered twice"
                raise BrokenInvariant(4, told, result.task_id)
            self._attempts[result.task_id, result.attempt] = True


def _brief(value: Value) -> str:
    return value.failure.kind.name if isinstance(value, Failed) else type(value).__name__
