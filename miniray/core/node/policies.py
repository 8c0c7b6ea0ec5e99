"""Policies: who is served next, and who has to give back. Pure functions of the lease queue.

- *Depth first.* A request of an owner that is itself a blocked worker comes before all others, the latest first: its
  task cannot go on before its children have run, while granting a request of the driver would start another parent,
  which blocks too, and so on until the host is full of waiting processes. (In order of arrival, a call tree of 109
  tasks on two CPUs took 43 workers.)
- Otherwise in order of arrival, and nobody is overtaken by a request for the resource that it lacks.
- *Revoking.* An owner without any lease whose request waits gets one from the owner that has most; one that asks for
  nothing only waits for a worker, and lacks one when no more may be started (`full`).
"""

from __future__ import annotations

from miniray.core.ids import ProcessId
from miniray.core.node.lease_queue import Granted, LeaseQueue, Request
from miniray.core.resources import ResourcePool


def in_order(queue: LeaseQueue) -> list[Request]:
    blocked = {row.worker: None for row in queue.granted.values() if row.blocked}
    requests = list(queue.requests.values())
    nested = [one for one in reversed(requests) if one.owner in blocked]
    return nested + [one for one in requests if one.owner not in blocked]


def grantable(queue: LeaseQueue) -> list[Request]:
    """The requests that can be served now, all together, in the order in which they are served."""
    free = ResourcePool(tuple(queue.resources.free.items()))
    served: list[Request] = []
    short: dict[str, None] = {}  # resources that somebody before waits for
    for request in in_order(queue):
        if free.fits(request.demand) and not any(name in short for name, _ in request.demand):
            free.take(request.demand)
            served.append(request)
        else:
            lacking = [name for name, quantity in request.demand if free.free.get(name, 0) < quantity]
            short.update(dict.fromkeys(lacking or [name for name, _ in request.demand]))
    return served


def to_revoke(queue: LeaseQueue, *, full: bool = False) -> Granted | None:
    """A lease to ask back for an owner that has none while another has several, or idles on one."""
    having: dict[ProcessId, list[Granted]] = {}
    for row in queue.granted.values():
        if not row.for_actor:
            having.setdefault(row.owner, []).append(row)
    lacking = [one for one in queue.requests.values() if one.demand or (full and one.fork is None)]
    starving = [one for one in lacking if _starves(one, having)]
    if not starving or any(row.revoked for row in queue.granted.values()):
        return None
    candidates = [row for rows in having.values() for row in rows if not row.blocked and not row.revoked]
    candidates = [row for row in candidates if row.owner != starving[0].owner or row.demand != starving[0].demand]
    return max(candidates, key=lambda row: len(having[row.owner]), default=None)


def _starves(request: Request, having: dict[ProcessId, list[Granted]]) -> bool:
    """No lease of this owner could ever serve it: it waits for someone else to give back."""
    return not any(row.demand == request.demand for row in having.get(request.owner, []))
