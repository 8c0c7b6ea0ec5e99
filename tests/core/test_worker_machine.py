"""The worker role, step by step: what it runs, gives back and answers."""

from __future__ import annotations

from miniray.core.failures import FailureKind
from miniray.core.ids import LeaseId, process_id, task_id
from miniray.core.machine import Awaited, AwaitEnded, PeerLost, Received, Send
from miniray.core.messages import (
    AskDrained,
    Blocked,
    CallActor,
    CancelTask,
    Drained,
    ExitWorker,
    LeaseEnded,
    LeaseStarted,
    PushTasks,
    TakeBack,
    TakenBack,
    TasksDone,
    Unblocked,
)
from miniray.core.record import Effect, Message
from miniray.core.task_spec import Failed, Inline, PushedTask
from miniray.core.worker.events import ExitProcess, InterruptTask, RunTask, TaskFinished
from miniray.core.worker.worker import Worker

NODE, OWNER, ME = (process_id(b"test", number) for number in (0, 1, 2))
LEASE = LeaseId(7)


def task(number: int) -> PushedTask:
    return PushedTask(task_id(OWNER, number), 1, b"function", b"payload", number)  # type: ignore[arg-type]


class Talk:
    """One worker, and what it answers."""

    def __init__(self) -> None:
        self.worker = Worker(ME, NODE)
        self.now = 0.0

    def hear(self, message: Message, peer: bytes = OWNER) -> list[Effect]:
        return self.worker.step(self.now, Received(peer, message))  # type: ignore[arg-type]

    def start(self) -> Talk:
        self.hear(LeaseStarted(LEASE, OWNER), NODE)
        return self

    def push(self, *numbers: int) -> list[Effect]:
        return self.hear(PushTasks(LEASE, [task(number) for number in numbers]))

    def finish(self, number: int, microseconds: int = 5) -> list[Effect]:
        value = Inline(b"value")
        return self.worker.step(self.now, TaskFinished(task_id(OWNER, number), 1, (value,), microseconds))


def runs(effects: list[Effect]) -> list[int]:
    return [effect.task.sequence for effect in effects if isinstance(effect, RunTask)]


def sent(effects: list[Effect], kind: type[Message]) -> list[Message]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def test_push_before_lease_news() -> None:
    """A push that beats the node's news of its lease is held back, then run."""
    talk = Talk()
    assert talk.push(1) == []
    assert runs(talk.hear(LeaseStarted(LEASE, OWNER), NODE)) == [1]


def test_a_push_of_an_ended_lease_is_given_back() -> None:
    talk = Talk().start()
    talk.hear(LeaseEnded(LEASE), NODE)
    back = sent(talk.push(1), TakenBack)
    assert back == [TakenBack(LEASE, [task_id(OWNER, 1)], False)]


def test_one_task_at_a_time_in_their_order() -> None:
    talk = Talk().start()
    assert runs(talk.push(1, 2, 3)) == [1]
    assert runs(talk.finish(1)) == [2]
    assert runs(talk.finish(2)) == [3]
    talk.worker.check()


def test_results_gather_while_short_tasks_follow_and_leave_with_the_last() -> None:
    talk = Talk().start()
    talk.push(1, 2, 3)
    assert len(sent(talk.finish(1), TasksDone)) == 0, "it was measured now: the next is short"
    assert sent(talk.finish(2), TasksDone) == []
    (last,) = sent(talk.finish(3), TasksDone)
    assert [result.task_id for result in last.results] == [task_id(OWNER, number) for number in (1, 2, 3)]  # type: ignore[attr-defined]


def test_a_result_waits_a_millisecond_at_most() -> None:
    talk = Talk().start()
    talk.push(1, 2, 3)
    talk.finish(1)
    deadline = talk.worker.deadline()
    assert deadline is not None and deadline <= 0.001
    talk.now = 0.002
    assert len(sent(talk.finish(2), TasksDone)) == 1


def test_blocked_gives_back() -> None:
    """What is queued behind a task that waits goes back to its owner, and what comes later, too."""
    talk = Talk().start()
    talk.push(1, 2, 3)
    effects = talk.worker.step(0.0, Awaited([]))
    assert sent(effects, Blocked) == [Blocked(LEASE)]
    assert sent(effects, TakenBack) == [TakenBack(LEASE, [task_id(OWNER, 2), task_id(OWNER, 3)], True)]
    assert sent(talk.push(4), TakenBack) == [TakenBack(LEASE, [task_id(OWNER, 4)], True)]
    assert sent(talk.worker.step(0.0, AwaitEnded()), Unblocked) == [Unblocked(LEASE)]
    assert runs(talk.push(5)) == [] and runs(talk.finish(1)) == [5]


def test_a_thread_that_waits_longer_than_its_task() -> None:
    """The lease is not blocked for ever by what a task has left behind."""
    talk = Talk().start()
    talk.push(1)
    talk.worker.step(0.0, Awaited([]))
    assert sent(talk.finish(1), Unblocked) == [Unblocked(LEASE)]
    assert runs(talk.push(2)) == [2]
    assert talk.worker.step(0.0, AwaitEnded()) == []
    talk.worker.check()


def test_take_back_answers_with_exactly_what_will_not_run() -> None:
    talk = Talk().start()
    talk.push(1, 2, 3)
    asked = [task_id(OWNER, number) for number in (1, 3, 9)]
    assert sent(talk.hear(TakeBack(LEASE, asked)), TakenBack) == [TakenBack(LEASE, [task_id(OWNER, 3)], False)]


def test_cancel_of_a_queued_and_of_the_running_task() -> None:
    talk = Talk().start()
    talk.push(1, 2)
    (done,) = sent(talk.hear(CancelTask(task_id(OWNER, 2), 1, False)), TasksDone)
    value = done.results[0].values[0]  # type: ignore[attr-defined]
    assert isinstance(value, Failed) and value.failure.kind is FailureKind.CANCELLED
    assert InterruptTask(task_id(OWNER, 1)) in talk.hear(CancelTask(task_id(OWNER, 1), 1, False))
    assert talk.hear(CancelTask(task_id(OWNER, 1), 2, False)) == [], "another attempt"


def test_a_dead_owners_tasks_end_with_it() -> None:
    talk = Talk().start()
    talk.push(1, 2)
    assert InterruptTask(task_id(OWNER, 1)) in talk.worker.step(0.0, PeerLost(OWNER, "gone"))
    assert runs(talk.finish(1)) == []


def test_a_call_of_an_actor_that_does_not_live_here_fails() -> None:
    talk = Talk()
    (done,) = sent(talk.hear(CallActor(task_id(OWNER, 1) + bytes(4), [task(2)])), TasksDone)  # type: ignore[arg-type]
    assert done.results[0].values[0].failure.kind is FailureKind.ACTOR_DIED  # type: ignore[attr-defined]


def test_graceful_exit() -> None:
    """Told to exit, it finishes what it has, and asks whether anybody needs it."""
    talk = Talk().start()
    talk.push(1)
    assert talk.hear(ExitWorker(), NODE) == []
    effects = talk.finish(1)
    assert sent(effects, AskDrained) and sent(effects, TasksDone)
    assert talk.hear(Drained(), ME) == [ExitProcess()]
