"""Hand-offs: a ref never travels without a pin, and the sender keeps its own until it has heard (PROTOCOL.md 4).

Two sides of the same rule, one process may be on both at once:

- *sending*: `pins`, by (receiver, task, attempt): what this process holds on behalf of a transfer that its
  receiver has not ended with `HandoffDone`. A receiver that dies ends all of them.
- *receiving*: `Transfer`s that wait for owners to confirm receipts. `AddHolder` is numbered on each link, and a
  confirmation ends the waits for receipts up to its number only: one for an earlier receipt must not be taken
  for a later one (shown necessary by search: `stale_confirmation`). It is owed also when this process has
  dropped the ref meanwhile, and when the answer was `RefGone`; an owner that dies ends its waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from miniray.core.ids import ObjectId, ProcessId, TaskId
from miniray.core.record import Row

Key = tuple[ProcessId, TaskId, int]


class Transfer(Row):
    """Refs on their way to this process, until every owner has confirmed."""

    left: int = 0
    sender: Key | None = None  # who waits for `HandoffDone`, of which task and attempt
    outer: ObjectId | None = None  # or: the object through which they were read, which is held so long


class Handoffs:
    def __init__(self) -> None:
        self.pins: dict[Key, list[ObjectId]] = {}
        self._in_doubt: dict[ProcessId, list[Key]] = {}  # those that a receiver has yet to say that it needs
        self._waits: dict[ProcessId, dict[ObjectId, list[tuple[int, Transfer]]]] = {}
        self._receipts: dict[ProcessId, int] = {}
        self._open: dict[ProcessId, dict[ObjectId, int]] = {}
        self._viewed: dict[ObjectId, list[Transfer]] = {}  # with whose places came; their owners are dead

    # ---- sending ----

    def pin(self, key: Key, object_ids: list[ObjectId]) -> None:
        self.pins.setdefault(key, []).extend(object_ids)

    def unpin(self, key: Key) -> list[ObjectId]:
        """What may be let go; nothing for a transfer that has ended already."""
        return self.pins.pop(key, [])

    def doubt(self, receiver: ProcessId, may_be_over: Callable[[Key], bool]) -> None:
        """News that a transfer to it is over may have got lost."""
        self._in_doubt[receiver] = [key for key in self.pins if key[0] == receiver and may_be_over(key)]

    def unpin_others(self, receiver: ProcessId, needed: list[tuple[TaskId, int]]) -> list[ObjectId]:
        """It has said which are not."""
        over = [key for key in self._in_doubt.pop(receiver, []) if key[1:] not in needed]
        return [object_id for key in over for object_id in self.unpin(key)]

    def receiver_lost(self, receiver: ProcessId) -> list[ObjectId]:
        freed: list[ObjectId] = []
        self._in_doubt.pop(receiver, None)
        for key in [key for key in self.pins if key[0] == receiver]:
            freed.extend(self.pins.pop(key))
        return freed

    # ---- receiving ----

    def next_receipt(self, object_id: ObjectId) -> int:
        """The number of the `AddHolder` that is being sent for it."""
        owner = ProcessId(object_id[:8])
        number = self._receipts[owner] = self._receipts.get(owner, 0) + 1
        self._open.setdefault(owner, {})[object_id] = number
        return number

    def is_open(self, object_id: ObjectId) -> bool:
        """Whether the last receipt for it has not been confirmed."""
        return object_id in self._open.get(ProcessId(object_id[:8]), {})

    def expect(self, object_id: ObjectId, transfer: Transfer) -> None:
        """Let `transfer` wait for the open receipt of this object."""
        owner = ProcessId(object_id[:8])
        transfer.left += 1
        waits = self._waits.setdefault(owner, {}).setdefault(object_id, [])
        waits.append((self._open[owner][object_id], transfer))

    def confirm(self, object_id: ObjectId, number: int) -> list[Transfer]:
        """Transfers that this confirmation completes."""
        owner = ProcessId(object_id[:8])
        receipts = self._open.get(owner, {})
        if receipts.get(object_id, number + 1) <= number:
            del receipts[object_id]
        by_object = self._waits.get(owner, {})
        waits = by_object.pop(object_id, [])
        later = [wait for wait in waits if wait[0] > number]
        if later:
            by_object[object_id] = later
        return self._count_down([wait[1] for wait in waits if wait[0] <= number])

    def close_others(self, owner: ProcessId, held: Mapping[ObjectId, int]) -> list[Transfer]:
        """Receipts of what is not held any more need no confirmation: the transfers that waited only for those."""
        open_receipts, by_object = self._open.get(owner, {}), self._waits.get(owner, {})
        for object_id in [one for one in open_receipts if one not in held]:
            del open_receipts[object_id]
        waits = [by_object.pop(one) for one in list(by_object) if one not in held]
        return self._count_down([transfer for some in waits for _, transfer in some])

    def open_from(self, sender: ProcessId) -> list[tuple[TaskId, int]]:
        """Transfers from that process which are not over."""
        waits = [wait[1] for by_object in self._waits.values() for some in by_object.values() for wait in some]
        waits += [transfer for some in self._viewed.values() for transfer in some]
        return [one.sender[1:] for one in waits if one.sender is not None and one.sender[0] == sender]

    def owner_lost(self, owner: ProcessId) -> list[Transfer]:
        """Transfers that were waiting for this owner alone."""
        self._receipts.pop(owner, None)
        self._open.pop(owner, None)
        by_object = self._waits.pop(owner, {})
        return self._count_down([transfer for waits in by_object.values() for _, transfer in waits])

    def wait_for_views(self, object_id: ObjectId, transfer: Transfer) -> None:
        """A dead owner cannot count this process, which has views of that place: whoever passed it on holds it until
        they are gone. (Its node may have been told already that there are none here.)"""
        transfer.left += 1
        self._viewed.setdefault(object_id, []).append(transfer)

    def waits_for(self, owner: ProcessId) -> list[tuple[ObjectId, Transfer]]:
        by_object = self._waits.get(owner, {})
        return [(object_id, transfer) for object_id, waits in by_object.items() for _, transfer in waits]

    def views_gone(self, object_id: ObjectId) -> list[Transfer]:
        return self._count_down(self._viewed.pop(object_id, []))

    @staticmethod
    def _count_down(transfers: list[Transfer]) -> list[Transfer]:
        finished = []
        for transfer in transfers:
            transfer.left -= 1
            if transfer.left == 0:
                finished.append(transfer)
        return finished

    def statistics(self) -> dict[str, int]:
        waiting = sum(len(waits) for by_object in self._waits.values() for waits in by_object.values())
        return {"pins": len(self.pins), "receipts_waiting": waiting, "transfers_viewed": len(self._viewed)}
