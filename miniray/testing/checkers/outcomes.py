"""Invariant 4: one outcome for each attempt, and an outcome once told never changes.

An actor's address becomes that of a later life, or the failure of its death, and nothing else: no life has two
processes, nobody is told an earlier life than before, and none begins after the owner has told the end. What a holder
concludes from a death is its own (its owner died; it came too late), and may follow the value that it was told. A
stored value is one outcome wherever its copies lie; when a node has died it may be lost, and be made again or not.
"""

from __future__ import annotations

from miniray.core.failures import FailureKind
from miniray.core.ids import ObjectId, ProcessId, TaskId, node_of, owner_of, show
from miniray.core.machine import Send
from miniray.core.messages import TasksDone
from miniray.core.owner.events import Ready
from miniray.core.task_spec import ActorAt, Failed, Stored, Value
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess

_OF_THE_HOLDER = (FailureKind.OWNER_DIED, FailureKind.OBJECT_LOST, FailureKind.STORE_FULL)


class Outcomes(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.decided = {Ready: self._told, TasksDone: self._answered}
        self._outcomes: dict[ObjectId, Value] = {}
        self._attempts: dict[tuple[TaskId, int], bool] = {}
        self._lives: dict[ObjectId, dict[int, ProcessId]] = {}  # of an actor: where each was
        self._of_actors: dict[tuple[ProcessId, ObjectId], Value] = {}  # what each process was told last

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
            if object_id in self._lives or (isinstance(value, ActorAt) and object_id not in self._outcomes):
                self._told_of_actor(home, object_id, value)
                continue
            before = self._outcomes.setdefault(object_id, value)
            if isinstance(before, Stored) and (isinstance(value, Stored) or self._a_node_died()):
                self._outcomes[object_id] = value
            elif before != value:
                told = f"{home.name} is told {_brief(value)} of {show(object_id)}, which was {_brief(before)} before"
                raise BrokenInvariant(4, told, object_id)

    def _a_node_died(self) -> bool:
        return any(process == node_of(process) for process in self.cluster.deaths)

    def _told_of_actor(self, home: SimulatedProcess, actor: ObjectId, value: Value) -> None:
        lives = self._lives.setdefault(actor, {})
        before = self._of_actors.get((home.me, actor))
        legal = before is None or before == value or isinstance(before, ActorAt)
        if isinstance(value, ActorAt):
            if isinstance(before, ActorAt) and value.incarnation < before.incarnation:
                legal = False
            if value.incarnation not in lives and isinstance(self._of_actors.get((owner_of(actor), actor)), Failed):
                legal = False
            legal = legal and lives.setdefault(value.incarnation, value.process) == value.process
        if not legal:
            told = f"{home.name} is told {_brief(value)} of {show(actor)}, which was {_brief(before)} before"
            raise BrokenInvariant(4, told, actor)
        self._of_actors[home.me, actor] = value

    def _answered(self, home: SimulatedProcess, effect: Send) -> None:
        message = effect.message
        assert type(message) is TasksDone
        for result in message.results:
            if (result.task_id, result.attempt) in self._attempts:
                told = f"attempt {result.attempt} of {show(result.task_id)} is answered twice"
                raise BrokenInvariant(4, told, result.task_id)
            self._attempts[result.task_id, result.attempt] = True


def _brief(value: Value | None) -> str:
    if isinstance(value, ActorAt):
        return f"life {value.incarnation} in {show(value.process)}"
    return value.failure.kind.name if isinstance(value, Failed) else type(value).__name__
