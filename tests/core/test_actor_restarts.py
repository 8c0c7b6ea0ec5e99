"""The owner's machine alone: actors that begin anew, and what their callers do meanwhile (PROTOCOL.md section 7)."""

from __future__ import annotations

from typing import Any

from owner_alone import FUNCTION, ME, NODE, Talk, said

from miniray.core.failures import DeathCause, FailureKind
from miniray.core.ids import FunctionId, LeaseId, ObjectId, ProcessId, node_of, process_id, return_id, task_id
from miniray.core.machine import PeerLost
from miniray.core.messages import (
    AddHolder,
    CallActor,
    DropHolders,
    KillWorker,
    LeaseGranted,
    NodeDied,
    ProcessDied,
    PushTasks,
    RefGone,
    RequestLease,
    ReturnLease,
    TasksDone,
    ValueIs,
    WhereIs,
)
from miniray.core.owner.events import KillRequested, RefsDropped, RefsHeld, Submitted
from miniray.core.record import Effect
from miniray.core.task_spec import ActorAt, Failed, Inline, TaskOptions, TaskResult, TaskSpec

FIRST, SECOND, OTHER, THIRD = (process_id(b"test", number) for number in range(2, 6))
CREATION = task_id(ME, 1)
ACTOR = return_id(CREATION)


class Caller(Talk):
    """It creates an actor and calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = 0

    def dies(self, process: ProcessId) -> list[Effect]:
        lost = self.does(PeerLost(process, "it broke"))
        return lost + self.hears(ProcessDied(process, DeathCause(7, -9), LeaseId(self.leases), 1), NODE)

    def creates(self, max_restarts: int, slots: tuple[ObjectId, ...] = ()) -> list[Effect]:
        options = TaskOptions("A", (), max_restarts)
        return self.does(Submitted(TaskSpec(CREATION, FUNCTION, b"", options, slots=slots, creates_actor=True)))

    def begins(self, asked: list[Effect], worker: ProcessId) -> list[Effect]:
        """The lease that was asked for is granted there, and the constructor ends; what the owner says then."""
        [request] = said(asked, RequestLease)
        self.leases += 1
        [push] = said(self.hears(LeaseGranted(request.request, LeaseId(self.leases), worker), NODE), PushTasks)
        [creation] = push.tasks
        value = ActorAt(worker, creation.attempt)
        return self.hears(TasksDone([TaskResult(CREATION, creation.attempt, (value,))]), worker)

    def calls(self, number: int, retries: int = 0, actor: ObjectId = ACTOR) -> list[Effect]:
        options = TaskOptions("A.m", (), retries)
        call = TaskSpec(task_id(ME, number), FunctionId(b""), b"", options, actor=actor, method="m")
        return self.does(Submitted(call))

    def outcome(self, number: int) -> Any:
        value = self.owner.values.get(return_id(task_id(ME, number)))
        return value.failure.kind if isinstance(value, Failed) else value


def sent(effects: list[Effect]) -> list[tuple[int, int]]:
    """(number, attempt) of each call that leaves."""
    calls = [call for message in said(effects, CallActor) for call in message.calls]
    return [(int.from_bytes(call.task_id[8:], "big"), call.attempt) for call in calls]


def numbers(effects: list[Effect]) -> list[int]:
    return [number for number, _ in sent(effects)]


def done(number: int, attempt: int = 1) -> TasksDone:
    return TasksDone([TaskResult(task_id(ME, number), attempt, (Inline(b"1"),))])


def test_restart_gap() -> None:
    """Of ten calls 0, 4 and 5 were answered: the rest is sent again, in order, and before what had not left (52833)."""
    talk = Caller()
    talk.begins(talk.creates(-1), FIRST)
    effects = [effect for number in range(10, 20) for effect in talk.calls(number, retries=1)]
    effects += talk.hears(done(10), FIRST)
    assert sorted(numbers(effects)) == list(range(10, 20))
    for number in (14, 15):
        talk.hears(done(number), FIRST)
    asked = talk.dies(FIRST)
    assert not sent(asked)
    assert not sent(talk.calls(20)), "a call made meanwhile waits"
    again = sent(talk.begins(asked, SECOND))
    assert [number for number, _ in again] == [11, 12, 13, 16, 17, 18, 19, 20]
    assert {attempt for number, attempt in again if number < 20} == {2}
    talk.hears(done(11, attempt=1), FIRST)
    assert talk.outcome(11) is None, "an old incarnation's answer counts for nothing"
    talk.hears(done(11, attempt=2), SECOND)
    assert talk.outcome(11) == Inline(b"1")


def test_without_retries_what_was_under_way_fails_and_what_was_not_waits() -> None:
    talk = Caller()
    talk.begins(talk.creates(1), FIRST)
    talk.calls(10)
    pending = return_id(task_id(OTHER, 1))
    talk.does(RefsHeld([pending]))
    options = TaskOptions("A.m", (), 0)
    waits = TaskSpec(task_id(ME, 11), FunctionId(b""), b"", options, slots=(pending,), actor=ACTOR, method="m")
    talk.does(Submitted(waits))
    asked = talk.dies(FIRST)
    assert talk.outcome(10) is FailureKind.ACTOR_DIED and talk.outcome(11) is None
    assert not sent(talk.begins(asked, SECOND))
    assert sent(talk.hears(ValueIs(pending, Inline(b"2")), OTHER)) == [(11, 1)]


def test_each_death_spends_one_restart_and_the_last_is_told_to_all() -> None:
    talk = Caller()
    talk.begins(talk.creates(1), FIRST)
    talk.hears(AddHolder(ACTOR, 1), OTHER)
    talk.begins(talk.dies(FIRST), SECOND)
    assert not said(talk.hears(WhereIs(ACTOR, after=2), OTHER), ValueIs), "it has heard of no death yet"
    effects = talk.dies(SECOND)
    assert not said(effects, RequestLease)
    [told] = said(effects, ValueIs)
    assert isinstance(told.value, Failed) and told.value.failure.kind is FailureKind.ACTOR_DIED
    assert said(talk.hears(WhereIs(ACTOR, after=2), OTHER), ValueIs) == [told], "dead absorbs (9883)"


def test_old_alive() -> None:
    """A borrower that knows of the death before the owner does is told of the next life, not of the old one (10176)."""
    talk = Caller()
    talk.begins(talk.creates(1), FIRST)
    talk.hears(AddHolder(ACTOR, 1), OTHER)
    assert said(talk.hears(WhereIs(ACTOR), OTHER), ValueIs) == [ValueIs(ACTOR, ActorAt(FIRST, 1))]
    assert not said(talk.hears(WhereIs(ACTOR, after=1), OTHER), ValueIs)
    effects = talk.begins(talk.dies(FIRST), SECOND)
    assert said(effects, ValueIs) == [ValueIs(ACTOR, ActorAt(SECOND, 2))]


def test_a_borrower_that_asked_for_the_next_life_is_answered_when_the_actor_is_let_go() -> None:
    talk = Caller()
    talk.begins(talk.creates(1), FIRST)
    talk.hears(AddHolder(ACTOR, 1), OTHER)
    talk.hears(WhereIs(ACTOR, after=1), OTHER)
    talk.does(RefsDropped([ACTOR]))
    assert said(talk.hears(DropHolders([ACTOR]), OTHER), RefGone) == [RefGone(ACTOR, 0)]


def test_a_borrower_asks_for_the_next_life_and_ends_the_unreachable_one() -> None:
    talk = Caller()
    actor = return_id(task_id(OTHER, 1))
    talk.does(RefsHeld([actor]))
    talk.calls(10, retries=1, actor=actor)
    assert sent(talk.hears(ValueIs(actor, ActorAt(FIRST, 1)), OTHER)) == [(10, 1)]
    effects = talk.does(PeerLost(FIRST, "it broke"))
    assert said(effects, KillWorker) == [KillWorker(FIRST)]
    effects = talk.hears(ProcessDied(FIRST, DeathCause(7, -9), LeaseId(0), 0), NODE)
    assert said(effects, WhereIs) == [WhereIs(actor, after=1)]
    assert sent(talk.hears(ValueIs(actor, ActorAt(SECOND, 2)), OTHER)) == [(10, 2)]
    talk.does(PeerLost(OTHER, "it broke"))
    talk.dies(SECOND)
    assert talk.outcome(10) is FailureKind.ACTOR_DIED, "its owner is gone, so nobody restarts it"


def test_constructor_arguments() -> None:
    """They are held until no restart is left, whoever else lets go of them (47043)."""
    talk = Caller()
    given = return_id(task_id(OTHER, 1))
    talk.does(RefsHeld([given]))
    talk.creates(1, slots=(given,))
    asked = talk.hears(ValueIs(given, Inline(b"2")), OTHER)
    talk.begins(asked, FIRST)
    assert not said(talk.does(RefsDropped([given])), DropHolders)
    effects = talk.begins(talk.dies(FIRST), SECOND)
    assert said(effects, DropHolders) == [DropHolders([given])]


def test_an_actor_that_is_killed_or_let_go_has_no_other_life() -> None:
    for ends in (KillRequested(ACTOR), RefsDropped([ACTOR])):
        talk = Caller()
        talk.begins(talk.creates(-1), FIRST)
        effects = talk.does(ends)
        assert said(effects, KillWorker) or said(effects, ReturnLease)
        assert not said(talk.dies(FIRST), RequestLease)
        assert talk.owner.statistics()["restartable"] == 0
    talk = Caller()
    talk.begins(talk.creates(-1), FIRST)
    assert said(talk.does(KillRequested(ACTOR, restart=True)), KillWorker)
    talk.begins(talk.dies(FIRST), SECOND)


def test_killed_while_it_restarts() -> None:
    talk = Caller()
    talk.begins(talk.creates(-1), FIRST)
    talk.calls(10, retries=1)
    talk.dies(FIRST)
    talk.does(KillRequested(ACTOR))
    assert talk.outcome(10) is FailureKind.ACTOR_DIED
    talk.calls(11)
    assert talk.outcome(11) is FailureKind.ACTOR_DIED
    assert talk.owner.statistics()["restartable"] == 0


def test_own_handle() -> None:
    """The hold of an actor's own process on it keeps nothing; that of anybody else does (45699)."""
    talk = Caller()
    talk.begins(talk.creates(0), FIRST)
    talk.hears(AddHolder(ACTOR, 1), FIRST)
    talk.hears(AddHolder(ACTOR, 1), THIRD)
    assert not said(talk.does(RefsDropped([ACTOR])), ReturnLease)
    assert said(talk.hears(DropHolders([ACTOR]), THIRD), ReturnLease)
    assert not talk.owner.knows(ACTOR)


def test_the_last_hold_of_an_actor_is_a_pin_of_its_own_process() -> None:
    """The link's end let go of the pin, and so of the actor, before its queue was looked at (20504 with 50 tasks)."""
    talk = Caller()
    talk.begins(talk.creates(0), FIRST)
    talk.calls(10)
    result = TaskResult(task_id(ME, 10), 1, (Inline(b"1"),), pending=True)
    talk.hears(TasksDone([result]), FIRST)
    talk.does(RefsDropped([ACTOR]))
    talk.dies(FIRST)
    assert not talk.owner.knows(ACTOR)


def test_a_borrower_hears_of_the_death_of_an_actors_node_before_the_actors_owner() -> None:
    """It has no lease there and its link tells nothing: what it had called would wait for an answer for ever."""
    talk = Caller()
    actor, away = return_id(task_id(OTHER, 1)), process_id(b"test", (1 << 20) + 5)
    talk.does(RefsHeld([actor]))
    talk.calls(10, actor=actor)
    assert numbers(talk.hears(ValueIs(actor, ActorAt(away, 1)), OTHER)) == [10]
    effects = talk.hears(NodeDied(node_of(away)), NODE)
    assert talk.outcome(10) is FailureKind.ACTOR_DIED
    assert not numbers(talk.calls(11, actor=actor)), "nobody calls the dead"
    assert said(effects, WhereIs) == [WhereIs(actor, after=1)]
