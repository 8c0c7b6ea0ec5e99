"""Deaths: what the node has told of processes that are gone, and what waits for the end of their links.

News of a death may overtake frames that the dead had sent: its link is first drained to its end (bounded), and only
then does the death count (PROTOCOL.md section 2). What asks about the dead is answered after that: claims on places of
a dead holder (a result that names one may still come, 54904), and whether views of a dead owner's objects are left (a
push of it may still be read).

With a node everything on it dies, known or not; nobody has seen how far its workers had come.
"""

from __future__ import annotations

from miniray.core.failures import NODE_DIED_STATUS, DeathCause
from miniray.core.ids import LeaseId, ProcessId, node_of
from miniray.core.messages import ClaimPlaces, ProcessDied

DRAIN_SECONDS = 0.2  # how long the link of a process known to be dead may still bring what it had sent
MAX_DEATHS_REMEMBERED = 4096


class Deaths:
    def __init__(self) -> None:
        self.known: dict[ProcessId, ProcessDied] = {}
        self.nodes: dict[ProcessId, None] = {}  # dead ones, for ever
        self.claims: list[ClaimPlaces] = []
        self.views_asked: dict[ProcessId, None] = {}
        self.draining: dict[ProcessId, float] = {}

    def told(self, now: float, message: ProcessDied, *, link_has_ended: bool) -> None:
        if len(self.known) >= MAX_DEATHS_REMEMBERED:
            del self.known[next(iter(self.known))]
        self.known[message.process] = message
        if not link_has_ended:
            self.draining[message.process] = now + DRAIN_SECONDS

    def link_ended(self, peer: ProcessId) -> ProcessDied | None:
        """The news of its death, if it has come."""
        self.draining.pop(peer, None)
        if self.nodes and node_of(peer) in self.nodes:
            return died_with_its_node(peer)
        return self.known.get(peer)

    def take_claims(self) -> list[ClaimPlaces]:
        claims, self.claims = self.claims, []
        return claims

    def drained(self, now: float) -> list[ProcessId]:
        """Those whose links have had their time."""
        over = [died for died, at in self.draining.items() if at <= now]
        for died in over:
            del self.draining[died]
        return over

    def statistics(self) -> dict[str, int]:
        return {"claims": len(self.claims), "views_asked": len(self.views_asked), "draining": len(self.draining)}


def died_with_its_node(process: ProcessId) -> ProcessDied:
    return ProcessDied(process, DeathCause(0, NODE_DIED_STATUS), LeaseId(0), 0)
