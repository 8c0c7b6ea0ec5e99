"""The owner's tables alone: hand-offs, references, leases. Each race is named as in PROTOCOL.md section 11."""

from __future__ import annotations

from collections import deque

import pytest

from miniray.core.ids import LeaseId, ObjectId, process_id, return_id, task_id
from miniray.core.machine import InvariantError
from miniray.core.owner.handoffs import Handoffs, Transfer
from miniray.core.owner.leases import BATCH_TASKS, MAX_DEPTH_TASKS, Lease, SchedulingClass
from miniray.core.owner.references import Borrowed, Owned, References
from miniray.core.owner.tasks import Task
from miniray.core.task_spec import TaskOptions, TaskSpec

ME, OTHER, THIRD = (process_id(b"test", number) for number in (1, 2, 3))
X = return_id(task_id(OTHER, 1))
MINE = return_id(task_id(ME, 1))


def test_stale_confirmation() -> None:
    """A confirmation of an old receipt must not end the wait for a later one."""
    table = Handoffs()
    first = table.next_receipt(X)
    second = table.next_receipt(X)
    transfer = Transfer()
    table.expect(X, transfer)
    assert table.confirm(X, first) == []
    assert table.is_open(X)
    assert table.confirm(X, second) == [transfer]
    assert not table.is_open(X)


def test_two_handoffs_one_done() -> None:
    """Pins are released by the transfer's name, each once."""
    table = Handoffs()
    one, two = (OTHER, task_id(ME, 1), 1), (OTHER, task_id(ME, 2), 1)
    table.pin(one, [X])
    table.pin(two, [X])
    assert table.unpin(one) == [X]
    assert table.unpin(one) == []
    assert table.receiver_lost(OTHER) == [X]
    assert not any(table.statistics().values())


def test_a_transfer_ends_when_its_last_owner_is_lost() -> None:
    table = Handoffs()
    y = return_id(task_id(THIRD, 1))
    transfer = Transfer()
    for object_id in (X, y):
        table.next_receipt(object_id)
        table.expect(object_id, transfer)
    assert table.owner_lost(OTHER) == []
    assert table.confirm(y, 1) == [transfer]


def test_removed_then_dead() -> None:
    """A drop and the death of its sender may both arrive: dropped once (60495)."""
    table = References(ME)
    table.rows[MINE] = Owned(local=0)
    assert table.add_holder(MINE, OTHER)
    assert table.held_by(OTHER) == [MINE]
    assert table.drop_holder(MINE, OTHER) is True
    assert table.drop_holder(MINE, OTHER) is False


def test_asking_for_what_was_freed_creates_nothing() -> None:
    table = References(ME)
    assert table.add_holder(MINE, OTHER) is False
    assert not table.rows


def test_a_borrowed_ref_that_its_owner_does_not_know_of_is_found_out() -> None:
    table = References(ME)
    table.rows[X] = Borrowed(local=1)
    with pytest.raises(InvariantError, match="without its owner's knowledge"):
        table.check()
    table.rows[X].registered = True  # type: ignore[union-attr]
    table.check()


def test_a_count_below_zero_is_found_out() -> None:
    table = References(ME)
    table.rows[MINE] = Owned(local=-1, containers=1)
    with pytest.raises(InvariantError, match="below zero"):
        table.check()


# ---- leases ----


def some_tasks(count: int) -> deque[Task]:
    options = TaskOptions("f")
    return deque(Task(TaskSpec(task_id(ME, n), b"f", b"", options), None) for n in range(count))  # type: ignore[arg-type]


def a_class(queued: int, *flights: int, mean: float = 0.0) -> SchedulingClass:
    found = SchedulingClass((), some_tasks(queued))
    if mean:
        found.measured(mean)
    for number, flight in enumerate(flights, 1):
        lease = found.leases[LeaseId(number)] = Lease(LeaseId(number), OTHER, ())
        lease.flight = {task_id(THIRD, n): task for n, task in enumerate(some_tasks(flight))}
        if not flight:
            found.idle[lease.lease] = lease
    return found


def chosen(found: SchedulingClass, *, eager: bool = False) -> tuple[int, int] | None:
    choice = found.choose(eager=eager)
    return None if choice is None else (choice[0].lease, choice[1])


def test_an_idle_worker_gets_its_first_task_at_once() -> None:
    assert chosen(a_class(1, 0)) == (1, 1)
    assert chosen(a_class(100, 0)) == (1, 1), "nothing was measured: one task, whatever waits"


def test_depth_follows_the_measured_time() -> None:
    assert a_class(0, mean=1.0).depth == MAX_DEPTH_TASKS
    assert a_class(0, mean=100.0).depth == 20
    assert a_class(0, mean=1_000_000.0).depth == 1


def test_a_long_task_hides_nothing_behind_it() -> None:
    assert chosen(a_class(10, 1, mean=1_000_000.0), eager=True) is None


def test_a_busy_worker_gets_batches_or_what_somebody_waits_for() -> None:
    few = a_class(3, 1, mean=1.0)
    assert chosen(few) is None
    assert chosen(few, eager=True) == (1, 3)
    assert chosen(a_class(BATCH_TASKS, 1, mean=1.0)) == (1, BATCH_TASKS)


def test_the_last_of_a_burst_are_spread_over_all_workers() -> None:
    assert chosen(a_class(10, 0, 0, mean=1.0)) == (2, 5)


def test_a_blocked_revoked_or_lost_worker_gets_nothing() -> None:
    for change in ({"blocked": True}, {"revoked": True}, {"lost_at": 1.0}):
        found = a_class(1, 1, mean=1.0)
        for name, value in change.items():
            setattr(found.leases[LeaseId(1)], name, value)
        assert chosen(found, eager=True) is None, change


def test_what_has_not_started_is_taken_back_for_an_idle_worker() -> None:
    found = a_class(0, 5, 0, mean=1.0)
    assert found.to_take_back(now=0.001) is None, "it may still be moving"
    lease, tasks = found.to_take_back(now=1.0) or (None, [])
    assert lease is not None and lease.lease == 1
    assert tasks == list(lease.flight)[3:], "the later half of the four that have not started"
    lease.taking_back = True
    assert found.to_take_back(now=1.0) is None


def test_requests_grow_with_the_leases() -> None:
    assert a_class(100).more_requests() == 2
    assert a_class(100, 1, 1, 1).more_requests() == 6
    assert a_class(1, 0).more_requests() == 0, "the idle worker takes it"


def test_ids_name_their_owner() -> None:
    assert X[:8] == OTHER and isinstance(X, bytes) and ObjectId(X) == X
