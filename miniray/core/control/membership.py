"""Membership: which nodes there are, what each has, and that a dead one is dead for all and for ever.

| state | where such a node is found | what is known of it |
|---|---|---|
| AWAITED | `members` | the log names it, and it has not registered since this process began |
| JOINING | `members` | it has registered, and its record is not on disk yet |
| ALIVE | `members` | it has registered, and others hear of it |
| FENCED | `members` | its link was lost; it is to have ended itself before anybody hears of it |
| DEAD | `dead` | it comes back under a new index, or not at all |

- *A node that lives is on disk before it is told*: neither it nor another hears of its registration before.
  So the log names each node of which anybody may know, and a store that has crashed asks for it: its process is
  there, or its death is found out.
- *A death is told at once*, whatever the disk does (64702): everybody who waits for the dead node waits for these news.
  Nothing is lost by that. It is logged after, and if the store crashes before, those who have heard it say so when they
  register; and if none of them lives either, the dead node is asked for, and found dead again.
- Not in the log, for the nodes tell it again: loads, and the deaths of single processes. *Whoever registers says all
  that it knows, and is told all that is known*: on its first link, on one that was made again, to a store that has
  begun again. What was under way on an old link is never asked after.
- A node that cannot reach the store ends itself and its processes at once; it works on while the store itself is away.
  It is declared dead only when its end is certain: `FENCE_SECONDS` after its process was found gone, for its workers;
  `UNREACHABLE_FENCE_SECONDS` after it could not be reached, for each of two may have begun to wait for the other at a
  moment of its own. So what is started again in its place never runs beside it.
- Every node hears of the others from here, and tells its own processes: a star, so that whoever hears of a death from
  its node hears of it after all that this node has said before.
- Loads are passed on as they come. They are hints, old by two hops when they arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from miniray.core.control.events import Log
from miniray.core.ids import ProcessId, node_of
from miniray.core.machine import Send
from miniray.core.messages import (
    AskRegistration,
    LoadOf,
    NodeAdded,
    NodeDied,
    NodeLoad,
    NodeRegistered,
    ProcessDied,
    RegisterNode,
)
from miniray.core.record import Effect, Row
from miniray.core.resources import Demand

FENCE_SECONDS = 0.5
UNREACHABLE_FENCE_SECONDS = 5.0
MAX_DEATHS_REMEMBERED = 1 << 14  # of processes whose nodes live


class MemberState(Enum):
    AWAITED = 0
    JOINING = 1
    ALIVE = 2
    FENCED = 3


_HERE = (MemberState.JOINING, MemberState.ALIVE)  # those with a link to this process


class Member(Row):
    resources: Demand
    record: int  # its place in the log, from 1
    state: MemberState = MemberState.AWAITED
    dead_at: float = 0.0  # of a FENCED one
    load: LoadOf | None = None


class Membership:
    def __init__(self, emit: Callable[[Effect], None], log: Sequence[NodeAdded | NodeDied]) -> None:
        self._emit = emit
        self.members: dict[ProcessId, Member] = {}
        self.dead: dict[ProcessId, None] = {}
        self._deaths: dict[ProcessId, ProcessDied] = {}
        self._appended = self._on_disk = len(log)
        for place, record in enumerate(log, 1):
            if isinstance(record, NodeAdded):
                self.members[record.node] = Member(record.resources, place)
            else:
                self.dead[record.node] = None
                self.members.pop(record.node, None)

    def _log(self, record: NodeAdded | NodeDied) -> int:
        self._appended += 1
        self._emit(Log(record))
        return self._appended

    # ---- who is there ----

    def begin(self) -> None:
        """Ask for each node that the log names. One whose process is gone is lost by that."""
        for node in self.members:
            self._emit(Send(node, AskRegistration()))

    def register(self, node: ProcessId, message: RegisterNode) -> None:
        for dead in message.dead:
            self._bury(dead)
        if node in self.dead:
            self._emit(Send(node, NodeDied(node)))
            return
        member = self.members.get(node)
        if member is None:
            added = NodeAdded(node, message.resources)
            member = self.members[node] = Member(message.resources, self._log(added))
        member.state = MemberState.JOINING
        for dead in self.dead:
            if dead not in message.dead:
                self._emit(Send(node, NodeDied(dead)))
        for death in self._deaths.values():
            if node_of(death.process) != node:
                self._emit(Send(node, death))
        for death in message.deaths:
            self.process_died(node, death)
        if member.record <= self._on_disk:
            self._welcome(node, member)

    def logged(self, upto: int) -> None:
        self._on_disk = upto
        for node, member in list(self.members.items()):
            if member.state is MemberState.JOINING and member.record <= upto:
                self._welcome(node, member)

    def _welcome(self, node: ProcessId, member: Member) -> None:
        member.state = MemberState.ALIVE
        self._emit(Send(node, NodeRegistered()))
        for other in self._reachable(but=node):
            row = self.members[other]
            if row.state is MemberState.ALIVE:
                self._emit(Send(other, NodeAdded(node, member.resources)))
                self._emit(Send(node, NodeAdded(other, row.resources)))
                if row.load is not None:
                    self._emit(Send(node, row.load))

    # ---- what is passed on ----

    def load(self, node: ProcessId, message: NodeLoad) -> None:
        member = self.members.get(node)
        if member is not None and member.state in _HERE:
            member.load = LoadOf(node, message.free, message.queued)
            self._tell_others(node, member.load)

    def process_died(self, node: ProcessId, message: ProcessDied) -> None:
        died = message.process
        if node_of(died) != node or node not in self.members or died in self._deaths:
            return  # only its own node has a reaper's word for it
        if len(self._deaths) >= MAX_DEATHS_REMEMBERED:
            del self._deaths[next(iter(self._deaths))]
        self._deaths[died] = message
        self._tell_others(node, message)

    def _reachable(self, but: ProcessId) -> list[ProcessId]:
        return [node for node, member in self.members.items() if node != but and member.state in _HERE]

    def _tell_others(self, node: ProcessId, message: LoadOf | ProcessDied | NodeDied) -> None:
        for other in self._reachable(but=node):
            self._emit(Send(other, message))

    # ---- who is lost ----

    def lost(self, now: float, node: ProcessId, *, gone: bool) -> None:
        member = self.members.get(node)
        if member is None:
            return
        dead_at = now + (FENCE_SECONDS if gone else UNREACHABLE_FENCE_SECONDS)
        member.dead_at = min(member.dead_at, dead_at) if member.state is MemberState.FENCED else dead_at
        member.state = MemberState.FENCED

    def _fenced(self) -> dict[ProcessId, float]:
        return {node: one.dead_at for node, one in self.members.items() if one.state is MemberState.FENCED}

    def deadline(self) -> float | None:
        return min(self._fenced().values(), default=None)

    def tick(self, now: float) -> None:
        for node, dead_at in self._fenced().items():
            if dead_at <= now:
                self._bury(node)

    def _bury(self, node: ProcessId) -> None:
        if node in self.dead:
            return
        self.dead[node] = None
        self._tell_others(node, NodeDied(node))
        member = self.members.pop(node, None)
        if member is not None and member.state in _HERE:
            self._emit(Send(node, NodeDied(node)))  # others have heard of its death: it ends itself
        for died in [one for one in self._deaths if node_of(one) == node]:
            del self._deaths[died]
        self._log(NodeDied(node))

    # ---- proof ----

    def check(self) -> None:
        assert self._on_disk <= self._appended, "more is on disk than was ever logged"
        for node, member in self.members.items():
            assert node not in self.dead, "a dead node is among the living: an index is not given twice"
            told_of = member.state is MemberState.ALIVE
            assert member.record <= self._on_disk or not told_of, "a node was told of before it was on disk"
        for died in self._deaths:
            assert node_of(died) in self.members, "the death of a process outlives its node"

    def statistics(self) -> dict[str, int]:
        states = [member.state for member in self.members.values()]
        return {
            "fenced_nodes": states.count(MemberState.FENCED),
            "awaited_nodes": states.count(MemberState.AWAITED),
            "unlogged_records": self._appended - self._on_disk,
        }
