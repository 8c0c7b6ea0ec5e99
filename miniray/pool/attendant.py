"""The attendant: the one thread of a pool. It runs callbacks, and drives the pool while no thread of the user's does.

It looks every two milliseconds while there is work, so that nobody has to wake it, and sleeps when all is idle. Where
somebody waits who cannot drive (`Dispatcher.attend`), it goes from one answer to the next without a pause. It holds the
dispatcher, and not the pool: that one can be collected.
"""

from __future__ import annotations

import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING

from miniray.pool.crew import END_SECONDS, JOIN_SECONDS

if TYPE_CHECKING:
    from miniray.pool.dispatch import Dispatcher

LOOK_SECONDS = 0.002
PARK_SECONDS = 0.05
WAIT_SECONDS = 0.02  # then it looks whether there are callbacks to run


class Attendant:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._thread: threading.Thread | None = None
        self._sleep = threading.Lock()
        self._sleep.acquire()
        self._parked = False
        self._stopping = False
        self._closing = False
        self._is_calling_back = False

    def rouse(self, *, now: bool = False) -> None:
        """There is work; `now`: it does not wait for the next look."""
        if self._thread is None:
            self._begin()
        elif self._parked or now:
            self._parked = False
            try:
                self._sleep.release()
            except RuntimeError:
                pass  # it is awake

    def _begin(self) -> None:
        with self._dispatcher.lock:
            if self._thread is None and not self._stopping:
                thread = threading.Thread(target=self._run, name="miniray-pool", daemon=True)
                thread.start()
                self._thread = thread

    def stop(self) -> bool:
        """From a finaliser, perhaps: the pool is to be terminated by this thread, which then ends. Whether it runs."""
        self._stopping = True
        if self._thread is None:
            return False
        self.rouse(now=True)
        return True

    def leave(self) -> None:
        """The interpreter exits: the thread ends. A callback that runs has time for it, as the standard pool waits for
        its end; but not for ever, and not if it waits for results itself, which do not come any more."""
        self._stopping = True
        thread, began = self._thread, monotonic()
        if thread is not None:
            self.rouse(now=True)
            while thread.is_alive():
                has_time = self._is_calling_back and thread.ident not in self._dispatcher.waiting
                if monotonic() - began > (JOIN_SECONDS if has_time else END_SECONDS):
                    break
                thread.join(WAIT_SECONDS)

    def close(self) -> None:
        """From a finaliser, perhaps: nobody can bring calls any more, and those that are there are done to the end."""
        self._closing = True
        if self._thread is not None:
            self.rouse(now=True)

    @property
    def is_this_thread(self) -> bool:
        """Whether a callback asks."""
        return threading.current_thread() is self._thread

    def refuse_to_wait(self) -> None:
        """A callback that waits for all results would wait for its own.

        Raises:
            RuntimeError: this is called by a callback.
        """
        if self.is_this_thread:
            raise RuntimeError("cannot join current thread")

    def nudge(self) -> None:
        """If it runs at all, it has something to look at."""
        if self._thread is not None and self._thread.is_alive():
            self.rouse(now=True)

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # nobody else would drive: what was asked for fails, instead of waiting for ever
            failed = RuntimeError(f"the pool's thread was ended by {error!r}, and the pool with it: make a new one")
            failed.__cause__ = error
            self._dispatcher.terminate(failed)
            self._run_callbacks()
            raise

    def _serve(self) -> None:
        dispatcher = self._dispatcher
        busy = monotonic()
        while not self._stopping:
            self._sleep.acquire(timeout=LOOK_SECONDS)
            self._run_callbacks()
            if self._closing and dispatcher.state == "RUN":
                dispatcher.close()
            if not dispatcher.is_idle:
                busy = monotonic()
                if dispatcher.needs_driving and not dispatcher.waiting:
                    dispatcher.drive_while_alone(self._is_wanted, WAIT_SECONDS)
            elif dispatcher.state != "RUN" and dispatcher.has_finished:
                return
            elif monotonic() - busy > PARK_SECONDS:
                dispatcher.fill_vacancies()
                self._parked = True
                if dispatcher.rests() and not (self._stopping or self._closing):
                    self._sleep.acquire()
                self._parked = False
                busy = monotonic()
        if not dispatcher.has_left:
            dispatcher.terminate()

    def _is_wanted(self) -> bool:
        """Whether it has something else to do than drive."""
        dispatcher = self._dispatcher
        return bool(dispatcher.waiting or dispatcher.callbacks or self._stopping or not dispatcher.needs_driving)

    def _run_callbacks(self) -> None:
        dispatcher = self._dispatcher
        while dispatcher.callbacks and not self._stopping:
            callback = dispatcher.callbacks.popleft()
            self._is_calling_back = True
            try:
                callback()
            except BaseException:
                kind, error, trace = sys.exc_info()
                assert kind is not None
                threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
                del error, trace
            finally:
                self._is_calling_back = False
            del callback  # it holds a result; the next may be long in coming
            dispatcher.show_waiters()
