"""Actors that live again, and values that are given to another owner: wrong in one point each (PROTOCOL.md 4, 7)."""

from __future__ import annotations

from typing import Any

from miniray.core.failures import Failure, FailureKind
from miniray.core.owner.actors import Actors
from miniray.core.owner.adoption import Adoption
from miniray.core.owner.completion import Completion
from miniray.core.owner.dispatch import Dispatch
from miniray.core.owner.holding import Holding
from tests.sim.mutants import Wrong, mutant, nothing

# ---- restarts ----


@mutant(Completion, "_lives")
def an_actor_has_one_life(right: Wrong) -> Wrong:
    """Its creation is forgotten when it has run, whatever max_restarts is."""
    return lambda self, task, worker, result: False


@mutant(Completion, "restart")
def a_restart_spends_nothing(right: Wrong) -> Wrong:
    """It lives again, however often it has died."""

    def wrong(self: Completion, actor: Any) -> Any:
        task = self.tasks.living.get(actor)
        if task is not None and task.retries_left > 0:
            task.retries_left += 1
        return right(self, actor)

    return wrong


@mutant(Completion, "restart")
def a_life_goes_by_the_number_of_the_last(right: Wrong) -> Wrong:
    """The incarnation does not grow."""

    def wrong(self: Completion, actor: Any) -> Any:
        task = right(self, actor)
        if task is not None:
            task.attempt -= 1
        return task

    return wrong


@mutant(Dispatch, "worker_died")
def a_creation_is_sent_twice(right: Wrong) -> Wrong:
    """One life of an actor, begun in two processes."""

    def wrong(self: Dispatch, now: float, worker: Any, death: Any) -> None:
        requeue = self.requeue

        def twice(now: float, tasks: Any) -> None:
            requeue(now, tasks)
            requeue(now, [task for task in tasks if task.spec.creates_actor])

        self.requeue = twice  # type: ignore[method-assign]
        right(self, now, worker, death)
        self.requeue = requeue  # type: ignore[method-assign]

    return wrong


@mutant(Completion, "_lives")
def what_a_constructor_was_given_is_let_go(right: Wrong) -> Wrong:
    """Its arguments are not held for the next life (47043)."""

    def wrong(self: Completion, task: Any, worker: Any, result: Any) -> Any:
        lives = right(self, task, worker, result)
        if lives:
            held, task.held = task.held, ()
            self._holding.release_arguments(held)
        return lives

    return wrong


@mutant(Completion, "retire")
def what_a_constructor_was_given_is_held_for_ever(right: Wrong) -> Wrong:
    """There is no other life, and its arguments stay."""

    def wrong(self: Completion, actor: Any) -> None:
        self.tasks.living.pop(actor, None)

    return wrong


@mutant(Actors, "_call_again")
def calls_are_made_again_behind_those_that_had_not_left(right: Wrong) -> Wrong:
    """A new life gets them out of their order (52833)."""

    def wrong(self: Actors, row: Any, failure: Any) -> None:
        waiting = list(row.queue)
        row.queue.clear()
        queue_anew, self._queue_anew = self._queue_anew, lambda row: None  # type: ignore[method-assign]
        right(self, row, failure)
        self._queue_anew = queue_anew  # type: ignore[method-assign]
        row.queue.extendleft(reversed(waiting))
        queue_anew(row)

    return wrong


@mutant(Actors, "_call_again")
def calls_that_were_not_answered_are_forgotten(right: Wrong) -> Wrong:
    """They are neither made again nor failed."""

    def wrong(self: Actors, row: Any, failure: Any) -> None:
        row.flight.clear()
        right(self, row, failure)

    return wrong


@mutant(Actors, "_queue_anew")
def calls_that_had_not_left_fail_with_a_life(right: Wrong) -> Wrong:
    """They do not wait for the next one."""

    def wrong(self: Actors, row: Any) -> None:
        value = self._holding.objects.values.get(row.actor)
        if value is not None:
            right(self, row)
            return
        tasks = list(row.queue)
        row.queue.clear()
        for task in tasks:
            if task.spec.task_id in self._completion.tasks.rows:
                self._completion.fail(task, Failure(FailureKind.ACTOR_DIED, "", "this life is over"))

    return wrong


# ---- another owner ----


@mutant(Adoption, "_on_value_offered")
def a_given_ref_is_passed_on_before_it_is_adopted(right: Wrong) -> Wrong:
    """It leaves `put` at once: others may reach its owner before the value."""

    def wrong(self: Adoption, now: float, event: Any, peer: Any) -> None:
        right(self, now, event, peer)
        if event.object_id in self._offered:
            self._learned(self._holding.learn(event.object_id, event.value))

    return wrong


@mutant(Adoption, "_on_value_offered")
def the_dead_are_given_values(right: Wrong) -> Wrong:
    """The owner was known to be dead, and its answer is waited for."""

    def wrong(self: Adoption, now: float, event: Any, peer: Any) -> None:
        lost, self._holding.lost = self._holding.lost, {}
        right(self, now, event, peer)
        self._holding.lost = lost

    return wrong


@mutant(Adoption, "owner_lost")
def what_was_offered_to_the_dead_stays(right: Wrong) -> Wrong:
    """The owner dies before it has answered, and the bytes lie in the store for ever."""
    return nothing(right)


@mutant(Adoption, "_on_adopt_value")
def an_adopted_value_has_no_holder(right: Wrong) -> Wrong:
    """The owner does not register who gave it."""

    def wrong(self: Adoption, now: float, message: Any, peer: Any) -> None:
        right(self, now, message, peer)
        if self._holding.references.drop_holder(message.object_id, peer):
            self._holding.let_go(message.object_id)

    return wrong


@mutant(Adoption, "_on_adopt_value")
def an_adopted_value_forgets_what_it_contains(right: Wrong) -> Wrong:
    """The owner does not register with the owners of the refs inside."""

    def wrong(self: Adoption, now: float, message: Any, peer: Any) -> None:
        holding = self._holding
        register, holding._hold_container = holding._hold_container, count_only(holding)  # type: ignore[method-assign]
        right(self, now, message, peer)
        holding._hold_container = register  # type: ignore[method-assign]

    def count_only(holding: Holding) -> Wrong:
        def count(inner: Any, transfer: Any) -> None:
            holding.row(inner).containers += 1

        return count

    return wrong


@mutant(Adoption, "_on_adopt_value")
def an_adoption_is_not_answered(right: Wrong) -> Wrong:
    """Who gave it waits."""

    def wrong(self: Adoption, now: float, message: Any, peer: Any) -> None:
        emit, self._emit = self._emit, lambda effect: None
        right(self, now, message, peer)
        self._emit = emit

    return wrong
