"""Adoption: values that outlive the process that made them (`put(owner=)`, PROTOCOL.md section 4).

The creator makes the id, in the new owner's name, stores the bytes under it and offers them. The owner registers with
the owners of the refs inside, has the creator as the first holder, and answers; the ref leaves the creator's `put` only
then, since nobody else could register before. If the owner dies first, the creator frees what it had stored: nobody
else has ever seen it, and the node may have buried that owner before the bytes were there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miniray.core.ids import ObjectId, ProcessId, owner_of, return_index, task_of
from miniray.core.machine import Send
from miniray.core.messages import AdoptValue, HandoffDone, ValueAdopted
from miniray.core.owner.completion import Completion
from miniray.core.owner.events import ValueOffered
from miniray.core.owner.handoffs import Transfer
from miniray.core.owner.holding import Holding, owner_died
from miniray.core.owner.references import Asking, Borrowed, Owned
from miniray.core.record import Effect, Event, Message
from miniray.core.task_spec import Failed, Stored, contained

Handler = Callable[[float, Any, ProcessId], None]


class Adoption:
    def __init__(self, holding: Holding, completion: Completion, emit: Callable[[Effect], None]) -> None:
        self._holding = holding
        self._learned = completion.learned
        self._emit = emit
        self._offered: dict[ObjectId, ValueOffered] = {}
        self.on: Mapping[type[Event] | type[Message], Handler] = {
            ValueOffered: self._on_value_offered,
            AdoptValue: self._on_adopt_value,
            ValueAdopted: self._on_value_adopted,
        }

    def _on_value_offered(self, now: float, event: ValueOffered, peer: ProcessId) -> None:
        object_id, value = event.object_id, event.value
        owner, holding = owner_of(object_id), self._holding
        if owner in holding.lost:
            holding.references.rows[object_id] = Borrowed(local=1, orphaned=True)
            holding.discard(object_id, value)
            self._learned(([object_id], holding.set_value(object_id, Failed(owner_died(object_id)))))
            return
        holding.references.rows[object_id] = Borrowed(local=1, registered=True, asking=Asking.ASKED)
        self._offered[object_id] = event
        inner = list(contained(value))
        if inner:
            holding.hold_arguments(inner)
            holding.handoffs.pin((owner, task_of(object_id), return_index(object_id)), inner)
        self._emit(Send(owner, AdoptValue(object_id, value, event.site)))

    def _on_adopt_value(self, now: float, message: AdoptValue, peer: ProcessId) -> None:
        object_id, value = message.object_id, message.value
        task, index = task_of(object_id), return_index(object_id)
        if object_id in self._holding.references.rows:  # the link broke before the answer was read
            self._emit(Send(peer, ValueAdopted(object_id)))
            if contained(value) and (task, index) not in self._holding.handoffs.open_from(peer):
                self._emit(Send(peer, HandoffDone(task, index)))
            return
        self._holding.references.rows[object_id] = Owned(holders={peer: None})
        transfer = Transfer(sender=(peer, task, index))
        self._holding.set_value(object_id, value, transfer)
        if type(value) is Stored:
            self._holding.lineage.put(object_id, message.site)
        self._emit(Send(peer, ValueAdopted(object_id)))
        if contained(value) and not transfer.left:
            self._emit(Send(peer, HandoffDone(task, index)))

    def _on_value_adopted(self, now: float, message: ValueAdopted, peer: ProcessId) -> None:
        value = self._offered.pop(message.object_id).value
        self._learned(self._holding.learn(message.object_id, value))

    def is_offered(self, object_id: ObjectId) -> bool:
        return object_id in self._offered

    def offer_again(self, owner: ProcessId) -> None:
        """Offers have got lost, or their answers."""
        for object_id, offered in self._offered.items():
            if object_id[:8] == owner:
                self._emit(Send(owner, AdoptValue(object_id, offered.value, offered.site)))

    def owner_lost(self, owner: ProcessId) -> None:
        for object_id in [one for one in self._offered if one[:8] == owner]:
            self._holding.discard(object_id, self._offered.pop(object_id).value)

    def statistics(self) -> dict[str, int]:
        return {"offered": len(self._offered)}
