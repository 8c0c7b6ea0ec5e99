"""Locks of simulated code: who would block parks, and virtual time passes.

All of the standard library that is written in Python stands on them: `Condition`, `Event`, `Queue`, `Semaphore`,
`Barrier`, futures. Each has a real lock inside, so one that outlives its run is an ordinary lock from then on.

- A release wakes the first of those that wait. A third may take the lock before that one goes on, as with real locks;
  it keeps its place then.
- An acquire that may not wait, and fails, is a look (`looks.py`), and so are some of many that succeed: loops that
  poll under a lock come to their end.
- Before an acquire of users' own code others may go on, if there are threads: that is where they may meet.
- A fiber that unwinds waits for nothing. What it does not hold it does not release.
- A lock that is a global of the program's module was made before the run. Each simulated process has its own of it
  (`LockOfProcess`), as real ones have.
"""

from __future__ import annotations

import _thread
import queue
import sys
import threading
from _thread import get_ident
from functools import lru_cache
from importlib import _bootstrap
from typing import Any
from weakref import WeakKeyDictionary

from miniray.testing.fibers import Fiber, FiberKilled, inside_fiber, inside_one_given_up, this_fiber
from miniray.testing.looks import look, wait
from miniray.testing.places import is_own

LOCK, RLOCK = type(_thread.allocate_lock()), type(_thread.RLock())
_LOOKS_EVERY = 32  # a loop that polls does little else; what locks a million times may take a minute more for it

_ENTERS_CONDITION = threading.Condition.__enter__.__code__  # its `wait` takes a lock under one that may be real
_is_own = lru_cache(is_own)
_real_lock, _real_rlock, _RealQueue = _thread.allocate_lock, _thread.RLock, queue.SimpleQueue


class VirtualLock:
    """Instead of `threading.Lock`; a real lock outside of fibers."""

    __slots__ = ("__weakref__", "_holder", "_lock", "_waiting")
    _holder: Fiber | None
    _lock: Any
    _waiting: list[Fiber]

    def __new__(cls) -> Any:
        return new_lock() if inside_fiber() else _real_lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self.take(blocking, timeout, 2)

    def take(self, blocking: bool, timeout: float, depth: int) -> bool:
        """`depth`: of the frame that wants it, from here."""
        fiber = this_fiber()
        if timeout != -1 and (timeout < 0 or not blocking):
            return bool(self._lock.acquire(blocking, timeout))  # says what is wrong
        if fiber is None:
            return self._take_outside(blocking, timeout)
        if blocking and not fiber.killed:
            self._others_may_go_on(fiber, depth + 1)
        if self._lock.acquire(False):
            self._holder = fiber
            return True
        return self._wait(fiber, timeout if blocking else 0)

    def _take_outside(self, blocking: bool, timeout: float) -> bool:
        if inside_one_given_up():
            raise FiberKilled
        taken: bool = self._lock.acquire(False)
        if taken or not blocking:
            return taken
        holder = self._holder
        if holder is not None and not holder.ended and holder.home.cluster.threads.is_runner():
            raise RuntimeError("a finaliser waits for a lock that simulated code holds: nobody would go on")
        return bool(self._lock.acquire(blocking, timeout))

    def _others_may_go_on(self, fiber: Fiber, depth: int) -> None:
        fiber.acquires += 1
        threads = fiber.home.cluster.threads
        if not fiber.acquires % _LOOKS_EVERY:
            look(fiber.home, fiber, polls=False)
        elif threads.live and not getattr(_bootstrap, "_module_locks", ()):  # an import holds real locks
            frame = sys._getframe(depth)
            if frame.f_code is _ENTERS_CONDITION and frame.f_back is not None:
                frame = frame.f_back
            if _is_own(frame.f_code.co_filename):
                fiber.home.cluster.maybe_pause(fiber.home)

    def _wait(self, fiber: Fiber, seconds: float) -> bool:
        def take() -> bool:
            if not self._lock.acquire(False):
                return False
            self._holder = fiber
            return True

        if seconds == 0:
            look(fiber.home, fiber, polls=False)
            return take()
        taken = False
        self._waiting.append(fiber)
        try:
            taken = bool(wait(fiber, take, seconds if seconds > 0 else None))
        finally:
            self._waiting.remove(fiber)
            if not taken and not self._lock.locked():
                self._wake_next()  # it may have been woken for it
        return taken

    def release(self) -> None:
        fiber = this_fiber()
        if fiber is not None and fiber.killed and self._holder is not fiber:
            return
        self._holder = None
        self._lock.release()
        if self._waiting:
            self._wake_next()

    def _wake_next(self) -> None:
        if self._waiting:
            first, fiber = self._waiting[0], this_fiber()
            first.home.cluster.threads.check("ends a wait of simulated code")
            unwinds = fiber is not None and fiber.killed  # after the last choice, perhaps
            first.home.wake(first, 0.0 if unwinds else first.home.cluster.draw_lag())

    def locked(self) -> bool:
        fiber = this_fiber()
        if fiber is not None and self._lock.locked():
            look(fiber.home, fiber, polls=False)
        return bool(self._lock.locked())

    def __enter__(self) -> bool:
        return self.take(True, -1, 2)

    def __exit__(self, *_: object) -> None:
        self.release()

    # What `threading.Condition` asks of a lock, or does by itself:

    def _is_owned(self) -> bool:
        return bool(self._lock.locked())

    def _release_save(self) -> None:
        self.release()

    def _acquire_restore(self, _: None) -> None:
        self.acquire()

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()
        self._holder, self._waiting = None, []

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle '_thread.lock' object")

    def __repr__(self) -> str:
        return f"<{'locked' if self._lock.locked() else 'unlocked'} virtual lock at {id(self):#x}>"


def new_lock() -> Any:
    """A virtual one, whoever asks."""
    lock: Any = object.__new__(VirtualLock)
    lock._lock, lock._holder, lock._waiting = _real_lock(), None, []
    return lock


class VirtualRLock:
    """Instead of `threading.RLock`; a real one outside of fibers."""

    __slots__ = ("__weakref__", "_block", "_count", "_owner")
    _block: Any
    _count: int
    _owner: int | None

    def __new__(cls) -> Any:
        return new_rlock() if inside_fiber() else _real_rlock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self.take(blocking, timeout, 2)

    def take(self, blocking: bool, timeout: float, depth: int) -> bool:
        if self._owner == get_ident():
            self._count += 1
            return True
        if not self._block.take(blocking, timeout, depth + 1):
            return False
        self._owner, self._count = get_ident(), 1
        return True

    def release(self) -> None:
        if self._owner != get_ident():
            fiber = this_fiber()
            if fiber is not None and fiber.killed:
                return
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._block.release()

    def locked(self) -> bool:
        return bool(self._block.locked())

    def __enter__(self) -> bool:
        return self.take(True, -1, 2)

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return bool(self._owner == get_ident())

    def _recursion_count(self) -> int:
        return self._count if self._is_owned() else 0

    def _release_save(self) -> int:
        count = self._count
        self._count = 1
        self.release()
        return count

    def _acquire_restore(self, count: int) -> None:
        self.acquire()
        self._count = count

    def _at_fork_reinit(self) -> None:
        self._block._at_fork_reinit()
        self._owner, self._count = None, 0

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle '_thread.RLock' object")

    def __repr__(self) -> str:
        return f"<virtual RLock of thread {self._owner}, {self._count} times, at {id(self):#x}>"


def new_rlock() -> Any:
    """A virtual one, whoever asks."""
    lock: Any = object.__new__(VirtualRLock)
    lock._block, lock._owner, lock._count = new_lock(), None, 0
    return lock


class LockOfProcess:
    """A lock from before the run, of which each simulated process has its own; outside of fibers it is as it was."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._new = new_rlock if isinstance(lock, RLOCK) else new_lock
        self._by_process: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def _mine(self) -> Any:
        fiber = this_fiber()
        if fiber is None:
            return self._lock
        found = self._by_process.get(fiber.home)
        if found is None:
            found = self._by_process[fiber.home] = self._new()
        return found

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        mine = self._mine()
        return bool(mine.acquire(blocking, timeout) if mine is self._lock else mine.take(blocking, timeout, 2))

    def __enter__(self) -> bool:
        mine = self._mine()
        return bool(mine.acquire() if mine is self._lock else mine.take(True, -1, 2))

    def __exit__(self, *_: object) -> None:
        self._mine().release()

    def release(self) -> None:
        self._mine().release()

    def locked(self) -> bool:
        return bool(self._mine().locked())

    def _is_owned(self) -> bool:
        return bool(self._mine()._is_owned())

    def _release_save(self) -> Any:
        return self._mine()._release_save()

    def _acquire_restore(self, state: Any) -> None:
        self._mine()._acquire_restore(state)

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle '_thread.{LOCK.__name__}' object")


# What cannot be pickled is known by its type's name, as the real ones.
for kind, name in ((VirtualLock, "lock"), (VirtualRLock, "RLock"), (LockOfProcess, "lock")):
    kind.__module__, kind.__name__ = "_thread", name


class VirtualQueue(queue._PySimpleQueue):  # type: ignore[name-defined,misc]
    """Instead of `queue.SimpleQueue`; a real one outside of fibers."""

    def __new__(cls) -> Any:
        return super().__new__(cls) if inside_fiber() else _RealQueue()


def made_here(made: Any) -> bool:
    """Whether this SimpleQueue is one of those."""
    return isinstance(made, VirtualQueue)


# How a class of users' own, which travels by value, gets its locks anew in another process:
MAKERS = {LOCK: new_lock, RLOCK: new_rlock, VirtualLock: new_lock, VirtualRLock: new_rlock}
CLASSES = {
    (threading, "Lock"): VirtualLock,
    (threading, "_allocate_lock"): VirtualLock,
    (threading, "RLock"): VirtualRLock,
    (queue, "SimpleQueue"): VirtualQueue,
}
