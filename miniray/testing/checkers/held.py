"""Invariant 1: the value of a reachable ref is not freed; and what makes it so, the rule of hand-off (section 4).

When somebody has died a hand-off may have broken with it; then `get` tells, and the programs' oracle checks that. While
all live, nobody comes too late. Dead or alive, these hold at every step:

- a confirmation ends the waits for receipts up to its number, never a later one;
- who reads a value registers each ref inside it before it lets the outer one go;
- the answer to a question is not used by who has let go since it asked;
- a result, which registers what is retained, leaves before the drops of its step.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, ProcessId, owner_of, show
from miniray.core.machine import PeerLost, Received, Send
from miniray.core.messages import (
    AddHolder,
    DropHolders,
    ExecutionEnded,
    HolderAdded,
    RefGone,
    TasksDone,
    ValueIs,
    WhereIs,
)
from miniray.core.record import Effect
from miniray.core.task_spec import Value, contained
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess

Held_ = tuple[ProcessId, ObjectId]


class Held(Checker):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(cluster)
        self.after = {
            HolderAdded: self._confirmed,
            RefGone: self._came_too_late,
            ValueIs: self._learned,
            PeerLost: self._lost,
            ExecutionEnded: self._answers,
        }
        self.decided = {AddHolder: self._registers, WhereIs: self._asks, DropHolders: self._drops}
        self._receipts: dict[Held_, int] = {}
        self._asked: dict[Held_, bool] = {}  # True: and let go since
        self._reading: dict[ProcessId, dict[ObjectId, Value]] = {}  # values whose refs are not all registered yet

    def look(self) -> None:
        for me, values in self._reading.items():
            home = self.cluster.processes.get(me)
            if home is not None and home.alive:
                self._forget_confirmed(home)
                for object_id in values:
                    self._still_holds(home, object_id)
        if self.cluster.disturbed:
            return
        owners = {me: home.process.owner for me, home in self.cluster.processes.items() if home.process is not None}
        for home in self.cluster.processes.values():
            if home.alive and home.process is not None:
                for object_id in home.process.owner.held_of_others():
                    owner = owners.get(owner_of(object_id))
                    if owner is not None and not owner.knows(object_id):
                        told = f"{home.name} holds {show(object_id)}, which its owner has freed"
                        raise BrokenInvariant(1, told, object_id)

    def _came_too_late(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        message = event.message
        assert type(message) is RefGone
        if message.number and not self.cluster.disturbed:
            told = f"{home.name} came too late for {show(message.object_id)}, and nobody has died"
            raise BrokenInvariant(1, told, message.object_id)
        if not message.number:
            self._asked.pop((home.me, message.object_id), None)
        self._forget_confirmed(home)

    def _lost(self, home: SimulatedProcess, event: PeerLost, effects: list[Effect]) -> None:
        self._forget_confirmed(home)

    # ---- receipts ----

    def _registers(self, home: SimulatedProcess, effect: Send) -> None:
        message = effect.message
        assert type(message) is AddHolder
        self._receipts[home.me, message.object_id] = message.number

    def _confirmed(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        message = event.message
        assert type(message) is HolderAdded and home.process is not None
        last = self._receipts.get((home.me, message.object_id), 0)
        if message.number < last and not home.process.owner.awaits_confirmation(message.object_id):
            told = f"{home.name} takes receipt {message.number} of {show(message.object_id)} for its receipt {last}"
            raise BrokenInvariant(1, told, message.object_id)
        self._forget_confirmed(home)

    def _answers(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        assert isinstance(event.message, ExecutionEnded)
        dropped: tuple[ObjectId, ...] = ()
        for effect in effects:
            if type(effect) is Send and effect.peer == event.message.submitter:
                if type(effect.message) is DropHolders:
                    dropped = (*dropped, *effect.message.object_ids)
                elif type(effect.message) is TasksDone and dropped:
                    told = f"{home.name} sends a drop of {show(dropped[0])} before the result that registers"
                    raise BrokenInvariant(1, told, *dropped)

    # ---- reading ----

    def _forget_confirmed(self, home: SimulatedProcess) -> None:
        values = self._reading.get(home.me)
        if values:
            for object_id in [one for one, value in values.items() if not self._unregistered(home, value)]:
                del values[object_id]

    def _unregistered(self, home: SimulatedProcess, value: Value) -> list[ObjectId]:
        assert home.process is not None
        return [inner for inner in contained(value) if home.process.owner.awaits_confirmation(inner)]

    def _still_holds(self, home: SimulatedProcess, object_id: ObjectId) -> None:
        assert home.process is not None
        if not home.process.owner.knows(object_id):
            inner = self._unregistered(home, self._reading[home.me][object_id])
            told = f"{home.name} let {show(object_id)} go before its {show(inner[0])} was registered"
            raise BrokenInvariant(1, told, object_id, inner[0])

    def _asks(self, home: SimulatedProcess, effect: Send) -> None:
        message = effect.message
        assert type(message) is WhereIs
        self._asked[home.me, message.object_id] = False

    def _learned(self, home: SimulatedProcess, event: Received, effects: list[Effect]) -> None:
        message = event.message
        assert type(message) is ValueIs and home.process is not None
        key = (home.me, message.object_id)
        used = home.process.owner.values.get(message.object_id) is message.value
        if self._asked.pop(key, False) and used:
            told = f"{home.name} uses an answer of before it let {show(message.object_id)} go"
            raise BrokenInvariant(1, told, message.object_id)
        if used and self._unregistered(home, message.value):
            self._reading.setdefault(home.me, {})[message.object_id] = message.value

    def _drops(self, home: SimulatedProcess, effect: Send) -> None:
        message = effect.message
        assert type(message) is DropHolders and home.process is not None
        for object_id in message.object_ids:
            key = (home.me, object_id)
            if key in self._asked:
                self._asked[key] = True
            value = self._reading.get(home.me, {}).get(object_id)
            if value is not None and self._unregistered(home, value):
                self._still_holds(home, object_id)
