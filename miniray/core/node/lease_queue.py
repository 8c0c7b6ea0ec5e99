"""The lease queue: what owners have asked this node for, and what it has granted.

Leases are unique in the session: a node counts from its index on.

A request is named by (owner, number), a grant by its lease: releasing it twice is harmless (55469). Resources
are taken with the grant; a blocked worker's CPU is lent to others meanwhile, and that debt is on the lease.
"""

from __future__ import annotations

from miniray.core.ids import LeaseId, ProcessId, TaskId, node_of
from miniray.core.record import Row
from miniray.core.resources import Demand, ResourcePool, cpu_part


RequestKey = tuple[ProcessId, int]  # its owner, its number there


class Request(Row):
    owner: ProcessId
    number: int
    demand: Demand
    for_actor: bool
    spilled: int = 0
    fork: TaskId | None = None  # it is served by a process that its owner forks for it, and by no other

    @property
    def key(self) -> RequestKey:
        return self.owner, self.number


class Granted(Row):
    lease: LeaseId
    owner: ProcessId
    worker: ProcessId
    demand: Demand
    for_actor: bool
    blocked: bool = False  # its CPU serves others
    revoked: bool = False  # the owner was asked to give it back


class LeaseQueue:
    def __init__(self, resources: ResourcePool, first_lease: int = 0) -> None:
        self.resources = resources
        self.requests: dict[RequestKey, Request] = {}
        self.granted: dict[LeaseId, Granted] = {}
        self._next_lease = first_lease

    def add(self, request: Request) -> None:
        self.requests[request.key] = request

    def cancel(self, owner: ProcessId, number: int) -> Request | None:
        """It may have been granted already; then the owner returns the lease."""
        return self.requests.pop((owner, number), None)

    def grant(self, request: Request, worker: ProcessId) -> Granted:
        del self.requests[request.key]
        self.resources.take(request.demand)
        self._next_lease += 1
        lease = LeaseId(self._next_lease)
        row = self.granted[lease] = Granted(lease, request.owner, worker, request.demand, request.for_actor)
        return row

    def release(self, lease: LeaseId) -> Granted | None:
        row = self.granted.pop(lease, None)
        if row is None:
            return None
        self.unblock(row)
        self.resources.give(row.demand)
        return row

    def block(self, row: Granted) -> None:
        if not row.blocked:
            row.blocked = True
            self.resources.give(cpu_part(row.demand))

    def unblock(self, row: Granted) -> None:
        if row.blocked:
            row.blocked = False
            self.resources.take(cpu_part(row.demand))

    def owners_on(self, node: ProcessId) -> list[ProcessId]:
        """Who of that node asks for something here, or has it."""
        owners = [row.owner for row in self.requests.values()] + [row.owner for row in self.granted.values()]
        return list({owner: None for owner in owners if node_of(owner) == node})

    def owner_lost(self, owner: ProcessId) -> list[Granted]:
        """Forget its requests; the leases that it held are returned for whoever ends them."""
        for key in [key for key in self.requests if key[0] == owner]:
            del self.requests[key]
        return [row for row in self.granted.values() if row.owner == owner]

    def check(self) -> None:
        """Available + used = total + lent by blocked workers, per resource (PROTOCOL.md, invariant 5)."""
        for name, total in self.resources.total.items():
            used = sum(dict(row.demand).get(name, 0) for row in self.granted.values())
            lent = sum(dict(cpu_part(row.demand)).get(name, 0) for row in self.granted.values() if row.blocked)
            free = self.resources.free[name]
            assert free + used == total + lent, f"{name}: free {free} + used {used} != total {total} + lent {lent}"
