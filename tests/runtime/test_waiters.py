"""The table of waiters: who is registered for what has become ready meanwhile leaves nothing behind."""

from __future__ import annotations

from miniray._runtime.waiters import HereWaiter, Waiter, Waiters
from miniray.core.ids import ObjectId

A, B = ObjectId(b"a" * 16), ObjectId(b"b" * 16)


def test_what_was_ready_before_is_told_and_forgotten() -> None:
    values = {A: 1}
    waiters = Waiters(values)
    waiter = Waiter([A, B], 2)
    waiters.add(waiter, [A, B])
    assert waiter.needed == 1 and list(waiters._waiting) == [B]
    waiters.ready([B])
    assert waiter.is_ready and not waiters._waiting


def test_who_waits_for_a_copy_stays_until_it_is_here() -> None:
    elsewhere = {A: None}
    waiters = Waiters({A: 1})
    waiter = HereWaiter(elsewhere, [A])
    waiters.add(waiter, [A])
    assert not waiter.is_ready
    elsewhere.clear()
    waiters.ready([A])
    assert waiter.is_ready and not waiters._waiting
