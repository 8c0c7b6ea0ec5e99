"""Other nodes: what this node knows of them, and what it lets them know (PROTOCOL.md section 5.2).

All of it comes from the control store and is old when it arrives: it decides where a request is sent on to, never
what is granted there. What has been sent to a node counts against it until it says something new, or a burst of
requests would all run to the one node that was free a moment ago. It may say nothing new (the request was cancelled,
or came from there), so that lapses; and what waits is looked at again then, or it would wait for news that never come.
"""

from __future__ import annotations

from collections.abc import Callable

from miniray.core.ids import ProcessId, node_of
from miniray.core.machine import Send
from miniray.core.messages import LoadOf, NodeLoad
from miniray.core.record import Effect, Row
from miniray.core.resources import Demand, ResourcePool

LOAD_SECONDS = 0.05  # a load that has changed is told this often at most
LAPSE_SECONDS = 0.5  # so long does what was sent to a node count against it
MAX_DEATHS_REMEMBERED = 4096


class OtherNode(Row):
    resources: ResourcePool  # in all, and as much as it has said to be free
    said: LoadOf
    queued: int = 0


class OtherNodes:
    def __init__(self, control: ProcessId | None, emit: Callable[[Effect], None]) -> None:
        self._control = control
        self._emit = emit
        self.rows: dict[ProcessId, OtherNode] = {}
        self.dead: dict[ProcessId, None] = {}  # for ever: an index is not given again
        self._dead_processes: dict[ProcessId, None] = {}  # of nodes that live
        self._told: NodeLoad | None = None
        self._tell_at = 0.0
        self._untold = False
        self._look_at: float | None = None

    # ---- what is heard ----

    def added(self, node: ProcessId, resources: Demand) -> None:
        """Of one that is known already nothing is forgotten: the control store has begun again, or the link to it."""
        if node not in self.dead and node not in self.rows:
            self.rows[node] = OtherNode(ResourcePool(resources), LoadOf(node, resources, 0))

    def load(self, message: LoadOf) -> None:
        row = self.rows.get(message.node)
        if row is not None:
            row.said = message
            _believe(row)

    def process_died(self, process: ProcessId) -> bool:
        """Whether that is news."""
        if process in self._dead_processes or node_of(process) in self.dead:
            return False
        if len(self._dead_processes) >= MAX_DEATHS_REMEMBERED:
            del self._dead_processes[next(iter(self._dead_processes))]
        self._dead_processes[process] = None
        return True

    def node_died(self, node: ProcessId) -> bool:
        """Whether that is news."""
        if node in self.dead:
            return False
        self.dead[node] = None
        self.rows.pop(node, None)
        for process in [one for one in self._dead_processes if node_of(one) == node]:
            del self._dead_processes[process]
        return True

    def may_live(self, process: ProcessId) -> bool:
        """Nothing else is known of it, here."""
        return process not in self._dead_processes and node_of(process) not in self.dead

    # ---- spilling ----

    def choose(self, demand: Demand, *, even_busy: bool) -> ProcessId | None:
        """The node with the shortest queue that has room for it now; `even_busy`: or that could have room some day."""
        best: tuple[bool, int] | None = None
        found: ProcessId | None = None
        for node, row in self.rows.items():
            has_room = row.resources.fits(demand) and not row.queued
            if has_room or (even_busy and row.resources.could_ever_fit(demand)):
                if best is None or (not has_room, row.queued) < best:
                    best, found = (not has_room, row.queued), node
        return found

    def sent_to(self, now: float, node: ProcessId, demand: Demand) -> None:
        self.look_again(now)
        row = self.rows[node]
        if row.resources.fits(demand):
            row.resources.take(demand)
        else:
            row.queued += 1

    def look_again(self, now: float) -> None:
        """Something waits, or will, that no news need ever come for."""
        if self._look_at is None:
            self._look_at = now + LAPSE_SECONDS

    def lapsed(self, now: float) -> bool:
        """Whether it is time to look at what waits; the others are as free as they have said, then."""
        if self._look_at is None or now < self._look_at:
            return False
        self._look_at = None
        for row in self.rows.values():
            _believe(row)
        return True

    # ---- what is told ----

    def report(self, now: float, resources: ResourcePool, queued: int) -> None:
        """Called when it may have changed, while this node is registered."""
        assert self._control is not None
        load = NodeLoad(tuple((name, max(free, 0)) for name, free in resources.free.items()), queued)
        self._untold = load != self._told
        if self._untold and now >= self._tell_at:
            self._untold = False
            self._told, self._tell_at = load, now + LOAD_SECONDS
            self._emit(Send(self._control, load))

    def forget_what_was_told(self) -> None:
        """The control store may not know it any more: all of it is told anew."""
        self._told, self._untold = None, False

    def deadline(self) -> float | None:
        times = (self._tell_at if self._untold else None, self._look_at)
        return min((at for at in times if at is not None), default=None)


def _believe(row: OtherNode) -> None:
    row.resources.free.update(row.said.free)
    row.queued = row.said.queued
