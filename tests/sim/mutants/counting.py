"""What keeps a value alive, and how a ref travels: wrong in one point each (PROTOCOL.md section 4)."""

from __future__ import annotations

from typing import Any

from miniray.core.machine import Send
from miniray.core.messages import Drained, ForgetFunction, HolderAdded, RefGone
from miniray.core.owner.arrivals import Arrivals
from miniray.core.owner.borrowing import Borrowing
from miniray.core.owner.completion import Completion
from miniray.core.owner.handoffs import Handoffs, Transfer
from miniray.core.owner.holding import Holding
from miniray.core.owner.objects import Objects
from miniray.core.owner.owner import Owner
from miniray.core.owner.references import Asking, Borrowed, References
from miniray.core.record import replace
from tests.sim.mutants import Wrong, mutant, nothing


@mutant(References, "add_holder")
def a_holder_is_not_registered(right: Wrong) -> Wrong:
    """The owner confirms, and forgets."""
    return lambda self, object_id, holder: object_id in self.rows


@mutant(Holding, "answer_add_holder")
def gone_refs_are_confirmed(right: Wrong) -> Wrong:
    """`AddHolder` for a freed value is answered as if it were registered."""

    def wrong(self: Holding, object_id: Any, number: int, holder: Any) -> None:
        self.references.add_holder(object_id, holder)
        self._emit(Send(holder, HolderAdded(object_id, number)))

    return wrong


@mutant(Holding, "answer_add_holder")
def living_refs_are_said_to_be_gone(right: Wrong) -> Wrong:
    """`RefGone` for a value that lives."""

    def wrong(self: Holding, object_id: Any, number: int, holder: Any) -> None:
        self._emit(Send(holder, RefGone(object_id, number)))

    return wrong


@mutant(Completion, "_conclude")
def arguments_are_released_before_the_reply_is_merged(right: Wrong) -> Wrong:
    """Drop first, merge second: what only the arguments kept is freed before the result holds it."""

    def wrong(self: Completion, task: Any, values: Any, worker: Any, result: Any) -> None:
        held, task.held = task.held, ()
        self._holding.release_arguments(held)
        right(self, task, values, worker, result)

    return wrong


@mutant(Owner, "_on_execution_ended")
def the_senders_pin_ends_with_the_reply(right: Wrong) -> Wrong:
    """What a returned value contains is not held until the receiver has registered."""

    def wrong(self: Owner, now: float, message: Any, peer: Any) -> None:
        right(self, now, message, peer)
        key = message.submitter, message.result.task_id, message.result.attempt
        self._holding.release_arguments(self._holding.handoffs.unpin(key))

    return wrong


@mutant(Arrivals, "depart")
def a_result_does_not_say_what_is_retained(right: Wrong) -> Wrong:
    """The worker keeps refs of arguments, and nobody hears of it."""
    return lambda self, submitter, task, attempt: ((), right(self, submitter, task, attempt)[1])


@mutant(Completion, "apply")
def retained_refs_are_not_registered(right: Wrong) -> Wrong:
    """The owner does not read what a result says of holds."""
    return lambda self, worker, task, result: right(self, worker, task, replace(result, retained=()))


@mutant(Completion, "apply")
def pending_registrations_are_not_waited_for(right: Wrong) -> Wrong:
    """Pins of arguments end with the result, though a third party has not confirmed yet."""
    return lambda self, worker, task, result: right(self, worker, task, replace(result, pending=False))


@mutant(Handoffs, "confirm")
def a_confirmation_confirms_later_receipts(right: Wrong) -> Wrong:
    """The number of a `HolderAdded` is not looked at."""
    return lambda self, object_id, number: right(self, object_id, 1 << 40)


@mutant(Owner, "_on_execution_ended")
def a_drop_overtakes_the_result_that_registers(right: Wrong) -> Wrong:
    """`DropHolders` leaves before the `TasksDone` of the same step."""

    def wrong(self: Owner, now: float, message: Any, peer: Any) -> None:
        right(self, now, message, peer)
        self._effects.append(self._effects.pop(0))

    return wrong


@mutant(References, "held_by")
def the_dead_go_on_holding(right: Wrong) -> Wrong:
    """Holds of a dead process are not dropped."""
    return lambda self, holder: []


@mutant(References, "drop_holder")
def a_drop_counts_for_all_holders(right: Wrong) -> Wrong:
    """One holder's drop takes the others out as well."""

    def wrong(self: References, object_id: Any, holder: Any) -> bool:
        row = self.rows.get(object_id)
        if row is None or isinstance(row, Borrowed) or not row.holders:
            return False
        row.holders.clear()
        return not row.keeps_value

    return wrong


@mutant(Borrowing, "_on_drop_holders")
def drops_are_not_heard(right: Wrong) -> Wrong:
    """An owner keeps what nobody holds any more."""
    return nothing(right)


@mutant(Holding, "let_go")
def freed_values_keep_what_they_contained(right: Wrong) -> Wrong:
    """The refs inside a freed value are not let go."""

    def wrong(self: Holding, object_id: Any) -> None:
        value = self.objects.values.get(object_id)
        if getattr(value, "contains", ()):
            self.objects.values[object_id] = replace(value, contains=())
        right(self, object_id)

    return wrong


@mutant(Holding, "_hold_container")
def inner_refs_are_not_registered(right: Wrong) -> Wrong:
    """A reader counts the refs inside a value, and tells their owner nothing."""

    def wrong(self: Holding, inner: Any, transfer: Any) -> None:
        self.row(inner).containers += 1

    return wrong


@mutant(Holding, "learn")
def the_outer_ref_is_let_go_before_the_inner_is_known(right: Wrong) -> Wrong:
    """Reading a value does not hold it until its refs are registered."""

    def wrong(self: Holding, object_id: Any, value: Any) -> Any:
        row = self.references.rows.get(object_id)
        before = row.arguments if row is not None else 0
        found = right(self, object_id, value)
        if row is not None and row.arguments > before:
            self.release_arguments([object_id])
            for waits in self.handoffs._waits.values():
                for one in waits.values():
                    for _, transfer in one:
                        transfer.outer = None if transfer.outer == object_id else transfer.outer
        return found

    return wrong


@mutant(Holding, "finish")
def a_handoff_never_ends(right: Wrong) -> Wrong:
    """`HandoffDone` is not sent."""

    def wrong(self: Holding, transfers: Any) -> None:
        right(self, [Transfer(outer=one.outer) for one in transfers])

    return wrong


@mutant(Completion, "_refuse")
def a_reply_that_nobody_wants_pins_for_ever(right: Wrong) -> Wrong:
    """A late result is ignored instead of answered with a release."""
    return nothing(right)


@mutant(Handoffs, "receiver_lost")
def pins_for_the_dead_stay(right: Wrong) -> Wrong:
    """A receiver that dies ends no hand-off."""
    return lambda self, receiver: []


@mutant(Handoffs, "owner_lost")
def confirmations_of_the_dead_are_waited_for(right: Wrong) -> Wrong:
    """A hand-off waits for an owner that is dead."""
    return lambda self, owner: []


@mutant(Holding, "learn")
def an_answer_to_an_earlier_question_is_used(right: Wrong) -> Wrong:
    """A place is taken that was lent before this process let go and came back."""

    def wrong(self: Holding, object_id: Any, value: Any) -> Any:
        row = self.references.rows.get(object_id)
        if isinstance(row, Borrowed) and row.asking is Asking.STALE:
            row.asking = Asking.ASKED
        return right(self, object_id, value)

    return wrong


@mutant(Holding, "answer_where_is")
def a_question_about_the_gone_is_not_answered(right: Wrong) -> Wrong:
    """`WhereIs` for an unknown object waits for a value that never comes."""

    def wrong(self: Holding, object_id: Any, asker: Any, after: int) -> None:
        if object_id in self.references.rows:
            right(self, object_id, asker, after)

    return wrong


@mutant(Holding, "answer_where_is")
def a_question_about_the_gone_makes_an_entry(right: Wrong) -> Wrong:
    """`WhereIs` for an unknown object is noted as if its value could still come."""

    def wrong(self: Holding, object_id: Any, asker: Any, after: int) -> None:
        if object_id in self.references.rows:
            right(self, object_id, asker, after)
        else:
            self.objects.ask(object_id, asker)

    return wrong


@mutant(Objects, "take_askers")
def who_asked_is_forgotten(right: Wrong) -> Wrong:
    """A value becomes ready, and those who asked for it are not told."""

    def wrong(self: Objects, object_id: Any) -> list[Any]:
        right(self, object_id)
        return []

    return wrong


@mutant(Borrowing, "_on_ref_gone")
def gone_is_not_heard(right: Wrong) -> Wrong:
    """`RefGone` changes nothing, and the `get` of that ref goes on waiting."""
    return nothing(right)


@mutant(Borrowing, "_on_handoff_done")
def the_end_of_a_handoff_is_not_heard(right: Wrong) -> Wrong:
    """The sender keeps its pin for ever."""
    return nothing(right)


@mutant(Owner, "_on_ask_drained")
def a_process_exits_with_pins_outstanding(right: Wrong) -> Wrong:
    """It does not wait for those who hold what it owns (17718)."""
    return lambda self, now, message, peer: self._emit(Send(self._me, Drained()))


@mutant(Borrowed, "keeps_value")
def views_do_not_hold(right: Any) -> Any:
    """A process with living views of a value lets it go."""
    return property(lambda self: bool(self.local or self.arguments or self.containers))


@mutant(Completion, "drop_handle")
def a_function_is_forgotten_while_tasks_name_it(right: Wrong) -> Wrong:
    """The last handle takes the definition along."""

    def wrong(self: Completion, function_id: Any) -> None:
        function = self.functions.rows[function_id]
        right(self, function_id)
        if function.pending and not function.handles:
            for worker in function.sent_to:
                self._emit(Send(worker, ForgetFunction(function_id)))

    return wrong
