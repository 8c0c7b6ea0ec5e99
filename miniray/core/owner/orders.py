"""Orders: `cancel` and `kill`, of this process's tasks and actors, from here or from a process that holds the ref.

Only the owner of a ref can obey; anybody else passes the order on to it, and forgets it. Which part obeys depends on
what is running: a queue, a leased worker, an actor. Whether an order still decides anything does the task's row say
(`Task.decided`): of completion and cancel the one that comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miniray.core.ids import ObjectId, ProcessId, task_of
from miniray.core.machine import Send
from miniray.core.messages import CancelChildren, RequestCancel, RequestKill
from miniray.core.owner.actors import KILLED, Actors
from miniray.core.owner.dispatch import Dispatch
from miniray.core.owner.events import CancelRequested, KillRequested
from miniray.core.owner.tasks import Tasks, TaskState
from miniray.core.record import Effect, Event, Message

Handler = Callable[[float, Any, ProcessId], None]


class Orders:
    def __init__(
        self, me: ProcessId, tasks: Tasks, dispatch: Dispatch, actors: Actors, emit: Callable[[Effect], None]
    ) -> None:
        self._me = me
        self._tasks = tasks
        self._dispatch = dispatch
        self._actors = actors
        self._emit = emit
        self.on: Mapping[type[Event] | type[Message], Handler] = {
            CancelRequested: self._on_cancel_requested,
            RequestCancel: self._on_request_cancel,
            CancelChildren: self._on_cancel_children,
            KillRequested: self._on_kill_requested,
            RequestKill: self._on_request_kill,
        }

    def _on_cancel_requested(self, now: float, event: CancelRequested, peer: ProcessId) -> None:
        if event.object_id[:8] != self._me:
            request = RequestCancel(event.object_id, event.force, event.recursive, event.running)
            self._emit(Send(ProcessId(event.object_id[:8]), request))
            return
        task = self._tasks.rows.get(task_of(event.object_id))
        if task is None:
            return
        if task.spec.actor is not None:
            self._actors.cancel(now, task, recursive=event.recursive, running=event.running)
        else:
            self._dispatch.cancel(task, force=event.force, recursive=event.recursive, running=event.running)

    def _on_request_cancel(self, now: float, message: RequestCancel, peer: ProcessId) -> None:
        if message.object_id[:8] == self._me:
            event = CancelRequested(message.object_id, message.force, message.recursive, message.running)
            self._on_cancel_requested(now, event, peer)

    def _on_cancel_children(self, now: float, message: CancelChildren, peer: ProcessId) -> None:
        for task_id in self._tasks.children_of(message.task):
            self._on_cancel_requested(now, CancelRequested(ObjectId(task_id + bytes(4)), False, True), peer)

    def _on_kill_requested(self, now: float, event: KillRequested, peer: ProcessId) -> None:
        if event.actor[:8] != self._me:
            self._emit(Send(ProcessId(event.actor[:8]), RequestKill(event.actor, event.restart)))
            return
        if event.restart:
            self._dispatch.kill_actor(event.actor, restart=True)
            return
        creation = self._tasks.rows.get(task_of(event.actor))
        if creation is not None:
            force = creation.state is TaskState.PUSHED
            self._dispatch.cancel(creation, force=force, recursive=True, failure=KILLED)
        else:
            self._dispatch.kill_actor(event.actor, restart=False)
            self._actors.kill(event.actor)

    def _on_request_kill(self, now: float, message: RequestKill, peer: ProcessId) -> None:
        if message.actor[:8] == self._me:
            self._on_kill_requested(now, KillRequested(message.actor, message.restart), peer)
