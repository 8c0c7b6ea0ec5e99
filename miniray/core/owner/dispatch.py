"""Dispatch: tasks to leased workers (PROTOCOL.md section 5). The decisions are in `leases.py`; here they are done.

The node is asked once per lease, and may name another one to ask instead; then tasks go straight to the worker, many to
a message. What concerns a request goes to the node that was asked last, a lease: to its worker's node. What a dead
worker had not started costs its tasks nothing: the worker writes down the sequence number of the task that it starts,
and the node reports it with the death. Until that report (bounded) the worker's tasks are LOST.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from miniray.core.failures import NODE_DIED_STATUS, UNKNOWN_STATUS, DeathCause, Failure, FailureKind
from miniray.core.ids import LeaseId, ObjectId, ProcessId, TaskId, node_of
from miniray.core.machine import Send
from miniray.core.messages import (
    CancelRequest,
    CancelTask,
    KillWorker,
    LeaseGranted,
    LeaseRefused,
    ProcessDied,
    PushTasks,
    RequestLease,
    ReturnLease,
    Spillback,
    TakeBack,
    TakenBack,
)
from miniray.core.owner.completion import Completion
from miniray.core.owner.leases import FLUSH_SECONDS, LINGER_SECONDS, Lease, SchedulingClass
from miniray.core.owner.tasks import Task, TaskState
from miniray.core.record import Effect
from miniray.core.resources import Demand
from miniray.core.task_spec import Failed, PushedTask, TaskResult

CAUSE_SECONDS = 2.0  # how long the cause of a worker's death is waited for
_LOOK_EVERY = 64  # a class without idle workers looks for room at every 64th submission
CANCELLED = Failure(FailureKind.CANCELLED, "", "the task was cancelled")


class Dispatch:
    def __init__(self, node: ProcessId, completion: Completion, emit: Callable[[Effect], None]) -> None:
        self._node = node
        self._completion = completion
        self._emit = emit
        self._classes: dict[Demand, SchedulingClass] = {}
        self._leases: dict[LeaseId, Lease] = {}
        self._requests: dict[int, SchedulingClass | Task] = {}  # a Task: the creation of an actor
        self._spilled: dict[int, tuple[ProcessId, int]] = {}  # requests at other nodes: which, sent on how often
        self._actor_leases: dict[ObjectId, Lease] = {}
        self._next_request = 0
        self.flush_at: float | None = None  # queued tasks wait for company until then
        self.sweep_at: float | None = None

    # ---- queueing ----

    def enqueue(self, now: float, task: Task) -> None:
        if task.spec.creates_actor:
            self._ask(task)
            return
        found = self._classes.get(task.spec.options.demand)
        if found is None:
            found = self._classes[task.spec.options.demand] = SchedulingClass(task.spec.options.demand, deque())
        queue = found.queue
        if found.idle and not queue:
            lease = found.idle.popitem()[1]
            lease.pushed_at = now
            self._emit(Send(lease.worker, PushTasks(lease.lease, [self._to_lease(task, lease)])))
            return
        queue.append(task)
        if len(queue) % _LOOK_EVERY == 1:
            self._pump(now, found, eager=False)
        elif self.flush_at is None:
            self.flush_at = now + FLUSH_SECONDS

    def requeue(self, now: float, tasks: list[Task]) -> None:
        """Tasks that were out already go to the head of their queues, in their order."""
        for task in reversed(tasks):
            if task.spec.creates_actor:
                self.enqueue(now, task)
                continue
            self._classes[task.spec.options.demand].queue.appendleft(task)
        self.flush(now)

    def flush(self, now: float) -> None:
        """Somebody waits: nothing is held back for company."""
        self.flush_at = None
        for found in self._classes.values():
            if found.queue:
                self._pump(now, found, eager=True)

    def _pump(self, now: float, found: SchedulingClass, *, eager: bool) -> None:
        queue = found.queue
        while (chosen := found.choose(eager=eager)) is not None:
            lease, count = chosen
            found.idle.pop(lease.lease, None)
            self._push(now, lease, [queue.popleft() for _ in range(count)])
        if queue and not eager and self.flush_at is None:
            self.flush_at = now + FLUSH_SECONDS
        for _ in range(found.more_requests()):
            found.requests[self._ask(found)] = None

    def _push(self, now: float, lease: Lease, tasks: list[Task]) -> None:
        lease.pushed_at = now
        pushed = [self._to_lease(task, lease) for task in tasks]
        self._emit(Send(lease.worker, PushTasks(lease.lease, pushed)))

    def _to_lease(self, task: Task, lease: Lease) -> PushedTask:
        lease.sequence += 1
        task.state = TaskState.PUSHED
        task.lease = lease.lease
        task.sequence = lease.sequence
        lease.flight[task.spec.task_id] = task
        return self._completion.pushed(task, lease.worker)

    # ---- leases ----

    def _ask(self, wanted: SchedulingClass | Task) -> int:
        self._next_request += 1
        self._requests[self._next_request] = wanted
        self._emit(Send(self._node, _request(self._next_request, wanted, 0)))
        return self._next_request

    def spilled(self, message: Spillback, *, node_died: bool) -> None:
        """Ask that node instead; a dead one cannot be asked (63405)."""
        wanted = self._requests.get(message.request)
        if wanted is None:
            return  # cancelled meanwhile
        if node_died:
            self._ask_again(message.request, wanted)
            return
        count = self._spilled.get(message.request, (self._node, 0))[1] + 1
        self._spilled[message.request] = message.node, count
        self._emit(Send(message.node, _request(message.request, wanted, count)))

    def node_died(self, node: ProcessId) -> None:
        """What was asked for there is asked for here."""
        for number in [number for number, (asked, _) in self._spilled.items() if asked == node]:
            self._ask_again(number, self._requests[number])

    def workers_on(self, node: ProcessId) -> list[ProcessId]:
        return [lease.worker for lease in self._leases.values() if node_of(lease.worker) == node]

    def _ask_again(self, number: int, wanted: SchedulingClass | Task) -> None:
        self._spilled.pop(number, None)
        self._emit(Send(self._node, _request(number, wanted, 0)))

    def _take_request(self, number: int) -> SchedulingClass | Task | None:
        """It is answered."""
        self._spilled.pop(number, None)
        return self._requests.pop(number, None)

    def _cancel_request(self, number: int) -> None:
        node, _ = self._spilled.pop(number, (self._node, 0))
        del self._requests[number]
        self._emit(Send(node, CancelRequest(number)))

    def granted(self, now: float, message: LeaseGranted, *, lost: bool) -> None:
        """`lost`: the link to that worker has broken already, and nothing will ever say so again."""
        wanted = self._take_request(message.request)
        if wanted is None or lost:  # cancelled meanwhile: the grant crossed the cancel (17369)
            self._emit(Send(node_of(message.worker), ReturnLease(message.lease, spoilt=lost)))
            if isinstance(wanted, Task):
                self.enqueue(now, wanted)
            elif wanted is not None:
                del wanted.requests[message.request]
                self._pump(now, wanted, eager=True)
            return
        if isinstance(wanted, Task):
            lease = Lease(message.lease, message.worker, wanted.spec.options.demand)
            self._leases[message.lease] = self._actor_leases[ObjectId(wanted.spec.task_id + bytes(4))] = lease
            self._push(now, lease, [wanted])
            return
        lease = Lease(message.lease, message.worker, wanted.demand, idle_since=now)
        self._leases[message.lease] = wanted.leases[message.lease] = wanted.idle[message.lease] = lease
        del wanted.requests[message.request]
        self._pump(now, wanted, eager=True)
        self._settle_idle(now, wanted)

    def refused(self, message: LeaseRefused) -> None:
        wanted = self._take_request(message.request)
        if isinstance(wanted, Task):
            self._completion.fail(wanted, message.failure)
        elif wanted is not None:
            del wanted.requests[message.request]
            queue, wanted.queue = list(wanted.queue), deque()
            for task in queue:
                self._completion.fail(task, message.failure)

    def revoked(self, now: float, lease_id: LeaseId) -> None:
        lease = self._leases.get(lease_id)
        if lease is None or lease_id not in self._class_of(lease).leases:
            return
        lease.revoked = True
        self._class_of(lease).idle.pop(lease_id, None)
        if not lease.flight:
            self._give_up(lease)
        elif len(lease.flight) > 1:
            self._take_back(lease, list(lease.flight)[1:])

    def _class_of(self, lease: Lease) -> SchedulingClass:
        return self._classes.get(lease.demand) or SchedulingClass(lease.demand, deque())

    def _give_up(self, lease: Lease) -> None:
        del self._leases[lease.lease]
        found = self._class_of(lease)
        found.leases.pop(lease.lease, None)
        found.idle.pop(lease.lease, None)
        self._emit(Send(node_of(lease.worker), ReturnLease(lease.lease)))

    def _settle_idle(self, now: float, found: SchedulingClass) -> None:
        """A worker may be idle: cancel what was asked for in vain, and let it have what is stuck elsewhere."""
        if not found.idle:
            return
        self._look_at(now + LINGER_SECONDS)
        if found.requests and not found.has_backlog:
            for number in found.requests:
                self._cancel_request(number)
            found.requests.clear()
        elif len(found.leases) > 1 and not found.queue:
            stuck = found.to_take_back(now)
            if stuck is not None:
                self._take_back(*stuck)
            again = found.take_back_at()
            if again is not None:
                self._look_at(again)

    def _look_at(self, time: float) -> None:
        """Have `tick` look at idle and stuck leases no later than this."""
        if self.sweep_at is None or time < self.sweep_at:
            self.sweep_at = time

    def _take_back(self, lease: Lease, tasks: list[TaskId]) -> None:
        lease.taking_back = True
        self._emit(Send(lease.worker, TakeBack(lease.lease, tasks)))

    def taken_back(self, now: float, message: TakenBack) -> None:
        lease = self._leases.get(message.lease)
        if lease is None:
            return
        if message.blocked:
            lease.blocked = True
        else:
            lease.taking_back = False
        back = []
        for task_id in message.tasks:
            task = lease.flight.pop(task_id, None)
            if task is not None:
                again = self._completion.again(task, spend=False)
                if again is not None:
                    back.append(again)
        self.requeue(now, back)
        if not lease.flight:
            self._rest(now, lease)
            self._settle_idle(now, self._class_of(lease))

    # ---- results ----

    def answered(self, now: float, task: Task, result: TaskResult) -> Lease | None:
        """A result of this task has come from its lease's worker; the lease may take more."""
        lease = self._leases.get(task.lease)
        if lease is None:
            return None
        lease.flight.pop(task.spec.task_id, None)
        lease.pushed_at = now
        lease.blocked = False
        if task.spec.creates_actor:
            if type(result.values[0]) is Failed:
                self.end_actor(ObjectId(task.spec.task_id + bytes(4)))
            return None
        self._classes[lease.demand].measured(result.duration_microseconds)
        return lease

    def refill(self, now: float, lease: Lease) -> None:
        """After the results of one message: this lease has room again, or is idle."""
        found = self._classes[lease.demand]
        if not lease.flight:
            self._rest(now, lease)
        if found.queue:
            self._pump(now, found, eager=len(lease.flight) * 2 <= found.depth)
        elif found.requests or len(found.leases) > 1 or self.sweep_at is None:
            self._settle_idle(now, found)

    def _rest(self, now: float, lease: Lease) -> None:
        """Nothing is on it."""
        if lease.revoked:
            self._give_up(lease)
        elif lease.lost_at is None and not lease.blocked:
            lease.idle_since = now
            self._class_of(lease).idle[lease.lease] = lease

    # ---- cancel and kill ----

    def cancel(
        self, task: Task, *, force: bool, recursive: bool, running: bool = True, failure: Failure = CANCELLED
    ) -> None:
        if task.state in (TaskState.WAITING, TaskState.QUEUED):
            self.unqueue(task)
            self._completion.fail(task, failure)
            return
        if running and not task.decided:
            self._completion.decide(task, failure)
        lease = self._leases.get(task.lease)
        if lease is not None and task.state is TaskState.PUSHED:
            if force and running:
                self._emit(Send(node_of(lease.worker), KillWorker(lease.worker)))
            else:
                self._emit(Send(lease.worker, CancelTask(task.spec.task_id, task.attempt, recursive, running)))

    def unqueue(self, task: Task) -> None:
        """It is not to be pushed, now or ever."""
        for number, wanted in self._requests.items():
            if wanted is task:
                self._cancel_request(number)
                return
        found = self._classes.get(task.spec.options.demand)
        if found is not None and task in found.queue:
            found.queue.remove(task)

    def end_actor(self, actor: ObjectId) -> None:
        """Nobody holds it: its worker ends once it has answered what it has.

        While the creation is in flight nothing happens; this is asked again when that is answered.
        """
        self._completion.retire(actor)
        lease = self._actor_leases.get(actor)
        if lease is not None and not lease.flight:
            del self._actor_leases[actor]
            self._leases.pop(lease.lease, None)
            self._emit(Send(node_of(lease.worker), ReturnLease(lease.lease, spoilt=True)))

    def kill_actor(self, actor: ObjectId, *, restart: bool) -> None:
        if not restart:
            self._completion.retire(actor)
        lease = self._actor_leases.get(actor)
        if lease is not None:
            self._emit(Send(node_of(lease.worker), KillWorker(lease.worker)))

    # ---- deaths ----

    def worker_lost(self, now: float, worker: ProcessId, *, lives: bool = False) -> None:
        """The link broke: its node ends the worker, if it lives, and says how it died. Of one that surely lives that is
        waited for without end, or two attempts could overlap (47659). An actor there does not end with the link."""
        lost = [lease for lease in self._leases.values() if lease.worker == worker]
        if lives:
            actors = [held for held in self._actor_leases.values() if not held.flight]
            lost = [lease for lease in lost if lease not in actors]
        if any(lease.lost_at is None for lease in lost):
            self._emit(Send(node_of(worker), KillWorker(worker)))
        for lease in lost:
            lease.lost_at = inf if lives else now
            self._look_at(now + LINGER_SECONDS)  # no later, or leases that go idle meanwhile linger as long
            self._class_of(lease).idle.pop(lease.lease, None)
            for task in lease.flight.values():
                task.state = TaskState.LOST

    def worker_died(self, now: float, worker: ProcessId, death: ProcessDied | None) -> None:
        """The cause is known (None: it never came). Only what had started spends a retry."""
        for lease in [one for one in self._leases.values() if one.worker == worker and one.lost_at is not None]:
            del self._leases[lease.lease]
            self._class_of(lease).leases.pop(lease.lease, None)  # it left the idle ones when it was lost
            again = []
            for actor in [actor for actor, held in self._actor_leases.items() if held is lease]:
                del self._actor_leases[actor]
                creation = self._completion.restart(actor)
                if creation is not None:
                    again.append(creation)
            for task in lease.flight.values():
                retried = self._completion.again(task, spend=_may_have_started(task, lease, death))
                if retried is not None:
                    again.append(retried)
                elif task.state is TaskState.LOST and not task.decided:
                    self._completion.fail(task, crashed(worker, death))
            self.requeue(now, again)

    # ---- time ----

    def tick(self, now: float) -> None:
        if self.flush_at is not None and self.flush_at <= now:
            self.flush(now)
        if self.sweep_at is not None and self.sweep_at <= now:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Give up leases that were idle for long, take back what is stuck, and bury workers whose end nobody tells."""
        self.sweep_at = None
        for found in self._classes.values():
            self._settle_idle(now, found)
            awaited = any(lease.taking_back for lease in found.leases.values())
            for lease in list(found.idle.values()):
                if awaited:  # what comes back is for this one; else that goes behind the same long task again
                    self._look_at(now + LINGER_SECONDS)
                elif lease.idle_since + LINGER_SECONDS <= now:
                    self._give_up(lease)
                else:
                    self._look_at(lease.idle_since + LINGER_SECONDS)
        for lease in list(self._leases.values()):
            if lease.lost_at is None:
                continue
            if lease.lost_at + CAUSE_SECONDS <= now:
                self.worker_died(now, lease.worker, None)
            else:
                self._look_at(min(lease.lost_at + CAUSE_SECONDS, now + LINGER_SECONDS))
        for demand in [demand for demand, found in self._classes.items() if _is_empty(found)]:
            del self._classes[demand]

    def statistics(self) -> dict[str, int]:
        return {
            "leases": len(self._leases),
            "lease_requests": len(self._requests),
            "spilled_requests": len(self._spilled),
            "actor_leases": len(self._actor_leases),
            "queued": sum(len(found.queue) for found in self._classes.values()),
        }


def _may_have_started(task: Task, lease: Lease, death: ProcessDied | None) -> bool:
    """Nobody has read the status word of a worker whose end nobody tells, or that died with its node."""
    if death is None or death.cause.status == NODE_DIED_STATUS:
        return True
    return death.lease == lease.lease and task.sequence <= death.started


def _request(number: int, wanted: SchedulingClass | Task, spilled: int) -> RequestLease:
    if isinstance(wanted, Task):
        fork = wanted.spec.task_id if wanted.spec.options.fork else None
        return RequestLease(number, wanted.spec.options.demand, True, spilled, fork)
    return RequestLease(number, wanted.demand, False, spilled)


def _is_empty(found: SchedulingClass) -> bool:
    return not (found.queue or found.leases or found.requests)


def crashed(worker: ProcessId, death: ProcessDied | None) -> Failure:
    cause = death.cause if death is not None else DeathCause(0, UNKNOWN_STATUS)
    return Failure(FailureKind.WORKER_CRASHED, "", cause.describe(), death=cause, process=worker)
