"""Values whose copies are lost, at their owner: what is run again, for whom, and what can only fail."""

from __future__ import annotations

from collections.abc import Callable

from miniray.core.failures import DeathCause, Failure, FailureKind
from miniray.core.ids import FunctionId, LeaseId, ObjectId, ProcessId, process_id, return_id, task_id
from miniray.core.machine import PeerLost, Received, Send
from miniray.core.messages import (
    AddHolder,
    CopyFailed,
    ForgetFunction,
    LeaseGranted,
    NodeDied,
    ProcessDied,
    PushTasks,
    RefGone,
    ReportLost,
    RequestLease,
    TasksDone,
    ValueIs,
    WhereIs,
)
from miniray.core.owner.events import FunctionDropped, FunctionExported, RefsDropped, RefsHeld, Submitted, ValuePut
from miniray.core.owner.owner import Owner
from miniray.core.record import Effect, Event, Message
from miniray.core.task_spec import (
    Failed,
    Inline,
    Place,
    PushedTask,
    Stored,
    TaskOptions,
    TaskResult,
    TaskSpec,
    Value,
)

NODE, ME, WORKER, OTHER = (process_id(b"test", number) for number in range(4))
FAR = process_id(b"test", 1 << 20)
FAR_WORKER = process_id(b"test", (1 << 20) + 2)
FUNCTION = FunctionId(b"f" * 16)
CPU = (("CPU", 10_000),)
LARGE = 200_000

Makes = Callable[[PushedTask], tuple[Value, ...]]


class Session:
    """One owner, and a worker that runs at once whatever is pushed: `makes` says what comes out of each task."""

    def __init__(self, makes: Makes | None = None, max_lineage_bytes: int = 1 << 30) -> None:
        self.owner = Owner(ME, NODE, max_lineage_bytes)
        self.makes = makes or self.stored
        self.ran: list[tuple[int, int]] = []  # (counter of the task, attempt), in the order of their starts
        self.sent: list[Send] = []
        self.checks = True  # after every step; False for long chains, which would take minutes
        self.holding_back: list[PushedTask] | None = None  # a list: pushed tasks are put there, unanswered
        self.worker = WORKER
        self.grants = True  # False: there is no further lease for now
        self._now = 0.0
        self._lease = 0
        self._offset = 0
        self._counter = 0
        self.does(FunctionExported(FUNCTION, Inline(b"")))

    def stored(self, task: PushedTask, holder: ProcessId = WORKER) -> tuple[Value, ...]:
        return tuple(self.somewhere(holder) for _ in range(task.num_returns))

    def far(self, task: PushedTask) -> tuple[Value, ...]:
        return self.stored(task, FAR_WORKER)

    def somewhere(self, holder: ProcessId) -> Stored:
        self._offset += LARGE
        return Stored(Place(holder, self._offset, LARGE))

    def does(self, event: Event) -> None:
        todo = [event]
        while todo:
            self._now += 0.1
            for effect in self.owner.step(self._now, todo.pop(0)):
                todo.extend(self._answers(effect))
            if self.checks:
                self.owner.check()

    def hears(self, message: Message, peer: ProcessId = NODE) -> None:
        self.does(Received(peer, message))

    def _answers(self, effect: Effect) -> list[Event]:
        if not isinstance(effect, Send):
            return []
        self.sent.append(effect)
        if isinstance(effect.message, RequestLease) and self.grants:
            self._lease += 1
            return [Received(NODE, LeaseGranted(effect.message.request, LeaseId(self._lease), self.worker))]
        if isinstance(effect.message, PushTasks):
            self.ran.extend((int.from_bytes(task.task_id[8:], "big"), task.attempt) for task in effect.message.tasks)
            if self.holding_back is not None:
                self.holding_back.extend(effect.message.tasks)
                return []
            return [Received(self.worker, TasksDone([self.result(task)])) for task in effect.message.tasks]
        return []

    def result(self, task: PushedTask) -> TaskResult:
        return TaskResult(task.task_id, task.attempt, self.makes(task), duration_microseconds=1_000_000)

    def call(self, *slots: ObjectId, returns: int = 1, retries: int = 3, refs: tuple[ObjectId, ...] = ()) -> ObjectId:
        """Submit a task; the id of its first return, whose ref this process holds."""
        self._counter += 1
        task = task_id(ME, self._counter)
        options = TaskOptions("f", CPU, retries)
        self.does(Submitted(TaskSpec(task, FUNCTION, b"pay", options, returns, slots, refs, site="here.py:7 in g")))
        return return_id(task)

    def put(self, value: Value) -> ObjectId:
        self._counter += 1
        object_id = return_id(task_id(ME, self._counter))
        self.does(ValuePut(object_id, value, "there.py:3 in h"))
        return object_id

    def loses(self, object_id: ObjectId) -> None:
        value = self.owner.values[object_id]
        assert isinstance(value, Stored)
        self.hears(ReportLost(object_id, value.place), OTHER)

    def failure(self, object_id: ObjectId) -> Failure:
        value = self.owner.values[object_id]
        assert isinstance(value, Failed), value
        return value.failure

    def drops(self, *object_ids: ObjectId) -> None:
        self.does(RefsDropped(list(object_ids)))

    def heard(self, kind: type[Message]) -> list[Message]:
        return [send.message for send in self.sent if isinstance(send.message, kind)]

    def left(self) -> dict[str, int]:
        ignored = ("leases", "functions")
        return {name: count for name, count in self.owner.statistics().items() if count and name not in ignored}


def test_a_lost_value_is_made_again_by_its_task() -> None:
    session = Session()
    x = session.call()
    before = session.owner.values[x]
    session.loses(x)
    assert session.ran == [(1, 1), (1, 2)]
    assert isinstance(session.owner.values[x], Stored) and session.owner.values[x] != before
    session.drops(x)
    assert not session.left()


def test_old_news_of_a_loss_changes_nothing() -> None:
    """lost_twice (64694), late_eviction (47990)."""
    session = Session()
    x = session.call()
    value = session.owner.values[x]
    assert isinstance(value, Stored)
    session.hears(ReportLost(x, value.place), OTHER)
    session.hears(ReportLost(x, value.place), WORKER)
    assert session.ran == [(1, 1), (1, 2)]
    session.drops(x)
    session.hears(ReportLost(x, value.place), OTHER)
    assert session.ran == [(1, 1), (1, 2)] and not session.left()


def test_all_who_wait_share_one_run() -> None:
    """shared_remake: a borrower that asks, and two tasks that need it."""
    session = Session()
    x = session.call()
    session.hears(AddHolder(x, 1), OTHER)
    session.holding_back = []
    session.loses(x)
    session.hears(WhereIs(x), OTHER)
    y, z = session.call(x), session.call(x)
    (again,) = session.holding_back
    session.holding_back = None
    session.hears(TasksDone([session.result(again)]), WORKER)
    assert session.ran == [(1, 1), (1, 2), (2, 1), (3, 1)]
    assert session.heard(ValueIs) == [ValueIs(x, session.owner.values[x])]
    assert isinstance(session.owner.values[y], Stored) and isinstance(session.owner.values[z], Stored)


def test_a_dead_node_takes_its_values_along_and_no_others() -> None:
    session = Session()
    near = session.call()
    session.makes = session.far
    far = session.call()
    farther = session.call(far)
    session.makes = session.stored
    session.hears(NodeDied(FAR))
    assert (3, 2) in session.ran and (2, 2) not in session.ran, "a copy of it is under way to where it was an argument"
    session.hears(CopyFailed(1))
    assert sorted(session.ran) == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)]
    session.drops(near, far, farther)
    assert not session.left()


def test_freed_arguments_are_made_again_first() -> None:
    session = Session()
    a = session.call()
    b = session.call(a)
    c = session.call(b)
    session.drops(a, b)
    assert a not in session.owner.values and b not in session.owner.values, "a kept spec keeps no stored value"
    session.loses(c)
    assert session.ran[3:] == [(1, 2), (2, 2), (3, 2)]
    assert a not in session.owner.values and b not in session.owner.values
    session.drops(c)
    assert not session.left()


def test_a_small_argument_is_as_good_as_a_part_of_the_spec() -> None:
    session = Session(makes=lambda task: (Inline(b"small"),))
    small = session.call()
    session.makes = session.stored
    large = session.call(small)
    session.drops(small)
    session.loses(large)
    assert session.ran == [(1, 1), (2, 1), (2, 2)]
    session.drops(large)
    assert not session.left()


def test_asking_for_a_freed_value_whose_spec_is_kept_finds_nothing() -> None:
    """freed_with_lineage (65833)."""
    session = Session()
    a = session.call()
    b = session.call(a)
    session.drops(a)
    session.hears(WhereIs(a), OTHER)
    session.hears(AddHolder(a, 1), OTHER)
    assert session.heard(RefGone) == [RefGone(a, 0), RefGone(a, 1)]
    assert not session.owner.knows(a)
    session.drops(b)
    assert not session.left()


def test_a_chain_of_ten_thousand_is_made_again() -> None:
    """deep_chain: nothing on the way to its beginning, on the way back, or of its end may recurse."""
    session = Session()
    session.checks = False
    links = [session.call()]
    for _ in range(9_999):
        links.append(session.call(links[-1]))
    session.drops(*links[:-1])
    session.loses(links[-1])
    assert session.ran[10_000:] == [(number, 2) for number in range(1, 10_001)]
    session.drops(links[-1])
    assert not session.left()


def test_a_chain_of_ten_thousand_fails_with_its_first_link() -> None:
    session = Session()
    session.checks = False
    session.holding_back = []
    links = [session.call()]
    for _ in range(9_999):
        links.append(session.call(links[-1]))
    first = session.holding_back[0]
    session.makes = lambda task: (Failed(Failure(FailureKind.TASK_ERROR, "f", "no")),)
    session.hears(TasksDone([session.result(first)]), WORKER)
    assert session.failure(links[-1]).message == "no"
    session.drops(*links)
    assert not session.left()


def test_a_return_that_has_its_value_keeps_it() -> None:
    session = Session()
    first = session.call(returns=3)
    second, third = (return_id(task_id(ME, 1), index) for index in (1, 2))
    kept = session.owner.values[second]
    session.drops(third)
    session.loses(first)
    assert session.ran == [(1, 1), (1, 2)]
    assert session.owner.values[second] == kept and isinstance(session.owner.values[first], Stored)
    session.loses(second)
    assert session.ran[2:] == [(1, 3)]
    session.drops(first, second)
    assert not session.left()


def test_a_value_may_come_back_small_or_as_a_failure() -> None:
    """other_medium (28865): who waits is told in any case. Then nothing is left to be remade."""
    session = Session()
    x, y = session.call(), session.call()
    session.makes = lambda task: (Inline(b"small"),)
    session.loses(x)
    assert session.owner.values[x] == Inline(b"small")
    session.makes = lambda task: (Failed(Failure(FailureKind.TASK_ERROR, "f", "not again")),)
    session.loses(y)
    assert session.failure(y).message == "not again"
    assert "lineage" not in session.left()
    session.drops(x, y)
    assert not session.left()


def test_each_remake_spends_a_retry_and_the_last_failure_says_so() -> None:
    session = Session()
    x, once = session.call(retries=1), session.call(retries=0)
    session.loses(x)
    session.loses(x)
    failure = session.failure(x)
    assert failure.kind is FailureKind.OBJECT_LOST and failure.site == "here.py:7 in g"
    assert "p1.t1.0" in failure.message and "retries of its task are used up" in failure.message
    session.loses(once)
    assert "max_retries=0" in session.failure(once).message
    assert session.ran == [(1, 1), (2, 1), (1, 2)]
    session.drops(x, once)
    assert not session.left()


def test_a_lost_put_value_fails_with_the_line_that_made_it() -> None:
    session = Session()
    x = session.put(session.somewhere(FAR_WORKER))
    y = session.call(x)
    session.loses(x)
    assert "made at there.py:3 in h" in session.failure(x).message and "put()" in session.failure(x).message
    session.loses(y)
    assert session.failure(y) == session.failure(x), "what depends on it cannot be made again either"
    session.drops(x, y)
    assert not session.left()


def test_a_freed_argument_whose_lineage_was_evicted_fails_what_needs_it() -> None:
    session = Session(max_lineage_bytes=2500)
    a = session.call()
    b, c = session.call(a), session.call()
    session.drops(a)
    session.loses(b)
    assert session.ran == [(1, 1), (2, 1), (3, 1)]
    assert "object p1.t1.0" in session.failure(b).message and "lineage was evicted" in session.failure(b).message
    session.drops(b, c)
    assert not session.left()


def test_the_oldest_specs_are_evicted_past_the_bound() -> None:
    session = Session(max_lineage_bytes=2500)
    objects = [session.call() for _ in range(4)]
    session.loses(objects[0])
    session.loses(objects[3])
    assert "lineage was evicted" in session.failure(objects[0]).message
    assert session.ran == [(1, 1), (2, 1), (3, 1), (4, 1), (4, 2)]
    session.drops(*objects)
    assert not session.left()


def test_a_kept_spec_keeps_its_function() -> None:
    session = Session()
    x = session.call()
    session.does(FunctionDropped(FUNCTION))
    assert not session.heard(ForgetFunction)
    session.loses(x)
    assert session.ran == [(1, 1), (1, 2)]
    session.drops(x)
    assert session.heard(ForgetFunction) == [ForgetFunction(FUNCTION)]


def test_a_task_whose_argument_is_lost_while_it_is_out_waits_before_it_runs_again() -> None:
    session = Session()
    x = session.call()
    session.holding_back = []
    y = session.call(x)
    session.loses(x)
    session.worker = OTHER
    session.does(PeerLost(WORKER, "it broke"))
    session.hears(ProcessDied(WORKER, DeathCause(1, -9), LeaseId(1), 9))
    assert session.ran == [(1, 1), (2, 1), (1, 2), (1, 3)], "the second waits for the first, whose worker died, too"
    again, session.holding_back = session.holding_back[-1], None
    session.hears(TasksDone([session.result(again)]), OTHER)
    assert session.ran[4:] == [(2, 2)] and isinstance(session.owner.values[y], Stored)


def test_a_borrower_reports_the_loss_and_asks_again() -> None:
    session = Session()
    borrowed = return_id(task_id(OTHER, 1))
    session.does(RefsHeld([borrowed]))
    place = session.somewhere(FAR_WORKER).place
    session.call(borrowed)
    session.hears(ValueIs(borrowed, Stored(place)), OTHER)
    assert session.ran == [(1, 1)]
    session.hears(NodeDied(FAR))
    assert session.heard(ReportLost) == [ReportLost(borrowed, place)]
    assert borrowed not in session.owner.values
    again = session.call(borrowed)
    assert session.heard(WhereIs) == [WhereIs(borrowed), WhereIs(borrowed)]
    session.hears(ValueIs(borrowed, session.somewhere(WORKER)), OTHER)
    assert isinstance(session.owner.values[again], Stored)


def test_a_queued_task_goes_back_to_waiting() -> None:
    """It was about to be pushed with a place where nothing lies any more."""
    session = Session()
    x = session.call()
    session.holding_back, session.grants = [], False
    z = session.call()
    y = session.call(x)
    assert session.ran == [(1, 1), (2, 1)]
    session.loses(x)
    pushed, session.holding_back = session.holding_back, None
    session.hears(TasksDone([session.result(pushed[0])]), WORKER)
    assert session.ran[2:] == [(1, 2), (3, 1)]
    session.drops(x, y, z)
    assert not session.left()


def test_a_place_on_a_node_that_is_dead_already_is_late_news() -> None:
    """A result and an answer that were on their way: nothing can be read there, whoever says so."""
    session = Session()
    borrowed = return_id(task_id(OTHER, 1))
    session.does(RefsHeld([borrowed]))
    session.call(borrowed)
    session.holding_back = []
    x = session.call()
    (out,) = session.holding_back
    session.holding_back = None
    session.hears(NodeDied(FAR))
    session.makes = session.far
    late = session.result(out)
    session.makes = session.stored
    session.hears(TasksDone([late]), WORKER)
    assert session.ran == [(2, 1), (2, 2)]
    value = session.owner.values[x]
    assert isinstance(value, Stored) and value.place.holder == WORKER
    place = session.somewhere(FAR_WORKER).place
    session.hears(ValueIs(borrowed, Stored(place)), OTHER)
    assert session.heard(ReportLost) == [ReportLost(borrowed, place)]
    assert session.heard(WhereIs) == [WhereIs(borrowed), WhereIs(borrowed)], "a task waits for it"
    session.hears(ValueIs(borrowed, session.somewhere(WORKER)), OTHER)
    assert session.ran[2:] == [(1, 1)]
