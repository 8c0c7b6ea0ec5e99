"""The worker role: runs what owners push under leases of the node, or the calls of one actor (PROTOCOL.md 5, 7).

- A push names its lease. One that comes before the node's `LeaseStarted` is held back; one of a lease that has
  ended is given back.
- Results without refs are gathered here. One that says anything of holds goes through the owner role of this
  process, which knows them, and it leaves at once: were it gathered, a later `DropHolders` could overtake it.
- While the running task waits for others, what is queued under its lease goes back to its owner, or the
  pipeline deadlocks. Calls of an actor stay: only this process can run them.
- A worker that is told to exit first finishes what it has, then asks its owner role whether anybody needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import LeaseId, ObjectId, ProcessId, TaskId
from miniray.core.machine import Awaited, AwaitEnded, LinkRenewed, PeerLost, Received, Send, Tick
from miniray.core.messages import (
    ArgumentsArrived,
    AskDrained,
    Blocked,
    CallActor,
    CancelChildren,
    CancelTask,
    DefineFunction,
    Drained,
    ExecutionEnded,
    ExitWorker,
    ForgetFunction,
    LeaseEnded,
    LeaseStarted,
    LeaseStopped,
    PushTasks,
    TakeBack,
    TakenBack,
    TasksDone,
    Unblocked,
)
from miniray.core.record import Effect, Event, Message
from miniray.core.task_spec import ActorAt, Failed, PushedTask, TaskResult, Value, contained
from miniray.core.worker.events import (
    DropFunction,
    ExitProcess,
    ForgetInstance,
    InstallFunction,
    InterruptTask,
    RunTask,
    TaskFinished,
)
from miniray.core.worker.run_queue import RESULT_DELAY_SECONDS, RunQueue, Waiting

MAX_ENDED_LEASES = 1024
ACTOR_LEASE = LeaseId(0)

Handler = Callable[[float, Any, ProcessId], None]


class Worker:
    def __init__(self, me: ProcessId, node: ProcessId) -> None:
        self._me = me
        self._node = node
        self._effects: list[Effect] = []
        self._emit = self._effects.append
        self._queue = RunQueue()
        self._leases: dict[LeaseId, ProcessId] = {}
        self._ended: dict[LeaseId, None] = {}
        self._early: dict[LeaseId, list[tuple[ProcessId, PushTasks]]] = {}
        self._actor: ObjectId | None = None
        self._actor_lease = ACTOR_LEASE
        self._stopping = ACTOR_LEASE  # an orphaned lease whose last task still runs
        self._unwanted = False  # the running task's submitter is gone
        self._waits = 0  # threads of the running task that are blocked
        self._exiting = False
        self._one_task = False
        self._on: dict[type[Event] | type[Message], Handler] = {
            TaskFinished: self._on_task_finished,
            Awaited: self._on_awaited,
            AwaitEnded: self._on_await_ended,
            Tick: self._on_tick,
            PeerLost: self._on_peer_lost,
            LinkRenewed: self._on_link_renewed,
            Drained: self._on_drained,
            PushTasks: self._on_push_tasks,
            CallActor: self._on_call_actor,
            TakeBack: self._on_take_back,
            CancelTask: self._on_cancel_task,
            DefineFunction: self._on_define_function,
            ForgetFunction: self._on_forget_function,
            LeaseStarted: self._on_lease_started,
            LeaseEnded: self._on_lease_ended,
            ExitWorker: self._on_exit_worker,
        }

    def handles(self) -> tuple[type[Event] | type[Message], ...]:
        return tuple(self._on)

    def step(self, now: float, event: Event) -> list[Effect]:
        if type(event) is Received:
            self._on[type(event.message)](now, event.message, event.peer)
        else:
            self._on[type(event)](now, event, self._me)
        if not self._effects:
            return []
        effects = self._effects[:]
        self._effects.clear()
        return effects

    # ---- what arrives ----

    def _on_push_tasks(self, now: float, message: PushTasks, peer: ProcessId) -> None:
        lease = message.lease
        if lease not in self._leases:
            if lease in self._ended:
                self._give_back(peer, lease, [task.task_id for task in message.tasks], blocked=False)
            else:
                self._early.setdefault(lease, []).append((peer, message))
            return
        if self._waits and self._queue.running is not None and self._queue.running.lease == lease:
            self._give_back(peer, lease, [task.task_id for task in message.tasks], blocked=True)
            return
        self._accept(now, peer, lease, message.tasks)

    def _on_call_actor(self, now: float, message: CallActor, peer: ProcessId) -> None:
        if message.actor == self._actor:
            self._accept(now, peer, ACTOR_LEASE, message.calls)
            return
        failure = Failure(FailureKind.ACTOR_DIED, "", "this process does not run that actor")
        results = [TaskResult(c.task_id, c.attempt, (Failed(failure),) * c.num_returns) for c in message.calls]
        self._emit(Send(peer, TasksDone(results)))

    def _accept(self, now: float, submitter: ProcessId, lease: LeaseId, tasks: list[PushedTask]) -> None:
        self._one_task = len(tasks) == 1 and self._queue.running is None
        self._queue.waiting.extend([Waiting(submitter, lease, task) for task in tasks])
        if self._queue.running is None:
            self._start_next()

    def _give_back(self, owner: ProcessId, lease: LeaseId, tasks: list[Any], *, blocked: bool) -> None:
        self._emit(Send(owner, TakenBack(lease, tasks, blocked)))

    def _start_next(self) -> None:
        item = self._queue.take_next()
        if item is None:
            if self._exiting:
                self._maybe_exit()
            return
        task = item.task
        if task.refs:
            arrived = ArgumentsArrived(item.submitter, task.task_id, task.attempt, task.refs)
            self._emit(Send(self._me, arrived))
        self._emit(RunTask(item.lease, task))

    # ---- what ends ----

    def _on_task_finished(self, now: float, event: TaskFinished, peer: ProcessId) -> None:
        item = self._queue.running
        assert item is not None and item.task.task_id == event.task_id, "a task has finished that was not running"
        task = item.task
        values: tuple[Value, ...] = event.values
        if task.creates_actor and not isinstance(values[0], Failed):
            self._actor = ObjectId(task.task_id + bytes(4))
            self._actor_lease = item.lease
            values = (ActorAt(self._me, task.attempt),)
        result = TaskResult(event.task_id, event.attempt, values, event.duration_microseconds, event.retry)
        if self._waits:  # a thread that the task has left behind still waits: the CPU is this lease's again
            self._waits = 0
            self._emit(Send(self._node, Unblocked(item.lease or self._actor_lease)))
        queue = self._queue
        queue.measured(task, event.duration_microseconds)
        if self._unwanted:  # its owner is dead: the owner role frees what it made
            self._unwanted = False
            self._emit(Send(self._me, ExecutionEnded(item.submitter, result)))
        elif task.refs or (contained(values[0]) if len(values) == 1 else any([contained(value) for value in values])):
            self._send_results()
            self._emit(Send(self._me, ExecutionEnded(item.submitter, result)))
        elif not queue.waiting and not queue.has_results:
            self._emit(Send(item.submitter, TasksDone([result])))
        else:
            queue.add_result(now, item.submitter, result)
            if queue.must_send(now):
                self._send_results()
        if item.lease == self._stopping and self._stopping:
            self._emit(Send(self._node, LeaseStopped(self._stopping)))
            self._stopping = ACTOR_LEASE
        self._start_next()

    def _send_results(self) -> None:
        for submitter, results in self._queue.take_results():
            self._emit(Send(submitter, TasksDone(results)))

    # ---- waiting inside a task ----

    def _on_awaited(self, now: float, event: Awaited, peer: ProcessId) -> None:
        self._waits += 1
        self._send_results()
        running = self._queue.running
        if self._waits > 1 or running is None:
            return
        self._emit(Send(self._node, Blocked(running.lease or self._actor_lease)))
        if running.lease == ACTOR_LEASE:
            return
        back = self._queue.remove_lease(running.lease)
        self._give_back(running.submitter, running.lease, back, blocked=True)

    def _on_await_ended(self, now: float, event: AwaitEnded, peer: ProcessId) -> None:
        if not self._waits:
            return  # of a task that has ended
        self._waits -= 1
        running = self._queue.running
        if self._waits == 0 and running is not None:
            self._emit(Send(self._node, Unblocked(running.lease or self._actor_lease)))

    # ---- taking back, cancelling ----

    def _on_take_back(self, now: float, message: TakeBack, peer: ProcessId) -> None:
        back = [task_id for task_id in message.tasks if self._take_out(task_id) is not None]
        self._give_back(peer, message.lease, back, blocked=False)

    def _take_out(self, task_id: TaskId) -> Waiting | None:
        """A task that has not started, also of a push that is held back; it will not run here."""
        for lease, pushes in self._early.items():
            for index, (owner, push) in enumerate(pushes):
                for task in push.tasks:
                    if task.task_id == task_id:
                        pushes[index] = owner, PushTasks(lease, [one for one in push.tasks if one is not task])
                        return Waiting(owner, lease, task)
        return self._queue.remove(task_id)

    def _on_cancel_task(self, now: float, message: CancelTask, peer: ProcessId) -> None:
        running = self._queue.running
        if running is not None and running.task.task_id == message.task and running.task.attempt == message.attempt:
            if not message.running:
                return
            if message.recursive:
                self._emit(Send(self._me, CancelChildren(message.task)))
            self._emit(InterruptTask(message.task))
            return
        item = self._take_out(message.task)
        if item is not None:
            failed = Failed(Failure(FailureKind.CANCELLED, "", "the task was cancelled before it started"))
            result = TaskResult(message.task, message.attempt, (failed,) * item.task.num_returns)
            self._send_results()
            self._emit(Send(peer, TasksDone([result])))

    def _on_peer_lost(self, now: float, event: PeerLost, peer: ProcessId) -> None:
        """A dead owner's tasks end with it."""
        self._queue.remove_submitter(event.peer)
        running = self._queue.running
        if running is not None and running.submitter == event.peer:
            self._unwanted = True
            self._emit(Send(self._me, CancelChildren(running.task.task_id)))
            self._emit(InterruptTask(running.task.task_id))
        self._forget_early(event.peer)

    def _on_link_renewed(self, now: float, event: LinkRenewed, peer: ProcessId) -> None:
        """What that peer had sent, and has not heard of, it has given up (50814). What runs for it here ends before the
        next can begin, as one task runs at a time; a lease's worker will be killed."""
        self._queue.remove_submitter(event.peer)
        self._forget_early(event.peer)

    def _forget_early(self, owner: ProcessId) -> None:
        for lease in [lease for lease, pushes in self._early.items() if pushes[0][0] == owner]:
            del self._early[lease]

    # ---- functions ----

    def _on_define_function(self, now: float, message: DefineFunction, peer: ProcessId) -> None:
        self._emit(InstallFunction(message.function, peer, message.value, message.object_id))

    def _on_forget_function(self, now: float, message: ForgetFunction, peer: ProcessId) -> None:
        self._emit(DropFunction(message.function, peer))

    # ---- leases, and the end ----

    def _on_lease_started(self, now: float, message: LeaseStarted, peer: ProcessId) -> None:
        self._leases[message.lease] = message.owner
        for owner, push in self._early.pop(message.lease, []):
            self._on_push_tasks(now, push, owner)

    def _on_lease_ended(self, now: float, message: LeaseEnded, peer: ProcessId) -> None:
        owner = self._leases.pop(message.lease, None)
        if len(self._ended) >= MAX_ENDED_LEASES:
            del self._ended[next(iter(self._ended))]
        self._ended[message.lease] = None
        back = self._queue.remove_lease(message.lease)
        if owner is not None and back:
            self._give_back(owner, message.lease, back, blocked=False)
        if message.orphaned:
            running = self._queue.running
            if running is not None and running.lease == message.lease:
                self._stopping = message.lease
            else:
                self._emit(Send(self._node, LeaseStopped(message.lease)))

    def _on_exit_worker(self, now: float, message: ExitWorker, peer: ProcessId) -> None:
        self._exiting = True
        self._maybe_exit()

    def _maybe_exit(self) -> None:
        if self._exiting and self._queue.running is None and not self._queue.waiting:
            self._send_results()
            if self._actor is not None:  # what it keeps may keep, at its owner, what this process is waited for
                self._actor = None
                self._emit(ForgetInstance())
            self._emit(Send(self._me, AskDrained()))

    def _on_drained(self, now: float, message: Drained, peer: ProcessId) -> None:
        if self._queue.running is None and not self._queue.waiting:
            self._emit(ExitProcess())

    # ---- time, proof ----

    def _on_tick(self, now: float, event: Tick, peer: ProcessId) -> None:
        deadline = self.deadline()
        if deadline is not None and deadline <= now:
            self._send_results()

    def deadline(self) -> float | None:
        oldest = self._queue.oldest
        return None if oldest is None else oldest + RESULT_DELAY_SECONDS

    def had_one_task(self) -> bool:
        """Whether what came last was a single task for an idle worker: its owner waits for each, one by one."""
        return self._one_task

    def check(self) -> None:
        assert self._queue.running is not None or not self._queue.waiting, "tasks wait though nothing runs"
        assert self._waits >= 0, "more waits have ended than began"
        running = self._queue.running
        if self._waits and running is not None and running.lease != ACTOR_LEASE:
            behind = [item for item in self._queue.waiting if item.lease == running.lease]
            assert not behind, "tasks wait behind one of their lease that waits itself"

    def statistics(self) -> dict[str, int]:
        return {
            "run_queue": len(self._queue.waiting),
            "running": int(self._queue.running is not None),
            "early_pushes": len(self._early),
        }
