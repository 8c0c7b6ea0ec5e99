"""Completion: from a task's submission to its one outcome, whoever runs it.

`dispatch.py` (leases) and `actors.py` (calls) both stand on this: it makes a task's row, waits for its
arguments, and applies what comes back, in the order "merge first, drop second". What it finds out is left in
lists that the owner empties at the end of each step: `ready` objects, `runnable` tasks, `retried` ones, and calls
that have `left` their actor's queue, since an argument has failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import FIRST_RETURN, FunctionId, ObjectId, ProcessId, TaskId, return_id, same_node, task_of
from miniray.core.machine import Send
from miniray.core.messages import DefineFunction, ForgetFunction, HandoffDone
from miniray.core.owner.functions import Function, Functions
from miniray.core.owner.handoffs import Transfer
from miniray.core.owner.holding import Holding
from miniray.core.owner.references import Owned
from miniray.core.owner.tasks import Task, Tasks, TaskState
from miniray.core.record import Effect, replace
from miniray.core.task_spec import ActorAt, Failed, Inline, PushedTask, Stored, TaskResult, TaskSpec, Value, contained

News = tuple[list[ObjectId], list[TaskId]]  # objects that are ready now, tasks that waited for them


class Completion:
    def __init__(self, holding: Holding, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._holding = holding
        self._values = holding.objects.values
        self._elsewhere = holding.copies.elsewhere
        self.tasks = Tasks()
        self.functions = Functions()
        self.ready: list[ObjectId] = []
        self.runnable: list[Task] = []
        self.retried: list[Task] = []
        self.left: list[Task] = []
        self._resolved: deque[TaskId] = deque()  # tasks of which one more argument is there
        self._resolving = False

    # ---- the beginning ----

    def submit(self, spec: TaskSpec) -> Task | None:
        """The new task's row, or None when an argument has failed and the task with it."""
        rows = self._holding.references.rows
        if spec.num_returns == 1:
            rows[ObjectId(spec.task_id + FIRST_RETURN)] = Owned(1)
        else:
            for index in range(spec.num_returns):
                rows[return_id(spec.task_id, index)] = Owned(1)
        function = self.functions.rows[spec.function] if spec.function else None
        task = Task(spec, function, retries_left=spec.options.max_retries)
        if function is not None:
            function.pending += 1
        self.tasks.rows[spec.task_id] = task
        if spec.slots or spec.refs or spec.actor is not None:
            return self._hold_arguments(task)
        return task

    def _hold_arguments(self, task: Task) -> Task | None:
        spec = task.spec
        actor = spec.actor
        if actor is not None and not (spec.slots or spec.refs) and type(self._values.get(actor)) is ActorAt:
            task.held = (actor,)  # most calls: of an actor that lives, with nothing to wait for
            self._holding.row(actor).arguments += 1
            return task
        task.held = (*resolved_by(spec), *spec.refs)
        for object_id in task.held:
            self._holding.row(object_id).arguments += 1
        return self.resolve(task)

    def resolve(self, task: Task) -> Task | None:
        """Have a task that is to be queued wait for its arguments; None when one of them has failed."""
        if self._elsewhere:  # of one node never: the hot path pays a look for it
            self._holding.forget_refusals(resolved_by(task.spec))
        for object_id in resolved_by(task.spec):
            if object_id not in self._values:
                self.unresolve(task, object_id)
        if task.unresolved:
            task.state = TaskState.WAITING
        return None if self._failed_argument(task) else task

    def unresolve(self, task: Task, object_id: ObjectId) -> None:
        """This argument has no value, or has lost it."""
        task.unresolved += 1
        self._holding.objects.depend(object_id, task.spec.task_id)
        self._holding.want(object_id)

    def _failed_argument(self, task: Task) -> bool:
        """A failed argument fails the task without running it; the failure is the argument's."""
        for object_id in resolved_by(task.spec):
            value = self._values.get(object_id)
            if isinstance(value, Failed):
                self.fail(task, value.failure)
                return True
        return False

    def _stop_waiting(self, task: Task) -> None:
        if task.unresolved:
            for object_id in task.held:
                self._holding.objects.forget_task(object_id, task.spec.task_id)

    def learned(self, news: News) -> None:
        """Borrowed objects that have a value now, and the tasks of this process that waited for them."""
        self.ready.extend(news[0])
        self.resolved(news[1])

    def resolved(self, task_ids: list[TaskId]) -> None:
        """One argument of each of these tasks has become ready. A failed one fails tasks that others wait for: over an
        explicit list, since such a chain may be long."""
        self._resolved.extend(task_ids)
        if self._resolving:
            return
        self._resolving = True
        while self._resolved:
            task = self.tasks.rows.get(self._resolved.popleft())
            if task is None:
                continue
            task.unresolved -= 1
            if task.state is not TaskState.WAITING:  # it was lost while some process had the task
                continue
            if self._failed_argument(task):
                if task.spec.actor is not None:
                    self.left.append(task)
                continue
            if task.unresolved == 0:
                task.state = TaskState.QUEUED
                self.runnable.append(task)
        self._resolving = False

    def pushed(self, task: Task, worker: ProcessId) -> PushedTask:
        """The task as this worker gets it: slots resolved, and every ref that arrives with it named. Before the first
        one of its function, that is defined there."""
        function = task.function
        if function is not None and worker not in function.sent_to:
            self._define(function, worker)
        spec = task.spec
        options = spec.options
        if not (spec.slots or spec.refs):
            return PushedTask(
                spec.task_id, task.attempt, spec.function, spec.payload, task.sequence, spec.num_returns, spec.method,
                spec.creates_actor, retry_on=options.retry_on, at_most_once=options.max_retries == 0,
                writable_arguments=options.writable_arguments, raw_output=options.raw_output,
            )  # fmt: skip
        values = [self._values[slot] for slot in spec.slots]
        arriving = dict.fromkeys(spec.refs)
        for index, (slot, value) in enumerate(zip(spec.slots, values, strict=True)):
            if isinstance(value, Stored):
                arriving[slot] = None
                if not same_node(value.place.holder, worker):
                    values[index] = self._near(slot, value, worker)
            arriving.update(dict.fromkeys(contained(value)))
        return PushedTask(
            spec.task_id, task.attempt, spec.function, spec.payload, task.sequence, spec.num_returns, spec.method,
            spec.creates_actor, tuple(values), spec.slots, tuple(arriving), spec.stored_payload, options.retry_on,
            options.max_retries == 0, options.writable_arguments, options.raw_output,
        )  # fmt: skip

    def _define(self, function: Function, worker: ProcessId) -> None:
        function.sent_to[worker] = None
        value, name = function.value, function.object_id
        if name is not None and isinstance(value, Stored):
            value = self._near(name, value, worker)
        self._emit(Send(worker, DefineFunction(function.function, value, name)))

    def _near(self, object_id: ObjectId, value: Stored, worker: ProcessId) -> Stored:
        """The copy that this worker can read. If there is none, it asks the owner when it comes to that task; the owner
        has one made already."""
        copies = self._holding.copies
        near = copies.on_node_of(object_id, value, worker)
        if near is None and type(self._holding.references.rows[object_id]) is Owned:
            copies.make(object_id, value, worker, wanted=False)
        return near or value

    # ---- the end ----

    def apply(self, worker: ProcessId, task: Task | None, result: TaskResult) -> None:
        """What one execution gave. `task` is None when the result is of an old attempt, or nobody wants it."""
        for object_id in result.retained:
            self._holding.references.add_holder(object_id, worker)
        if task is None:
            self._refuse(worker, result)
        elif result.retry and not task.decided and task.retries_left != 0:
            self._pin_again(task, worker, result)
            self._refuse(worker, result)
            again = self._next_attempt(task, spend=True)
            if again is not None or (task.spec.actor is not None and task.state is TaskState.WAITING):
                self.retried.append(task)
        else:
            self._conclude(task, result.values, worker, result)

    def _pin_again(self, task: Task, worker: ProcessId, result: TaskResult) -> None:
        """This attempt's worker may still be registering, while the next attempt holds the same refs."""
        if result.pending:
            self._holding.hold_arguments(task.held)
            self._holding.handoffs.pin((worker, result.task_id, result.attempt), list(task.held))

    def _refuse(self, worker: ProcessId, result: TaskResult) -> None:
        """Dropped, never ignored: what it brought is freed, and what it pins is released."""
        for index, value in enumerate(result.values):
            object_id = return_id(result.task_id, index)
            if type(value) is ActorAt and self._may_live_on(object_id):
                continue  # of a life that was given up when the next was asked for: it ends nothing of that one
            self._holding.discard(object_id, value)
        if result.pinned:
            self._emit(Send(worker, HandoffDone(result.task_id, result.attempt)))
        if not result.pending:  # of a session that has ended: its arguments were pinned then
            key = worker, result.task_id, result.attempt
            self._holding.release_arguments(self._holding.handoffs.unpin(key))

    def _may_live_on(self, actor: ObjectId) -> bool:
        return task_of(actor) in self.tasks.rows or type(self._holding.objects.values.get(actor)) is ActorAt

    def _conclude(
        self, task: Task, values: tuple[Value, ...], worker: ProcessId | None, result: TaskResult | None
    ) -> None:
        spec = task.spec
        del self.tasks.rows[spec.task_id]
        transfer = None
        if worker is not None and result is not None and result.pinned:
            transfer = Transfer(sender=(worker, spec.task_id, task.attempt))
        if task.unresolved:
            self._stop_waiting(task)
        if not task.decided:
            self._tell(task, values, transfer)
        else:
            for index, value in enumerate(values):
                self._holding.discard(return_id(spec.task_id, index), value)
        if transfer is not None and not transfer.left and worker is not None:
            self._emit(Send(worker, HandoffDone(spec.task_id, task.attempt)))
        if spec.creates_actor and self._lives(task, worker, result):
            return
        if (task.stored or task.remade) and not task.decided:
            self._keep_lineage(task)
        if task.held:
            if result is not None and result.pending and worker is not None:
                self._holding.handoffs.pin((worker, spec.task_id, task.attempt), list(task.held))
            else:
                self._holding.release_arguments(task.held)
        self._done_with(task)

    def _done_with(self, task: Task) -> None:
        function = task.function
        if function is not None:
            function.pending -= 1
            if not (function.pending or function.handles):
                self._forget(function)

    def _tell(self, task: Task, values: tuple[Value, ...], transfer: Transfer | None) -> None:
        object_id = ObjectId(task.spec.task_id + FIRST_RETURN)
        rows, set_value = self._holding.references.rows, self._holding.set_value
        for index, value in enumerate(values):
            if index:
                object_id = return_id(task.spec.task_id, index)
            if type(value) is Failed:
                value = Failed(self._signed(task, value.failure))
            elif type(value) is Stored:
                task.stored = True
            if task.remade and object_id in self._values:  # what was told once never changes
                self._holding.discard(object_id, value)
                continue
            if object_id in rows:
                self.ready.append(object_id)
            dependants = set_value(object_id, value, transfer)
            if dependants:
                self.resolved(dependants)

    def _keep_lineage(self, task: Task) -> None:
        """What of it lies in the store may have to be made again. Each argument is counted for that."""
        rows, values = self._holding.references.rows, self._values
        task.stored = False
        returns: dict[ObjectId, None] = {}
        for index in range(task.spec.num_returns):
            object_id = return_id(task.spec.task_id, index)
            if object_id in rows and (object_id not in values or type(values[object_id]) is Stored):
                returns[object_id] = None
        if not returns:
            return
        inline = [value for one in task.held if isinstance(value := values.get(one), Inline)]
        size = sum(len(value.data) for value in inline)
        if not self._holding.lineage.finished(task, returns, size):
            return
        for object_id in task.held:
            row = rows[object_id]
            if type(row) is Owned:
                row.lineage += 1
            else:
                row.arguments += 1
        if task.function is not None:
            task.function.pending += 1
        self._holding.specs_dropped.extend(self._holding.lineage.over_the_bound())

    def drop_spec(self, task: Task) -> None:
        """It is not kept any more: the counts that it had are taken off."""
        references, rows = self._holding.references, self._holding.references.rows
        for object_id in task.held:
            release = references.release_lineage if type(rows[object_id]) is Owned else references.release_argument
            if not release(object_id):
                self._holding.let_go(object_id)
        self._done_with(task)

    def run_again(self, task: Task) -> None:
        """A kept task becomes one that is under way: with an attempt of its own, and ordinary holds."""
        task.attempt += 1
        task.retries_left -= task.retries_left > 0
        task.remade, task.state = True, TaskState.QUEUED
        self.tasks.rows[task.spec.task_id] = task
        for object_id in task.held:
            self._holding.references.rows[object_id].arguments += 1
        if task.function is not None:
            task.function.pending += 1
        self.drop_spec(task)
        if self.resolve(task) is None:
            return
        if task.spec.actor is not None:
            self.retried.append(task)
        elif not task.unresolved:
            self.runnable.append(task)

    def _signed(self, task: Task, failure: Failure) -> Failure:
        """The failure with what only the owner knows: names, the line of the call, how often it was tried."""
        spec = task.spec
        if spec.creates_actor and failure.kind in (FailureKind.TASK_ERROR, FailureKind.WORKER_CRASHED):
            failure = replace(failure, kind=FailureKind.ACTOR_DIED)
        if failure.task:
            return failure
        retries = spec.options.max_retries
        attempts = retries + 1 if retries >= 0 else 0
        return replace(
            failure, task=spec.options.name, site=spec.site, attempt=task.attempt, attempts=attempts
        )

    def decide(self, task: Task, failure: Failure) -> None:
        """Tell the outcome now, though some process still has the task."""
        self._tell(task, (Failed(failure),) * task.spec.num_returns, None)
        task.decided = True

    def fail(self, task: Task, failure: Failure) -> None:
        """The task ends here, and nobody has it."""
        self._conclude(task, (Failed(failure),) * task.spec.num_returns, None, None)

    def _next_attempt(self, task: Task, *, spend: bool) -> Task | None:
        task.attempt += 1
        task.state = TaskState.QUEUED
        if spend and task.retries_left > 0:
            task.retries_left -= 1
        if task.unresolved:
            task.state = TaskState.WAITING
            return None
        return None if task.held and self._failed_argument(task) else task

    def again(self, task: Task, *, spend: bool) -> Task | None:
        """The task, ready for another attempt; None when it was told already, may not run again (then it is LOST
        still), or has to wait for an argument that was lost meanwhile."""
        if task.decided:
            self._conclude(task, (), None, None)
            return None
        if spend and task.retries_left == 0:
            return None
        return self._next_attempt(task, spend=spend)

    # ---- actors that may be restarted ----

    def _lives(self, task: Task, worker: ProcessId | None, result: TaskResult | None) -> bool:
        """Whether this creation may have to run again: then what it needs stays held (47043)."""
        actor = return_id(task.spec.task_id)
        value = self._values.get(actor)
        if not isinstance(value, ActorAt) or task.decided or task.retries_left == 0:
            return False
        if worker is not None and result is not None:
            self._pin_again(task, worker, result)
        task.state = TaskState.LIVING
        self.tasks.living[actor] = task
        return True

    def restart(self, actor: ObjectId) -> Task | None:
        """The creation of an actor whose process has died, for its next incarnation; None when it has no other."""
        task = self.tasks.living.pop(actor, None)
        if task is None:
            return None
        self.tasks.rows[task.spec.task_id] = task
        for object_id in resolved_by(task.spec):
            if object_id not in self._values:  # lost while the actor lived
                self.unresolve(task, object_id)
        return self._next_attempt(task, spend=True)

    def retire(self, actor: ObjectId) -> None:
        """There will be no other incarnation: let go of what the constructor would need."""
        task = self.tasks.living.pop(actor, None)
        if task is not None:
            self._holding.release_arguments(task.held)
            self._done_with(task)

    def restarting(self, actor: ObjectId) -> bool:
        return task_of(actor) in self.tasks.rows

    def await_actor(self, task: Task, actor: ObjectId) -> None:
        """This call waits for its actor's next incarnation, as it did for the first."""
        task.unresolved += 1
        task.state = TaskState.WAITING
        self._holding.objects.depend(actor, task.spec.task_id)
        self._holding.want(actor)

    def drop_handle(self, function_id: FunctionId) -> None:
        function = self.functions.rows[function_id]
        function.handles -= 1
        if not (function.pending or function.handles):
            self._forget(function)

    def _forget(self, function: Function) -> None:
        """A definition that nothing needs any more."""
        del self.functions.rows[function.function]
        for worker in function.sent_to:
            self._emit(Send(worker, ForgetFunction(function.function)))
        name = function.object_id
        self._holding.release_containers(contained(function.value) if name is None else [name])

    def address(self, actor: ObjectId) -> ProcessId | None:
        value = self._values.get(actor)
        return value.process if isinstance(value, ActorAt) else None


def resolved_by(spec: TaskSpec) -> tuple[ObjectId, ...]:
    """What must have a value before it can run."""
    return spec.slots if spec.actor is None else (*spec.slots, spec.actor)
