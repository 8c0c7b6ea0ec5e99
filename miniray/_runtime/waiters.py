"""Waiters: threads and callbacks that want to know when objects are ready.

Machines know nothing of threads: they say `Ready(ids)`, and here it is found who waits. The table changes under the
state lock alone (a list that one thread takes out while another appends to it or shortens it loses waiters).
Registering is followed by a look at what is ready already, so that nothing falls between; being told twice is harmless.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from miniray.core.ids import ObjectId


_ABSENT: Any = object()


class Waiter:
    """One thread's wait for `needed` of `pending`. It sleeps on `lock` when another thread drives the loop."""

    __slots__ = ("is_ready", "lock", "needed", "parked", "pending")

    def __init__(self, pending: Iterable[ObjectId] = (), needed: int = 1) -> None:
        self.pending: dict[ObjectId, None] = dict.fromkeys(pending)
        self.needed = needed
        self.is_ready = False
        self.parked = False
        self.lock: threading.Lock | None = None  # made when it first sleeps; most waiters drive instead

    def notify(self) -> None:
        """The wait is over."""
        self.is_ready = True
        self.wake()

    def wake(self) -> None:
        """Return from sleeping, ready or not (the token is free, or a signal wants to be raised)."""
        if self.parked and self.lock is not None and self.lock.locked():
            try:
                self.lock.release()
            except RuntimeError:
                pass  # two wakers at once: one release is enough

    def before_sleep(self) -> None:
        """Another thread drives, and this one is about to sleep."""

    def after_sleep(self) -> None:
        """It goes on."""

    def tell(self, object_id: ObjectId) -> None:
        if self.pending.pop(object_id, _ABSENT) is None:
            self.needed -= 1
            if self.needed <= 0:
                self.is_ready = True
                if self.parked:
                    self.wake()


class OneWaiter(Waiter):
    """A wait for one object. The thread that drives looks by itself; only one that sleeps must be told."""

    __slots__ = ("_object_id", "_waiters")

    def __init__(self, waiters: Waiters, object_id: ObjectId) -> None:
        self._waiters = waiters
        self._object_id = object_id
        self.parked = False
        self.lock = None

    @property
    def is_ready(self) -> bool:  # type: ignore[override]
        return self._object_id in self._waiters.values or self._waiters.ended

    def before_sleep(self) -> None:
        self.pending = {self._object_id: None}
        self._waiters.add(self, (self._object_id,))

    def after_sleep(self) -> None:
        self._waiters.remove(self)

    def tell(self, object_id: ObjectId) -> None:
        self.wake()

    def notify(self) -> None:
        self.wake()


class HereWaiter(Waiter):
    """A wait until these have values that can be read on this node; that they have values is not enough."""

    __slots__ = ("_elsewhere",)

    def __init__(self, elsewhere: Mapping[ObjectId, Any], object_ids: Sequence[ObjectId]) -> None:
        super().__init__(object_ids, len(object_ids))
        self._elsewhere = elsewhere

    def tell(self, object_id: ObjectId) -> None:
        if self._elsewhere.get(object_id, _ABSENT) is not None:  # not, or why it cannot
            super().tell(object_id)


class Waiters:
    def __init__(self, values: Mapping[ObjectId, Any]) -> None:
        self.values = values
        self.ended = False
        self._waiting: dict[ObjectId, list[Waiter | Callable[[ObjectId], None]]] = {}

    def add(self, waiter: Waiter, object_ids: Sequence[ObjectId]) -> None:
        if self.ended:
            waiter.notify()
            return
        waiting, values = self._waiting, self.values
        for object_id in object_ids:
            if object_id in waiting:
                waiting[object_id].append(waiter)
            else:
                waiting[object_id] = [waiter]
        self.ready([object_id for object_id in object_ids if object_id in values])  # meanwhile: it is told, and out

    def remove(self, waiter: Waiter) -> None:
        for object_id in waiter.pending:
            waiting = self._waiting.get(object_id)
            if waiting is not None and waiter in waiting:
                waiting.remove(waiter)
                if not waiting:
                    self._waiting.pop(object_id, None)

    def call(self, object_id: ObjectId, callback: Callable[[ObjectId], None]) -> None:
        """Call once when it is ready (at once, if it is); the callback only hands over, it runs under the lock."""
        if self.ended:
            callback(object_id)
            return
        self._waiting.setdefault(object_id, []).append(callback)
        if object_id in self.values:
            self.ready([object_id])

    def ready(self, object_ids: Iterable[ObjectId]) -> None:
        if not self._waiting:
            return
        for object_id in object_ids:
            for waiter in self._waiting.pop(object_id, ()):
                if isinstance(waiter, Waiter):
                    waiter.tell(object_id)
                    if type(waiter) is HereWaiter and object_id in waiter.pending:
                        self._waiting.setdefault(object_id, []).append(waiter)
                else:
                    waiter(object_id)

    def end_all(self) -> None:
        """The session is over: whoever waits looks again, and raises."""
        self.ended = True
        waiting, self._waiting = self._waiting, {}
        for object_id, waiters in waiting.items():
            for waiter in waiters:
                if isinstance(waiter, Waiter):
                    waiter.notify()
                else:
                    waiter(object_id)
