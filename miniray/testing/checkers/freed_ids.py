"""Invariant 9: freed ids do not come back. No id is given twice, and who asks for the gone is told so."""

from __future__ import annotations

from miniray.core.ids import ObjectId, TaskId, show, task_of
from miniray.core.machine import Received, Send
from miniray.core.messages import HolderAdded, RefGone, WhereIs
from miniray.core.owner.events import Submitted, ValuePut
from miniray.core.record import Effect
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class FreedIds(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {Submitted: self._submitted, ValuePut: self._put, WhereIs: self._asked}
        self.decided = {HolderAdded: self._confirms, RefGone: self._denies}
        self._given: dict[TaskId, bool] = {}

    def _submitted(self, home: SimulatedProcess, event: Submitted, effects: list[Effect]) -> None:
        self._new(event.spec.task_id)

    def _put(self, home: SimulatedProcess, event: ValuePut, effects: list[Effect]) -> None:
        self._new(task_of(event.object_id))

    def _new(self, task_id: TaskId) -> None:
        if task_id in self._given:
            raise BrokenInvariant(9, f"{show(task_id)} is given twice", task_id)
        self._given[task_id] = True

    def _knows(self, home: SimulatedProcess, object_id: ObjectId) -> bool:
        assert home.process is not None
        return home.process.owner.knows(object_id)

    def _confirms(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, HolderAdded)
        object_id = effect.message.object_id
        if not self._knows(home, object_id):
            raise BrokenInvariant(9, f"{home.name} confirms a holder of {show(object_id)}, which is gone", object_id)

    def _denies(self, home: SimulatedProcess, effect: Send) -> None:
        assert isinstance(effect.message, RefGone)
        object_id = effect.message.object_id
        if self._knows(home, object_id):
            raise BrokenInvariant(1, f"{home.name} says that {show(object_id)} is gone, which lives", object_id)

    def _asked(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, WhereIs)
        object_id = event.message.object_id
        if not self._knows(home, object_id):
            answers = [one for one in effects if type(one) is Send and type(one.message) is RefGone]
            if not answers:
                told = f"{home.name} does not answer a question about {show(object_id)}, which is gone"
                raise BrokenInvariant(9, told, object_id)
