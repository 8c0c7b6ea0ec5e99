"""The owner's machine alone: orders of events that the simulator meets too rarely to be relied on."""

from __future__ import annotations


from owner_alone import FUNCTION, ME, NODE, Talk, said

from miniray.core.failures import DeathCause, Failure, FailureKind
from miniray.core.ids import FunctionId, LeaseId, process_id, return_id, task_id
from miniray.core.machine import Awaited, PeerLost, Received, Tick
from miniray.core.messages import (
    AddHolder,
    ArgumentsArrived,
    CallActor,
    DropHolders,
    ExecutionEnded,
    FreePlaces,
    HolderAdded,
    LeaseGranted,
    PlacesHeld,
    ProcessDied,
    PushTasks,
    RequestLease,
    ReturnLease,
    TakeBack,
    TakenBack,
    TasksDone,
    ValueIs,
    WhereIs,
)
from miniray.core.owner.events import FunctionExported, RefsDropped, RefsHeld, Submitted, ValuePut
from miniray.core.owner.owner import Owner
from miniray.core.task_spec import ActorAt, Failed, Inline, Place, Stored, TaskOptions, TaskResult, TaskSpec

WORKER, OTHER, THIRD = (process_id(b"test", number) for number in range(2, 5))
OPTIONS = TaskOptions("f", (("CPU", 10_000),))


def test_a_grant_on_a_lost_worker_is_given_back_and_asked_again() -> None:
    """Pushed there, the task would never be answered: the loss has been told already."""
    talk = Talk()
    asked = said(talk.does(Submitted(TaskSpec(task_id(ME, 1), FUNCTION, b"", OPTIONS))), RequestLease)
    talk.does(PeerLost(WORKER, "it broke"))
    effects = talk.hears(LeaseGranted(asked[0].request, LeaseId(5), WORKER), NODE)
    assert said(effects, ReturnLease) == [ReturnLease(LeaseId(5), spoilt=True)]
    assert not said(effects, PushTasks)
    again = said(effects, RequestLease)
    assert len(again) == 1 and again[0].request != asked[0].request


def test_an_actor_whose_address_is_learnt_after_its_death_is_asked_for_again() -> None:
    """Its owner may have told it before it knew; only the owner says that there is no other life."""
    talk = Talk()
    actor = return_id(task_id(OTHER, 1))
    talk.does(RefsHeld([actor]))
    call = TaskSpec(task_id(ME, 2), FunctionId(b""), b"", OPTIONS, actor=actor, method="m")
    assert said(talk.does(Submitted(call)), WhereIs)
    talk.does(PeerLost(WORKER, "it broke"))
    talk.hears(ProcessDied(WORKER, DeathCause(1, -9), LeaseId(0), 0), NODE)
    effects = talk.hears(ValueIs(actor, ActorAt(WORKER, 1)), OTHER)
    assert said(effects, WhereIs) == [WhereIs(actor, after=1)] and not said(effects, CallActor)
    talk.hears(ValueIs(actor, Failed(Failure(FailureKind.ACTOR_DIED, "A", "gone"))), OTHER)
    value = talk.owner.values[return_id(task_id(ME, 2))]
    assert isinstance(value, Failed) and value.failure.kind is FailureKind.ACTOR_DIED


def test_a_reader_holds_the_outer_ref_until_the_inner_one_is_registered() -> None:
    """PROTOCOL.md section 4: it registers each inner ref before it lets go of the outer one."""
    talk = Talk()
    outer, inner = return_id(task_id(OTHER, 1)), return_id(task_id(THIRD, 1))
    talk.does(RefsHeld([outer]))
    assert said(talk.does(Awaited([outer])), WhereIs)
    asked = said(talk.hears(ValueIs(outer, Inline(b"", (inner,))), OTHER), AddHolder)
    assert [one.object_id for one in asked] == [inner]
    talk.does(RefsHeld([inner]))
    assert not said(talk.does(RefsDropped([outer])), DropHolders)
    assert not said(talk.hears(HolderAdded(inner, asked[0].number - 1), THIRD), DropHolders), "of an earlier receipt"
    assert said(talk.hears(HolderAdded(inner, asked[0].number), THIRD), DropHolders) == [DropHolders([outer])]


def test_a_ref_that_comes_home_after_it_was_freed_has_an_error() -> None:
    """As an argument it had no value, and nobody was ever to make one: the task's `get` waited for ever."""
    talk = Talk()
    freed = return_id(task_id(ME, 7))
    talk.hears(ArgumentsArrived(OTHER, task_id(OTHER, 1), 1, (freed,)), ME)
    value = talk.owner.values[freed]
    assert isinstance(value, Failed) and value.failure.kind is FailureKind.OBJECT_LOST
    assert said(talk.hears(WhereIs(freed), OTHER), ValueIs) == [ValueIs(freed, value)]
    talk.hears(ExecutionEnded(OTHER, TaskResult(task_id(OTHER, 1), 1, (Inline(b""),))), ME)
    assert not talk.owner.knows(freed)


def test_a_chain_of_ten_thousand_fails_with_its_first_link() -> None:
    """Each failure failed the next task from within: past a few hundred links that was a RecursionError."""
    owner = Owner(ME, NODE)
    owner.step(0.0, FunctionExported(FUNCTION, Inline(b"")))
    tasks = [task_id(ME, number) for number in range(1, 10_001)]
    asked = said(owner.step(0.0, Submitted(TaskSpec(tasks[0], FUNCTION, b"", OPTIONS))), RequestLease)
    for before, task in zip(tasks, tasks[1:], strict=False):
        owner.step(0.0, Submitted(TaskSpec(task, FUNCTION, b"", OPTIONS, slots=(return_id(before),))))
    owner.step(1.0, Received(NODE, LeaseGranted(asked[0].request, LeaseId(5), WORKER)))
    failed = Failed(Failure(FailureKind.TASK_ERROR, "f", "no"))
    owner.step(1.0, Received(WORKER, TasksDone([TaskResult(tasks[0], 1, (failed,))])))
    assert all(owner.values[return_id(task)] == failed for task in tasks[1:])
    owner.step(1.0, RefsDropped([return_id(task) for task in tasks]))
    owner.check()
    assert not owner.statistics()["tasks"] and not owner.statistics()["references"]


def test_the_loss_of_its_node_takes_nothing_of_its_own_along() -> None:
    """A node's id names all owners there where a dead node is buried; the end of a link to it says nothing of them."""
    talk = Talk()
    mine = return_id(task_id(ME, 1))
    talk.does(ValuePut(mine, Inline(b"")))
    talk.does(PeerLost(NODE, "the link was cut"))
    assert talk.owner.values[mine] == Inline(b"")


def test_an_idle_lease_waits_for_what_is_taken_back() -> None:
    """Given up while `TakeBack` was under way on a slow link, it left the task to the same busy worker, for ever."""
    talk = Talk()
    ids = [task_id(ME, number) for number in (1, 2, 3)]
    asked = said(talk.does(Submitted(TaskSpec(ids[0], FUNCTION, b"", OPTIONS))), RequestLease)
    talk.hears(LeaseGranted(asked[0].request, LeaseId(1), WORKER), NODE)
    talk.hears(TasksDone([TaskResult(ids[0], 1, (Inline(b""),), 100)]), WORKER)
    effects = [effect for one in ids[1:] for effect in talk.does(Submitted(TaskSpec(one, FUNCTION, b"", OPTIONS)))]
    effects += talk.does(Awaited([return_id(ids[2])]))
    assert [push.lease for push in said(effects, PushTasks)] == [LeaseId(1)] * 2, "both there, for they are short"
    (request,) = said(effects, RequestLease)
    effects = talk.hears(LeaseGranted(request.request, LeaseId(2), OTHER), NODE)
    for _ in range(3):
        effects += talk.does(Tick())
    assert [message.tasks for message in said(effects, TakeBack)] == [[ids[2]]]
    talk.now += 0.5
    assert not said(talk.does(Tick()), ReturnLease)
    effects = talk.hears(TakenBack(LeaseId(1), [ids[2]]), WORKER)
    assert [(push.lease, push.tasks[0].task_id) for push in said(effects, PushTasks)] == [(LeaseId(2), ids[2])]
    talk.hears(TasksDone([TaskResult(ids[2], 2, (Inline(b""),), 100)]), OTHER)
    talk.now += 0.5
    assert said(talk.does(Tick()), ReturnLease) == [ReturnLease(LeaseId(2))]


def test_places_that_a_peer_names_in_a_new_session_are_freed_where_no_value_lies() -> None:
    """The word that freed them, or brought them, was lost with the link."""
    talk = Talk()
    mine, gone = (return_id(task_id(ME, number)) for number in (1, 2))
    place, other, old = (Place(OTHER, offset, 100) for offset in (4096, 8192, 12288))
    talk.does(ValuePut(mine, Stored(place)))
    freed = said(talk.hears(PlacesHeld([(mine, place), (gone, other), (mine, old)]), OTHER), FreePlaces)
    assert freed == [FreePlaces([(gone, other), (mine, old)])]
    assert not talk.hears(PlacesHeld([(mine, place)]), OTHER)
