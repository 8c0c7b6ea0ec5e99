"""Places: this process's share of the arena, as its owner role sees it (PROTOCOL.md section 4, "Places are lent").

It asks the node for extents, gives them back, frees places in them that their owners have let go, and answers what the
node asks about the dead. Bytes never come here: the store client of this process does what the effects say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miniray.core.ids import ProcessId, node_of
from miniray.core.machine import Send
from miniray.core.messages import (
    ClaimPlaces,
    ExtentGranted,
    ExtentRefused,
    ExtentsReturned,
    FreePlaces,
    NoViewsOf,
    OwnerBuried,
    PlacesClaimed,
    ReclaimExtents,
    RequestExtent,
    ViewsOf,
)
from miniray.core.owner.deaths import Deaths
from miniray.core.owner.events import (
    AddExtent,
    DenyExtent,
    ExtentNeeded,
    ExtentsGivenBack,
    FreeStored,
    FreeStoredOf,
    GiveBackExtents,
)
from miniray.core.owner.holding import Holding
from miniray.core.record import Effect, Event, Message

Handler = Callable[[float, Any, ProcessId], None]


class Places:
    def __init__(self, node: ProcessId, holding: Holding, deaths: Deaths, emit: Callable[[Effect], None]) -> None:
        self._node = node
        self._holding = holding
        self._deaths = deaths
        self._emit = emit
        self.on: Mapping[type[Event] | type[Message], Handler] = {
            ExtentNeeded: self._on_extent_needed,
            ExtentsGivenBack: self._on_extents_given_back,
            ExtentGranted: self._on_extent_granted,
            ExtentRefused: self._on_extent_refused,
            ReclaimExtents: self._on_reclaim_extents,
            FreePlaces: self._on_free_places,
            ClaimPlaces: self._on_claim_places,
            ViewsOf: self._on_views_of,
            OwnerBuried: self._on_owner_buried,
        }

    def _on_extent_needed(self, now: float, event: ExtentNeeded, peer: ProcessId) -> None:
        self._emit(Send(self._node, RequestExtent(event.size_bytes)))

    def _on_extents_given_back(self, now: float, event: ExtentsGivenBack, peer: ProcessId) -> None:
        self._emit(Send(self._node, ExtentsReturned(event.offsets)))

    def _on_extent_granted(self, now: float, message: ExtentGranted, peer: ProcessId) -> None:
        self._emit(AddExtent(message.offset, message.size_bytes))

    def _on_extent_refused(self, now: float, message: ExtentRefused, peer: ProcessId) -> None:
        self._emit(DenyExtent(message.wanted_bytes, message.free_bytes, message.capacity_bytes))

    def _on_reclaim_extents(self, now: float, message: ReclaimExtents, peer: ProcessId) -> None:
        self._emit(GiveBackExtents())

    def _on_free_places(self, now: float, message: FreePlaces, peer: ProcessId) -> None:
        self._emit(FreeStored(message.objects))

    def _on_claim_places(self, now: float, message: ClaimPlaces, peer: ProcessId) -> None:
        """Answered when no result can come from the dead holders any more (54904)."""
        if any(place.holder not in self._holding.lost for _, place in message.objects):
            self._deaths.claims.append(message)
            return
        dead = []
        for object_id, place in message.objects:
            if not self._holding.copies.is_copy(object_id, place):
                dead.append((object_id, place))
        self._emit(Send(peer, PlacesClaimed(dead)))

    def _on_views_of(self, now: float, message: ViewsOf, peer: ProcessId) -> None:
        self._deaths.views_asked[message.owner] = None

    def _on_owner_buried(self, now: float, message: OwnerBuried, peer: ProcessId) -> None:
        self._emit(FreeStoredOf(message.owner))

    def link_ended(self, now: float) -> None:
        """Claims that waited for what a dead holder may have sent."""
        for claim in self._deaths.take_claims():
            self._on_claim_places(now, claim, node_of(claim.objects[0][1].holder))

    def answer_views_asked(self) -> None:
        """The node may free a dead owner's places when no view of them is left here; a dead node's: all together."""
        asked, holding, nodes = self._deaths.views_asked, self._holding, self._deaths.nodes
        for owner in [one for one in asked if (one in holding.lost or one in nodes) and not holding.has_views_of(one)]:
            del asked[owner]
            self._emit(Send(self._node, NoViewsOf(owner)))
