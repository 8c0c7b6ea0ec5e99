"""Tasks, their attempts, outcomes and cancels, and the calls of actors: wrong in one point each (PROTOCOL.md 5, 7)."""

from __future__ import annotations

from typing import Any

from miniray._runtime.execute import Executor
from miniray.core.machine import PeerLost, Send
from miniray.core.messages import TakenBack
from miniray.core.owner.actor_calls import Actor
from miniray.core.owner.actors import Actors
from miniray.core.owner.burials import Burials
from miniray.core.owner.completion import Completion
from miniray.core.owner.deaths import Deaths
from miniray.core.owner.dispatch import Dispatch
from miniray.core.owner.holding import Holding
from miniray.core.record import replace
from miniray.core.worker.run_queue import RunQueue
from miniray.core.worker.worker import Worker
from tests.sim.mutants import Wrong, mutant, nothing


@mutant(Worker, "_on_take_back")
def what_was_taken_back_runs_as_well(right: Wrong) -> Wrong:
    """A worker says that it will not run a task, and keeps it (d6689)."""

    def wrong(self: Worker, now: float, message: Any, peer: Any) -> None:
        waiting = {item.task.task_id: None for item in self._queue.waiting}
        back = [task_id for task_id in message.tasks if task_id in waiting]
        self._emit(Send(peer, TakenBack(message.lease, back)))

    return wrong


@mutant(Worker, "_on_take_back")
def what_was_taken_back_is_not_said(right: Wrong) -> Wrong:
    """A worker drops tasks from its queue, and its owner goes on waiting for them."""

    def wrong(self: Worker, now: float, message: Any, peer: Any) -> None:
        for task_id in message.tasks:
            self._queue.remove(task_id)
        self._emit(Send(peer, TakenBack(message.lease, [])))

    return wrong


@mutant(Completion, "decide")
def a_cancelled_task_has_no_outcome(right: Wrong) -> Wrong:
    """Nobody is told of the cancel, and the result that comes after it is dropped."""

    def wrong(self: Completion, task: Any, failure: Any) -> None:
        task.decided = True

    return wrong


@mutant(Completion, "_conclude")
def a_cancelled_task_has_two_outcomes(right: Wrong) -> Wrong:
    """What the worker answers is told, though the cancel was told before (54798)."""

    def wrong(self: Completion, task: Any, values: Any, worker: Any, result: Any) -> None:
        task.decided = task.decided and not values
        right(self, task, values, worker, result)

    return wrong


@mutant(Completion, "again")
def what_has_started_costs_no_retry(right: Wrong) -> Wrong:
    """A crash is free for the task that caused it."""
    return lambda self, task, *, spend: right(self, task, spend=False)


@mutant(Completion, "again")
def what_has_not_started_costs_a_retry(right: Wrong) -> Wrong:
    """A crash is charged to all that were pushed (d5234)."""
    return lambda self, task, *, spend: right(self, task, spend=True)


@mutant(Executor, "execute")
def the_start_is_written_down_at_the_end(right: Wrong) -> Wrong:
    """The status word does not name the running task, but the last one that has ended."""

    def wrong(self: Executor, effect: Any) -> Any:
        record, self._record_start = self._record_start, lambda lease, sequence: None
        try:
            told = right(self, effect)  # a process that dies in it writes nothing more
        finally:
            self._record_start = record
        if self._process.ended is None:
            record(effect.lease, effect.task.sequence)
        return told

    return wrong


@mutant(Completion, "again")
def no_retries_left_is_retried(right: Wrong) -> Wrong:
    """`max_retries=0` runs again."""

    def wrong(self: Completion, task: Any, *, spend: bool) -> Any:
        task.retries_left = task.retries_left or 1
        return right(self, task, spend=spend)

    return wrong


@mutant(Completion, "_next_attempt")
def attempts_are_not_numbered(right: Wrong) -> Wrong:
    """Another attempt goes by the number of the one before."""

    def wrong(self: Completion, task: Any, *, spend: bool) -> Any:
        before = task.attempt
        right(self, task, spend=spend)
        task.attempt = before
        return task

    return wrong


@mutant(RunQueue, "must_send")
def results_wait_behind_what_may_crash(right: Wrong) -> Wrong:
    """Results stay in the worker until their time has come, whatever starts meanwhile."""

    def wrong(self: RunQueue, now: float) -> bool:
        return not self.waiting or self.oldest is None

    return wrong


@mutant(Burials, "_on_process_died")
def news_of_a_death_overtakes_what_the_dead_had_sent(right: Wrong) -> Wrong:
    """The link is not drained before the death counts."""

    def wrong(self: Burials, now: float, message: Any, peer: Any) -> None:
        if message.process not in self._holding.lost:
            self._on_peer_lost(now, PeerLost(message.process, "said to be dead"), peer)
        right(self, now, message, peer)

    return wrong


@mutant(Dispatch, "worker_lost")
def a_lost_worker_is_not_noticed(right: Wrong) -> Wrong:
    """The link breaks, and what was pushed there is waited for."""
    return nothing(right)


@mutant(Deaths, "link_ended")
def news_of_a_death_is_dropped(right: Wrong) -> Wrong:
    """It came before the link had ended, and is forgotten then."""

    def wrong(self: Deaths, peer: Any) -> None:
        right(self, peer)

    return wrong


@mutant(Holding, "peer_lost")
def refs_of_a_dead_owner_wait(right: Wrong) -> Wrong:
    """Whoever waits for the value of a dead owner is not told."""

    def wrong(self: Holding, peer: Any) -> Any:
        right(self, peer)
        return [], []

    return wrong


@mutant(Worker, "_on_peer_lost")
def tasks_of_a_dead_owner_run_on(right: Wrong) -> Wrong:
    """What waits in a worker for a dead owner is run."""
    return nothing(right)


@mutant(Completion, "resolved")
def a_failed_argument_is_passed_on(right: Wrong) -> Wrong:
    """A task whose argument has failed is run."""

    def wrong(self: Completion, task_ids: Any) -> None:
        for task_id in task_ids:
            task = self.tasks.rows.get(task_id)
            if task is not None:
                task.unresolved -= 1
                if task.unresolved == 0:
                    self.runnable.append(task)

    return wrong


@mutant(Worker, "_on_cancel_task", tasks=40)
def a_cancel_strikes_whatever_runs(right: Wrong) -> Wrong:
    """The interrupt is for the task that runs at that moment, not for the one that was cancelled."""

    def wrong(self: Worker, now: float, message: Any, peer: Any) -> None:
        running = self._queue.running
        if running is not None:
            message = replace(message, task=running.task.task_id, attempt=running.task.attempt)
        right(self, now, message, peer)

    return wrong


# ---- actors ----


@mutant(Actor, "take_ready")
def a_call_overtakes_one_that_is_not_ready(right: Wrong) -> Wrong:
    """Calls leave in the order in which their arguments become ready."""

    def wrong(self: Actor, limit: int) -> Any:
        ready = [call for call in self.queue if not call.unresolved][:limit]
        for call in ready:
            self.queue.remove(call)
        return ready

    return wrong


@mutant(Actors, "left")
def a_failed_call_blocks_its_queue(right: Wrong) -> Wrong:
    """A call with a failed argument stays at the head of its actor's queue (60850)."""
    return nothing(right)


@mutant(Actors, "process_died")
def calls_of_a_dead_actor_wait(right: Wrong) -> Wrong:
    """An actor's death fails no call."""
    return nothing(right)


@mutant(Actors, "_end")
def the_end_of_an_actor_is_not_told(right: Wrong) -> Wrong:
    """Whoever calls it waits for a restart that never comes."""
    return lambda self, actor, failure: self._holding.objects.values.pop(actor)


@mutant(Dispatch, "end_actor")
def an_actor_that_nobody_holds_lives(right: Wrong) -> Wrong:
    """The last handle goes, and its process stays."""
    return nothing(right)


@mutant(Completion, "_hold_arguments")
def a_call_does_not_hold_its_actor(right: Wrong) -> Wrong:
    """The last handle goes, and the actor with it, though calls are under way (1949)."""

    def wrong(self: Completion, task: Any) -> Any:
        found = right(self, task)
        actor = task.spec.actor
        if actor is not None and task.held:
            task.held = tuple(one for one in task.held if one != actor)
            self._holding.release_arguments([actor])
        return found

    return wrong
