"""Transfers: copies of other nodes' values that this node has made for their owners, or is making.

Owners ask for them (`MakeCopy`) and free them. Each lies alone in an extent of the node process, exactly as large: its
memory is reserved and filled by one effect, `FetchBytes`.

- Each request is answered, in bounded time unless the source's node neither answers nor dies: a fetch that fails says
  nothing about the value, and is tried again until the control store has declared that node dead.
- What belongs to a dead owner goes with its burial, when nobody here has views of its objects any more; what is still
  being fetched then, when that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import NODE_NUMBER, ObjectId, ProcessId, local_number, node_of, show
from miniray.core.machine import Send
from miniray.core.messages import CopyFailed, CopyMade
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import BytesFetched, FetchBytes, FreeRange
from miniray.core.record import Effect, Row
from miniray.core.task_spec import Place

FETCH_AGAIN_SECONDS = 0.1


class Transfer(Row):
    """One copy, from the request to its end."""

    owner: ProcessId
    number: int  # of the request, by its owner
    object_id: ObjectId
    source: Place
    offset: int = -1  # of its extent; -1: there is none yet
    landed: bool = False
    again_at: float | None = None  # the fetch has failed: when it is tried again
    doomed: bool = False  # its owner was buried while it was being fetched

    @property
    def is_fetching(self) -> bool:
        return not self.landed and self.again_at is None


class Transfers:
    def __init__(
        self,
        me: ProcessId,
        allocator: Allocator,
        dead_nodes: Mapping[ProcessId, None],
        emit: Callable[[Effect], None],
    ) -> None:
        self._me = me
        self._allocator = allocator
        self._dead_nodes = dead_nodes
        self._emit = emit
        self._rows: dict[int, Transfer] = {}  # by offset

    # ---- the beginning ----

    def begin(self, transfer: Transfer) -> bool:
        """Whether there is room for it."""
        found = self._allocator.grant(self._me, transfer.source.size_bytes, exactly=True)
        if found is None:
            return False
        transfer.offset = found[0]
        self._rows[transfer.offset] = transfer
        self._fetch(transfer)
        return True

    def _fetch(self, transfer: Transfer) -> None:
        if node_of(transfer.source.holder) in self._dead_nodes:
            self._fail(transfer, None)
            return
        transfer.again_at = None
        self._emit(FetchBytes(transfer.object_id, transfer.source, self._place(transfer)))

    def _place(self, transfer: Transfer) -> Place:
        return Place(self._me, transfer.offset, transfer.source.size_bytes)

    def refuse(self, transfer: Transfer) -> None:
        """There is no room, also after every holder was asked to give back."""
        free, capacity = self._allocator.free_bytes, self._allocator.capacity_bytes
        message = (
            f"a copy of {transfer.source.size_bytes:,} bytes does not fit on the node where it is needed: {free:,} of "
            f"{capacity:,} bytes are free there, perhaps scattered"
        )
        self._fail(transfer, Failure(FailureKind.STORE_FULL, show(transfer.object_id), message))

    # ---- what comes of it ----

    def fetched(self, now: float, event: BytesFetched) -> None:
        transfer = self._rows[event.into.offset]
        if transfer.doomed:
            self._release(transfer)
        elif event.done:
            transfer.landed = True
            self._emit(Send(transfer.owner, CopyMade(transfer.number, transfer.object_id, event.into)))
        elif event.full:
            self.refuse(transfer)
        elif node_of(transfer.source.holder) in self._dead_nodes:
            self._fail(transfer, None)
        else:
            transfer.again_at = now + FETCH_AGAIN_SECONDS

    def _fail(self, transfer: Transfer, failure: Failure | None) -> None:
        self._emit(Send(transfer.owner, CopyFailed(transfer.number, failure)))
        self._release(transfer)

    def _release(self, transfer: Transfer) -> None:
        if self._rows.pop(transfer.offset, None) is not None:
            freed = self._allocator.give_back(self._me, transfer.offset)
            if freed is not None:
                self._emit(FreeRange(*freed))

    # ---- the end ----

    def free(self, object_id: ObjectId, place: Place) -> None:
        """Its owner has let it go. Ignored unless object and place match."""
        transfer = self._rows.get(place.offset)
        if transfer is not None and transfer.landed and transfer.object_id == object_id:
            self._release(transfer)

    def bury(self, owner: ProcessId) -> None:
        """Nobody here looks at this dead owner's objects any more; a node's id: of all owners there."""
        whole_node = local_number(owner) == NODE_NUMBER
        for transfer in list(self._rows.values()):
            if (node_of(transfer.owner) if whole_node else transfer.owner) != owner:
                continue
            if transfer.is_fetching:
                transfer.doomed = True
            else:
                self._release(transfer)

    def node_died(self, node: ProcessId) -> None:
        """What was to be fetched there again cannot be."""
        for transfer in list(self._rows.values()):
            if transfer.again_at is not None and node_of(transfer.source.holder) == node:
                self._fail(transfer, None)

    # ---- time, proof ----

    def deadline(self) -> float | None:
        return min((one.again_at for one in self._rows.values() if one.again_at is not None), default=None)

    def tick(self, now: float) -> None:
        for transfer in list(self._rows.values()):
            if transfer.again_at is not None and transfer.again_at <= now:
                self._fetch(transfer)

    def statistics(self) -> dict[str, int]:
        return {"copies_kept": len(self._rows)}
