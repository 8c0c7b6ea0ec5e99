"""The node's tables alone: leases, resources and whom they go to."""

from __future__ import annotations

from miniray.core.ids import LeaseId, TaskId, process_id
from miniray.core.node.lease_queue import LeaseQueue, Request
from miniray.core.node.policies import grantable, to_revoke
from miniray.core.resources import ResourcePool, demand

DRIVER, NESTED, OTHER = (process_id(b"test", number) for number in (1, 2, 3))
WORKERS = [process_id(b"test", number) for number in range(10, 20)]
ONE_CPU = demand({"CPU": 1})


def a_queue(cpus: float = 2, **more: float) -> LeaseQueue:
    return LeaseQueue(ResourcePool(demand({"CPU": cpus, **more})))


def ask(queue: LeaseQueue, owner: bytes, number: int, wanted: tuple[tuple[str, int], ...] = ONE_CPU) -> Request:
    request = Request(owner, number, wanted, False)  # type: ignore[arg-type]
    queue.add(request)
    return request


def test_return_twice() -> None:
    """Releasing is keyed by the lease: the second time it does nothing (55469)."""
    queue = a_queue()
    row = queue.grant(ask(queue, DRIVER, 1), WORKERS[0])
    assert queue.release(row.lease) is row
    assert queue.release(row.lease) is None
    assert queue.release(LeaseId(99)) is None
    queue.check()
    assert queue.resources.free == queue.resources.total


def test_a_blocked_workers_cpu_serves_others_and_is_a_debt() -> None:
    queue = a_queue(1, GPU=1)
    both = demand({"CPU": 1, "GPU": 1})
    row = queue.grant(ask(queue, DRIVER, 1, both), WORKERS[0])
    assert not queue.resources.fits(ONE_CPU)
    queue.block(row)
    queue.block(row)
    assert queue.resources.fits(ONE_CPU) and not queue.resources.fits(demand({"GPU": 1}))
    other = queue.grant(ask(queue, NESTED, 1), WORKERS[1])
    queue.unblock(row)
    assert queue.resources.free["CPU"] < 0, "it runs again without waiting"
    queue.check()
    queue.release(other.lease)
    queue.release(row.lease)
    assert queue.resources.free == queue.resources.total


def test_a_blocked_workers_children_come_before_everything_else() -> None:
    queue = a_queue(2)
    parent = queue.grant(ask(queue, DRIVER, 1), NESTED)
    waiting = [ask(queue, DRIVER, number) for number in (2, 3)]
    child = ask(queue, NESTED, 1)
    queue.block(parent)
    assert grantable(queue)[0] is child
    assert grantable(queue)[1:] == waiting[:1]


def test_nobody_is_overtaken_by_a_smaller_request_for_the_same_resource() -> None:
    queue = a_queue(2)
    queue.grant(ask(queue, DRIVER, 1), WORKERS[0])
    ask(queue, DRIVER, 2, demand({"CPU": 2}))
    ask(queue, OTHER, 1)
    assert grantable(queue) == []


def test_who_lacks_one_resource_holds_up_no_other() -> None:
    queue = a_queue(2, GPU=1)
    queue.grant(ask(queue, DRIVER, 1, demand({"GPU": 1})), WORKERS[0])
    ask(queue, DRIVER, 2, demand({"CPU": 1, "GPU": 1}))
    other = ask(queue, OTHER, 1)
    assert grantable(queue) == [other]


def test_an_owner_without_a_lease_gets_one_back_from_who_has_most() -> None:
    queue = a_queue(2)
    rows = [queue.grant(ask(queue, DRIVER, number), WORKERS[number]) for number in (1, 2)]
    assert to_revoke(queue) is None, "nobody starves"
    ask(queue, OTHER, 1)
    revoked = to_revoke(queue)
    assert revoked in rows
    revoked.revoked = True
    assert to_revoke(queue) is None, "one at a time"


def test_a_request_of_the_same_class_revokes_nothing() -> None:
    queue = a_queue(1)
    queue.grant(ask(queue, DRIVER, 1), WORKERS[0])
    ask(queue, DRIVER, 2)
    assert to_revoke(queue) is None


def test_what_needs_nothing_has_nothing_revoked_unless_no_worker_may_be_started_for_it() -> None:
    queue = a_queue(1)
    row = queue.grant(ask(queue, DRIVER, 1), WORKERS[0])
    ask(queue, OTHER, 1, ())
    assert to_revoke(queue) is None
    assert to_revoke(queue, full=True) is row
    queue.requests[OTHER, 1].fork = TaskId(bytes(14))
    assert to_revoke(queue, full=True) is None, "a worker that comes back is no fork of its owner"


def test_fractions_return_exactly() -> None:
    queue = a_queue(1)
    part = demand({"CPU": 0.1})
    rows = [queue.grant(ask(queue, DRIVER, number, part), WORKERS[number % 10]) for number in range(10)]
    assert queue.resources.free["CPU"] == 0
    for row in rows:
        queue.release(row.lease)
    assert queue.resources.free == queue.resources.total
