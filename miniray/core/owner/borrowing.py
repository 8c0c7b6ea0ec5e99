"""Borrowing: what holders and owners of refs say to each other, and what this process says of its own refs and views.

Each of it is a row of `holding.py`; what has a value now goes to whoever waited for it (`completion.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miniray.core.ids import ProcessId
from miniray.core.messages import AddHolder, DropHolders, HandoffDone, HolderAdded, RefGone, ValueIs, WhereIs
from miniray.core.owner.completion import Completion
from miniray.core.owner.events import RefsDropped, RefsHeld, ViewHeld, ViewsDropped
from miniray.core.owner.holding import Holding
from miniray.core.record import Event, Message

Handler = Callable[[float, Any, ProcessId], None]


class Borrowing:
    def __init__(self, holding: Holding, completion: Completion) -> None:
        self._holding = holding
        self._learned = completion.learned
        self.on: Mapping[type[Event] | type[Message], Handler] = {
            RefsHeld: self._on_refs_held,
            RefsDropped: self._on_refs_dropped,
            ViewHeld: self._on_view_held,
            ViewsDropped: self._on_views_dropped,
            AddHolder: self._on_add_holder,
            HolderAdded: self._on_holder_added,
            DropHolders: self._on_drop_holders,
            RefGone: self._on_ref_gone,
            WhereIs: self._on_where_is,
            ValueIs: self._on_value_is,
            HandoffDone: self._on_handoff_done,
        }

    # ---- from this process ----

    def _on_refs_held(self, now: float, event: RefsHeld, peer: ProcessId) -> None:
        self._holding.hold_unpickled(event.object_ids)

    def _on_refs_dropped(self, now: float, event: RefsDropped, peer: ProcessId) -> None:
        self._holding.drop_local(event.object_ids)

    def _on_view_held(self, now: float, event: ViewHeld, peer: ProcessId) -> None:
        self._holding.references.rows[event.object_id].views += 1

    def _on_views_dropped(self, now: float, event: ViewsDropped, peer: ProcessId) -> None:
        self._holding.drop_views(event.object_ids)

    # ---- from holders and owners ----

    def _on_add_holder(self, now: float, message: AddHolder, peer: ProcessId) -> None:
        self._holding.answer_add_holder(message.object_id, message.number, peer)

    def _on_holder_added(self, now: float, message: HolderAdded, peer: ProcessId) -> None:
        self._holding.confirmed(message.object_id, message.number)

    def _on_drop_holders(self, now: float, message: DropHolders, peer: ProcessId) -> None:
        for object_id in message.object_ids:
            self._holding.drop_holder(object_id, peer)

    def _on_ref_gone(self, now: float, message: RefGone, peer: ProcessId) -> None:
        if message.number:  # an answer to `AddHolder`: as good as a confirmation for whoever waits for one
            self._holding.confirmed(message.object_id, message.number)
        self._learned(self._holding.learn_gone(message.object_id, answers_where_is=not message.number))

    def _on_where_is(self, now: float, message: WhereIs, peer: ProcessId) -> None:
        self._holding.answer_where_is(message.object_id, peer, message.after)

    def _on_value_is(self, now: float, message: ValueIs, peer: ProcessId) -> None:
        self._learned(self._holding.learn(message.object_id, message.value))

    def _on_handoff_done(self, now: float, message: HandoffDone, peer: ProcessId) -> None:
        self._holding.release_arguments(self._holding.handoffs.unpin((peer, message.task, message.attempt)))
