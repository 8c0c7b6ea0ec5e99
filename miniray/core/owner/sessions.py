"""Sessions: what becomes of all that two living processes share when their link breaks and is made again.

Of what was under way nobody knows how much has arrived (PROTOCOL.md section 2). So a new link begins with what each
side has, never with what the other may have missed:

- *As a holder* this process says all that it holds (`StillHolds`), the refs of what runs here included, and asks again
  what it had asked. *As an owner* it adopts that set, and until it has come drops nothing of that holder.
- *As the sender* of refs it keeps every pin until the other has said which transfers are not over; a call that was
  under way may run there still, so its arguments are pinned like those of a transfer.
- *As the holder of extents* it says which places of the other's it has, since news to free some may have got lost.
- A worker that was leased over the link is given up: its node ends it before its tasks run elsewhere. An actor goes on:
  what it had not answered is made again, in order, or fails (50814, 46538).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miniray.core.ids import ProcessId, return_id
from miniray.core.machine import LinkRenewed, Send
from miniray.core.messages import FreePlaces, PlacesHeld, StillHolds
from miniray.core.owner.actors import Actors
from miniray.core.owner.adoption import Adoption
from miniray.core.owner.arrivals import Arrivals
from miniray.core.owner.completion import Completion
from miniray.core.owner.dispatch import Dispatch
from miniray.core.owner.events import PlacesToldOf, TellPlacesOf
from miniray.core.owner.holding import Holding
from miniray.core.record import Effect, Event, Message

Handler = Callable[[float, Any, ProcessId], None]


class Sessions:
    def __init__(
        self,
        holding: Holding,
        arrivals: Arrivals,
        completion: Completion,
        dispatch: Dispatch,
        actors: Actors,
        adoption: Adoption,
        emit: Callable[[Effect], None],
    ) -> None:
        self._holding = holding
        self._arrivals = arrivals
        self._completion = completion
        self._dispatch = dispatch
        self._actors = actors
        self._adoption = adoption
        self._emit = emit
        self.on: Mapping[type[Event] | type[Message], Handler] = {
            LinkRenewed: self._on_link_renewed,
            StillHolds: self._on_still_holds,
            PlacesToldOf: self._on_places_told_of,
            PlacesHeld: self._on_places_held,
        }

    def _on_link_renewed(self, now: float, event: LinkRenewed, peer: ProcessId) -> None:
        other = event.peer
        holding = self._holding
        self._completion.functions.worker_lost(other)
        holding.objects.forget_asker(other)  # it asks again
        holding.copies.forget_asker(other)
        self._adoption.offer_again(other)  # first: what is offered is held, too
        self._pin_what_may_run(other)
        held = holding.tell_all(other)
        transfers = dict.fromkeys([*self._arrivals.running_from(other), *holding.handoffs.open_from(other)])
        self._emit(Send(other, StillHolds(held, list(transfers))))
        self._emit(TellPlacesOf(other))
        holding.ask_again(other, self._adoption.is_offered)
        self._dispatch.worker_lost(now, other, lives=True)
        self._actors.link_renewed(other)

    def _pin_what_may_run(self, other: ProcessId) -> None:
        holding = self._holding
        for call in self._actors.under_way(other):
            holding.hold_arguments(call.held)
            holding.handoffs.pin((other, call.spec.task_id, call.attempt), list(call.held))
        holding.handoffs.doubt(other, lambda key: not self._adoption.is_offered(return_id(key[1], key[2])))

    def _on_still_holds(self, now: float, message: StillHolds, peer: ProcessId) -> None:
        """Merge first, drop second."""
        holding = self._holding
        held = dict(message.holds)
        for object_id, number in message.holds:
            holding.answer_add_holder(object_id, number, peer)
        for object_id in holding.references.held_by(peer):
            if object_id not in held:
                holding.drop_holder(object_id, peer)
        holding.release_arguments(holding.handoffs.unpin_others(peer, message.transfers))

    def _on_places_told_of(self, now: float, event: PlacesToldOf, peer: ProcessId) -> None:
        if event.objects:
            self._emit(Send(event.owner, PlacesHeld(event.objects)))

    def _on_places_held(self, now: float, message: PlacesHeld, peer: ProcessId) -> None:
        copies = self._holding.copies
        dead = [(object_id, place) for object_id, place in message.objects if not copies.is_copy(object_id, place)]
        if dead:
            self._emit(Send(peer, FreePlaces(dead)))
