"""Whoever waits for results drives the pool: waits for the workers, settles what they answer, sends what comes next.

Several threads may at once; a group is read by one of them. A thread that finds nothing to read for itself sleeps until
something has changed. Where no thread waits, or those that do cannot drive, the attendant does (`attendant.py`).

No lock is held across a wait, so a signal's handler strikes there at once. What a wait leaves in the tables here is
taken out by a `finally` that begins with the lock, which nothing can come before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

import miniray
from miniray.errors import ObjectLostError, SessionError
from miniray.pool.crew import Crew
from miniray.pool.exchange import Exchange
from miniray.pool.groups import Group

FIRST_PAUSE_SECONDS = 0.001  # how often a waiting thread looks around while a worker idles, or holds outcomes back
LONGEST_PAUSE_SECONDS = 0.02


class Waiting:
    """
    Args:
        give_up: the session has ended.
    """

    def __init__(
        self, lock: miniray.UnbrokenLock, crew: Crew, exchange: Exchange, give_up: Callable[[BaseException], None]
    ) -> None:
        self._lock = lock
        self._crew = crew
        self._exchange = exchange
        self._give_up = give_up
        self._sleepers: dict[threading.Lock, None] = {}  # each is released when something has changed
        self.threads: list[int] = []  # of the user's, that drive: their idents

    def until(self, done: Callable[[], bool], timeout: float | None = None, look: float | None = None) -> bool:
        """Drive the pool until `done()`, which is looked at each `look` seconds; False after `timeout` seconds."""
        thread, is_counted = threading.get_ident(), False
        try:
            with self._lock:
                self.threads.append(thread)
                is_counted = True
            in_time = self.drive(done, None if timeout is None else monotonic() + timeout, look)
        finally:
            with self._lock:
                if is_counted:
                    self.threads.remove(thread)
        return in_time

    def drive(self, done: Callable[[], bool], deadline: float | None, longest: float | None) -> bool:
        """The same, of a thread that does not count as waiting."""
        exchange, pause, looked = self._exchange, FIRST_PAUSE_SECONDS, monotonic()
        while not done():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            exchange.pump()
            with self._lock:
                groups, restless = self._crew.to_collect()
            if not groups:
                self._sleep(done, _least(left, longest))
                continue
            ready = self._await_one(groups, _least(left, pause if restless else None, longest))
            has_read = bool(ready)
            groups.clear()  # what they hold, arguments and results, does not stay while this thread waits on
            while ready:
                exchange.collect(ready.pop(0))
            if has_read:
                pause = FIRST_PAUSE_SECONDS
            if restless and (not has_read or monotonic() - looked > pause):
                exchange.take_posted()
                exchange.rebalance()
                with self._lock:
                    pause = FIRST_PAUSE_SECONDS if self._crew.holds_back else min(2 * pause, LONGEST_PAUSE_SECONDS)
                looked = monotonic()
        return True

    def _await_one(self, groups: list[Group], patience: float | None) -> list[Group]:
        """Those of the groups that have answered."""
        refs = [group.ref for group in groups]
        try:
            found = {*miniray.wait(refs, timeout=patience)[0]}
            if found and len(refs) > 1:
                found = {*miniray.wait(refs, num_returns=len(refs), timeout=0)[0]}
        except (SessionError, ObjectLostError) as error:
            self._give_up(error)
            return []
        return [group for group in groups if group.ref in found]

    def _sleep(self, done: Callable[[], bool], seconds: float | None) -> None:
        """Until something has changed."""
        sleeper = threading.Lock()
        sleeper.acquire()
        try:
            with self._lock:
                if done() or self._crew.to_collect()[0]:
                    return
                self._sleepers[sleeper] = None
            sleeper.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
        finally:
            with self._lock:
                self._sleepers.pop(sleeper, None)

    def changed(self) -> None:
        """Whoever sleeps looks again."""
        if self._sleepers:
            with self._lock:
                while self._sleepers:
                    self._sleepers.popitem()[0].release()


def _least(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)
