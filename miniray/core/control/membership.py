"""Membership: which nodes there are, what each has, and that a dead one is dead for all and for ever.

| state | where such a node is found |
|---|---|
| ALIVE | a row of `members` |
| FENCED | a row whose `lost_at` is set: its link broke; it is to have ended itself before anybody hears of it |
| DEAD | nowhere: it comes back under a new index, or not at all |

- A node that loses the control store ends itself and its processes at once. It is declared dead only `FENCE_SECONDS`
  after the loss was seen here, so that what is started again in its place never runs beside it.
- Every node hears of the others from here, and tells its own processes: a star, so that whoever hears of a death from
  its node hears of it after all that this node has said before.
- Loads are passed on as they come. They are hints, old by two hops when they arrive.
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.core.ids import ProcessId, node_of
from miniray.core.machine import Send
from miniray.core.messages import LoadOf, NodeAdded, NodeDied, NodeLoad, ProcessDied, RegisterNode
from miniray.core.record import Effect, Row
from miniray.core.resources import Demand

FENCE_SECONDS = 0.5


class Member(Row):
    resources: Demand
    lost_at: float | None = None


class Membership:
    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self.members: dict[ProcessId, Member] = {}

    def register(self, node: ProcessId, message: RegisterNode) -> None:
        for other in self._reachable(but=node):
            self._emit(Send(other, NodeAdded(node, message.resources)))
            self._emit(Send(node, NodeAdded(other, self.members[other].resources)))
        self.members[node] = Member(message.resources)

    def load(self, node: ProcessId, message: NodeLoad) -> None:
        self._tell_others(node, LoadOf(node, message.free, message.queued))

    def process_died(self, node: ProcessId, message: ProcessDied) -> None:
        if node_of(message.process) == node:  # only its own node has a reaper's word for it
            self._tell_others(node, message)

    def lost(self, now: float, node: ProcessId) -> None:
        member = self.members.get(node)
        if member is not None and member.lost_at is None:
            member.lost_at = now

    def _reachable(self, but: ProcessId) -> list[ProcessId]:
        return [node for node, member in self.members.items() if node != but and member.lost_at is None]

    def _tell_others(self, node: ProcessId, message: LoadOf | ProcessDied | NodeDied) -> None:
        for other in self._reachable(but=node):
            self._emit(Send(other, message))

    def deadline(self) -> float | None:
        lost = [member.lost_at for member in self.members.values() if member.lost_at is not None]
        return min(lost) + FENCE_SECONDS if lost else None

    def tick(self, now: float) -> None:
        for node, member in list(self.members.items()):
            if member.lost_at is not None and member.lost_at + FENCE_SECONDS <= now:
                del self.members[node]
                self._tell_others(node, NodeDied(node))

    def statistics(self) -> dict[str, int]:
        return {"fenced_nodes": sum(1 for member in self.members.values() if member.lost_at is not None)}
