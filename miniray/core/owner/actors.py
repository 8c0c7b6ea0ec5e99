"""Actors, at the caller: calls to the process where the actor lives (PROTOCOL.md section 7).

`actor_calls.py` has the queues. A call is a task whose worker is fixed: it waits for its arguments like any
other, and for the actor's creation, whose value is the address (`ActorAt`). When that process dies the value is absent
again, until the owner knows the next incarnation or the end: calls that were not answered and may be made again
(`max_task_retries`) and those that had not left wait for it, in their order; the others fail. When the link to a living
actor was made again (`sessions.py`) the same holds for what was not answered, and the address stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from miniray.core.failures import UNKNOWN_STATUS, DeathCause, Failure, FailureKind
from miniray.core.ids import ObjectId, ProcessId, node_of
from miniray.core.machine import Send
from miniray.core.messages import CallActor, CancelTask, KillWorker, ProcessDied
from miniray.core.owner.actor_calls import Actor, ActorCalls
from miniray.core.owner.completion import Completion
from miniray.core.owner.dispatch import CAUSE_SECONDS
from miniray.core.owner.holding import Holding
from miniray.core.owner.leases import BATCH_TASKS, FLUSH_SECONDS, MAX_DEPTH_TASKS
from miniray.core.owner.references import Borrowed
from miniray.core.owner.tasks import Task, TaskState
from miniray.core.record import Effect, replace
from miniray.core.task_spec import ActorAt, Failed

KILLED = Failure(FailureKind.ACTOR_DIED, "", "the actor was ended by kill()")
UNAVAILABLE = Failure(FailureKind.ACTOR_UNAVAILABLE, "", "the link to the actor broke; the actor lives")


class Actors:
    def __init__(
        self,
        completion: Completion,
        holding: Holding,
        deaths: Mapping[ProcessId, ProcessDied],
        emit: Callable[[Effect], None],
    ) -> None:
        self._completion = completion
        self._holding = holding
        self._deaths = deaths
        self._emit = emit
        self._calls = ActorCalls()
        self.flush_at: float | None = None  # calls wait for company until then
        self.sweep_at: float | None = None  # when the cause of a death has been waited for long enough

    # ---- calling ----

    def submit(self, now: float, task: Task) -> None:
        """A call joins its actor's queue at once, ready or not: that keeps the order."""
        row = self._row(task)
        row.queue.append(task)
        if row.flight and len(row.queue) < BATCH_TASKS:
            if self.flush_at is None:
                self.flush_at = now + FLUSH_SECONDS
            return
        self._pump(now, row, eager=False)

    def _row(self, task: Task) -> Actor:
        actor = task.spec.actor
        assert actor is not None
        row = self._calls.rows.get(actor)
        if row is None:
            self._holding.watched[actor] = None
            row = self._calls.rows[actor] = Actor(actor, deque())
        return row

    def runnable(self, now: float, task: Task) -> None:
        """A call that had to wait is ready; those behind it may be, too."""
        self._pump(now, self._row(task), eager=True)

    def flush(self, now: float) -> None:
        self.flush_at = None
        for row in self._calls.rows.values():
            if row.queue:
                self._pump(now, row, eager=True)

    def _pump(self, now: float, row: Actor, *, eager: bool) -> None:
        if self._completion.left:
            self._take_out(row)
        if row.process is None:
            row.process = self._completion.address(row.actor)
            if row.process is not None and row.process in self._holding.lost:  # before its address was known here
                self.process_lost(now, row.process)
                if row.process in self._deaths:
                    self.process_died(row.process, self._deaths[row.process])
        if row.process is None or row.lost_at is not None:
            return
        while row.queue and len(row.flight) < MAX_DEPTH_TASKS:
            if row.flight and not eager and len(row.queue) < BATCH_TASKS:
                if self.flush_at is None:
                    self.flush_at = now + FLUSH_SECONDS
                return
            calls = row.take_ready(BATCH_TASKS)
            if not calls:
                return
            for call in calls:
                call.state = TaskState.PUSHED
                row.flight[call.spec.task_id] = call
            pushed = [self._completion.pushed(call, row.process) for call in calls]
            self._emit(Send(row.process, CallActor(row.actor, pushed)))

    def _take_out(self, row: Actor) -> None:
        """What has failed in this very step: its arguments are gone."""
        for call in self._completion.left:
            if call in row.queue:
                row.queue.remove(call)

    def answered(self, task: Task) -> Actor:
        """A result of this call has come; the actor may take more."""
        row = self._row(task)
        row.flight.pop(task.spec.task_id, None)
        return row

    def refill(self, now: float, row: Actor) -> None:
        if row.queue and len(row.flight) * 2 <= MAX_DEPTH_TASKS:
            self._pump(now, row, eager=True)

    def retry(self, now: float, task: Task) -> None:
        """`retry_exceptions` of a call: it is called again, after those that are on their way."""
        self._row(task).queue.appendleft(task)
        self._pump(now, self._row(task), eager=True)

    def cancel(self, now: float, task: Task, *, recursive: bool, running: bool) -> None:
        failure = Failure(FailureKind.CANCELLED, "", "the call was cancelled")
        row = self._row(task)
        if task in row.queue:
            row.queue.remove(task)
            self._completion.fail(task, failure)
            self._pump(now, row, eager=True)  # those behind it may have waited for it only (60850)
            return
        if running and not task.decided:
            self._completion.decide(task, failure)
        if row.process is not None:
            self._emit(Send(row.process, CancelTask(task.spec.task_id, task.attempt, recursive, running)))

    def left(self, now: float, tasks: list[Task]) -> None:
        """An argument of these calls has failed, and they with it: when all are gone, those behind may go (60850)."""
        rows = {}
        for task in tasks:
            row = self._calls.rows.get(task.spec.actor or ObjectId(b""))
            if row is not None and task in row.queue:
                row.queue.remove(task)
                rows[row.actor] = row
        for row in rows.values():
            self._pump(now, row, eager=True)

    # ---- the end of an actor ----

    def forget(self, actor: ObjectId) -> None:
        """No handle is left here, and so no call."""
        self._holding.watched.pop(actor, None)
        self._calls.rows.pop(actor, None)

    def kill(self, actor: ObjectId) -> None:
        """The owner has asked its node to end the process: what is queued fails at once."""
        if isinstance(self._holding.objects.values.get(actor), ActorAt):
            self._end(actor, KILLED)
        row = self._calls.rows.get(actor)
        if row is not None:
            self._queue_anew(row)

    def processes_on(self, node: ProcessId) -> list[ProcessId]:
        """Where actors that are known here live."""
        addresses = [value.process for value in self._holding.objects.values.values() if isinstance(value, ActorAt)]
        called = [row.process for row in self._calls.rows.values() if row.process is not None]
        return [process for process in [*addresses, *called] if node_of(process) == node]

    def under_way(self, process: ProcessId) -> list[Task]:
        """Calls that it has not answered."""
        return [task for row in self._calls.at(process) for task in row.flight.values()]

    def link_renewed(self, process: ProcessId) -> None:
        """A new session with an actor that lives: what was not answered is made again there, or fails."""
        for row in self._calls.at(process):
            self._call_again(row, UNAVAILABLE)

    def process_lost(self, now: float, process: ProcessId) -> None:
        rows = self._calls.at(process)
        if any(isinstance(self._holding.references.rows.get(row.actor), Borrowed) for row in rows):
            # Whoever cannot be reached must not live on, since its owner is asked for the next incarnation. Its owner
            # has its lease, and does the same for that.
            self._emit(Send(node_of(process), KillWorker(process)))
        for row in rows:
            row.lost_at = now
            self.sweep_at = now + CAUSE_SECONDS if self.sweep_at is None else self.sweep_at
            for task in row.flight.values():
                task.state = TaskState.LOST

    def process_died(self, process: ProcessId, death: ProcessDied | None) -> None:
        cause = death.cause if death is not None else DeathCause(0, UNKNOWN_STATUS)
        message = f"the process of the actor is gone: {cause.describe()}"
        failure = Failure(FailureKind.ACTOR_DIED, "", message, death=cause, process=process)
        for actor, value in list(self._holding.objects.values.items()):
            if isinstance(value, ActorAt) and value.process == process:
                self._lose(actor, value, failure)
        for row in self._calls.at(process):
            last = self._holding.objects.values.get(row.actor)
            was_killed = isinstance(last, Failed) and last.failure == KILLED  # by our own order: we own it
            self._call_again(row, KILLED if was_killed else failure)

    def _lose(self, actor: ObjectId, value: ActorAt, failure: Failure) -> None:
        """This incarnation is over: is there another one? Only the owner knows."""
        row = self._holding.references.rows[actor]
        if isinstance(row, Borrowed) and not row.orphaned:
            row.died = value.incarnation
            del self._holding.objects.values[actor]
            self._holding.want(actor)  # a thread that was just told of this life may not have looked yet
        elif self._completion.restarting(actor):
            del self._holding.objects.values[actor]
        else:
            self._end(actor, failure)

    def _end(self, actor: ObjectId, failure: Failure) -> None:
        """From now on its creation object says so, to whoever asks or has asked."""
        self._completion.resolved(self._holding.set_value(actor, Failed(failure)))

    def _call_again(self, row: Actor, failure: Failure) -> None:
        """What was not answered goes before what had not left (52833)."""
        flight = list(row.flight.values())
        row.flight.clear()
        row.process = row.lost_at = None
        again = []
        for task in flight:
            retried = self._completion.again(task, spend=True)
            if retried is not None:
                again.append(retried)
            elif task.spec.task_id in self._completion.tasks.rows and task.state is not TaskState.WAITING:
                self._completion.fail(task, _interrupted(task, failure))
        row.queue.extendleft(reversed(again))
        self._queue_anew(row)

    def _queue_anew(self, row: Actor) -> None:
        """The actor's address has changed: these wait for the next one, or fail with the actor."""
        self._take_out(row)
        value = self._holding.objects.values.get(row.actor)
        if isinstance(value, Failed):
            tasks = list(row.queue)
            row.queue.clear()
            for task in tasks:
                if task.spec.task_id in self._completion.tasks.rows:  # or it has failed with one that it needs
                    self._completion.fail(task, value.failure)
        elif value is None:
            for task in row.queue:
                self._completion.await_actor(task, row.actor)
        elif row.queue:
            self._completion.runnable.append(row.queue[0])

    # ---- time ----

    def tick(self, now: float) -> None:
        if self.flush_at is not None and self.flush_at <= now:
            self.flush(now)
        if self.sweep_at is None or self.sweep_at > now:
            return
        self.sweep_at = None
        for row in list(self._calls.rows.values()):
            if row.lost_at is None or not (row.flight or row.queue):
                continue
            if row.lost_at + CAUSE_SECONDS <= now and row.process is not None:
                self.process_died(row.process, None)
            elif self.sweep_at is None or row.lost_at + CAUSE_SECONDS < self.sweep_at:
                self.sweep_at = row.lost_at + CAUSE_SECONDS

    def statistics(self) -> dict[str, int]:
        return {"actor_queues": sum(1 for row in self._calls.rows.values() if row.queue or row.flight)}


def _interrupted(task: Task, failure: Failure) -> Failure:
    if task.spec.options.max_retries != 0:
        return failure
    hint = "" if failure is KILLED else ", and max_task_retries=0: it is not made again"
    return replace(failure, message=f"{failure.message}; the call was under way{hint}")
