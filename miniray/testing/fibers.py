"""Fibers: threads of which exactly one is ever awake, so that code which blocks runs deterministically.

Who is awake holds the baton. `run` hands it to a fiber and gets it back when the fiber parks or ends; so the fiber
and its caller are never both awake, and what they share needs no lock. A fiber that is killed raises `FiberKilled`
from where it is parked; it derives from BaseException, since users' code must not catch it by accident.

A fiber that is awake for too long, or while a signal's handler raises in who waits for it, is *given up*: `FiberKilled`
is raised in its thread from outside, at once or when what it blocks on returns; so it can touch no later run.

Threads are kept and used again: making one costs more than a small program's whole run. A thread that simulated code
starts is a fiber on a thread of its own, `Guest`, which ends with it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from miniray.testing.looks import Spin
from miniray.testing.places import line_of

if TYPE_CHECKING:
    from miniray.testing.simulated import SimulatedProcess

STUCK_SECONDS = 30.0  # real ones; a task may compute that long, but not wait for what is outside of the simulation
UNWIND_SECONDS = 1.0  # real ones, until one that is given up is left to itself
_SLICE_SECONDS = 0.1

_allocate_lock = threading.Lock  # the real one
_idle: list[_Own] = []


class _Inside(threading.local):
    thread: _Thread | None = None
    fiber: Fiber | None = None


_inside = _Inside()


def _forked() -> None:
    """A process that simulated code has forked is a real one: `os._exit` ends it."""
    _inside.thread = _inside.fiber = None


os.register_at_fork(after_in_child=_forked)


def inside_fiber() -> bool:
    """Whether the thread that asks runs simulated code."""
    thread = _inside.thread
    return thread is not None and not thread.given_up


def this_fiber() -> Fiber | None:
    """The one that asks: also one that unwinds, or is given up, though not in `outside`."""
    return _inside.fiber


@contextmanager
def outside() -> Iterator[None]:
    """For this thread nothing is virtual in here, as if it were no fiber."""
    thread, fiber = _inside.thread, _inside.fiber
    _inside.thread = _inside.fiber = None
    try:
        yield
    finally:
        _inside.thread, _inside.fiber = thread, fiber


def inside_one_given_up() -> bool:
    thread = _inside.thread
    return thread is not None and thread.given_up


class FiberStuck(Exception):
    """It has not come back for `STUCK_SECONDS`: it blocks on something real. The message is the line of the user's."""


class FiberKilled(BaseException):
    """The simulated process of this fiber is dead; nothing of it goes on."""


class _Thread:
    """A thread that runs jobs when it is given the baton."""

    def __init__(self, thread: threading.Thread) -> None:
        self.go, self.back = _allocate_lock(), _allocate_lock()
        self.go.acquire()
        self.back.acquire()
        self.job: Callable[[], None] | None = None
        self.given_up = False
        self.unbroken = _allocate_lock()  # it is not given up by who finds this taken
        self.thread = thread

    def run_job(self) -> None:
        self.go.acquire()
        job, self.job = self.job, None
        assert job is not None
        job()
        del job  # nothing of a finished job may live on here
        self.back.release()

    def job_ended(self) -> None:
        """Called by who ran it, and has the baton again."""

    def give_up(self) -> bool:
        """Raise FiberKilled in it, wherever it is; whether it has given the baton back."""
        is_whole = _acquired(self.unbroken, UNWIND_SECONDS)
        self.given_up = True  # from now on what it calls is real
        raise_in(self.thread, FiberKilled)
        if is_whole:
            self.unbroken.release()
        if not _acquired(self.back, UNWIND_SECONDS):
            return False
        raise_in(self.thread, None)  # it may have come back by itself
        return True

    def frame(self) -> FrameType | None:
        return sys._current_frames().get(self.thread.ident or 0)


class _Own(_Thread):
    """It runs one after another."""

    def __init__(self) -> None:
        super().__init__(threading.Thread(target=self._serve, name="miniray-fiber", daemon=True))
        self.thread.start()
        self.thread._daemonic = False  # type: ignore[attr-defined]  # as a main thread: what it starts is none either

    def _serve(self) -> None:
        _inside.thread = self
        try:
            while not self.given_up:
                self.run_job()
        except FiberKilled:
            pass  # it was given up, and has ended just then

    def job_ended(self) -> None:
        _idle.append(self)


class Guest(_Thread):
    """A thread of simulated code's: it has one job, which is what the thread does."""

    def start(self, start: Callable[[threading.Thread], None]) -> None:
        """`start` is the real one. The thread is there when this returns, and waits for the baton.

        Whatever happens to it, the interpreter does not wait for its end; so it starts as a daemon.
        """
        thread: Any = self.thread
        own, daemonic = vars(thread).get("run"), thread._daemonic
        thread.run, thread._daemonic = self._serve, True
        try:
            with outside():
                thread._started = threading.Event()  # what it waits for in `start` is real
                start(thread)
                self.back.acquire()
        finally:
            thread._daemonic = daemonic
            del thread.run
            if own is not None:
                thread.run = own

    def _serve(self) -> None:
        _inside.thread = self
        self.back.release()
        try:
            self.run_job()
        except FiberKilled:
            pass

    def job_ended(self) -> None:
        """So that nothing of it goes on beside the next fiber, and `is_alive` says the same in each run."""
        threading.Thread.join(self.thread, UNWIND_SECONDS)


class Fiber:
    """One line of execution. `error` is what its code raised, if it did; `unwound`: FiberKilled has ended it.

    Args:
        body: what it runs.
        home: the process of which it is a part.
        guest: the thread on which it lives, if not on one of these here.
    """

    def __init__(self, body: Callable[[], None], home: SimulatedProcess, guest: Guest | None = None) -> None:
        self._thread: _Thread = guest or (_idle.pop() if _idle else _Own())
        self._thread.job = self._run
        self.home = home
        self.is_guest = guest is not None
        self.number = 0  # of a guest: how many came before it
        self._body: Callable[[], None] | None = body
        self.ended = False
        self.killed = False
        self.unwound = False
        self.resumed_times = 0
        self.spin = Spin()
        self.acquires = 0  # of locks
        self.joins: Fiber | None = None  # whose thread it waits for
        self._awake = False
        self._hurried = False
        self.error: BaseException | None = None

    def run(self) -> None:
        """Let it go on until it parks or ends. Called by whoever has the baton, never by itself.

        Raises:
            FiberStuck: it does neither, and is given up. It is as well when a signal's handler raises in the caller.
        """
        if self.ended:
            return
        thread = self._thread
        self._awake = True
        try:
            thread.go.release()
            if not _acquired(thread.back, STUCK_SECONDS, lambda: self._hurried):
                raise FiberStuck(line_of(thread.frame()) or "of no user's")
        except BaseException:
            self.killed = True
            if self._awake:
                came_back = False
                try:
                    came_back = thread.give_up()
                finally:
                    self.ended = self.ended or not came_back
            raise
        if self.ended and not thread.given_up:
            thread.job_ended()

    def park(self) -> None:
        """Give the baton back; return when `run` is called again. Only called by itself.

        Raises:
            FiberKilled: it was killed meanwhile, or before: a `finally` of what is unwound waits for nothing.
        """
        if self.killed:
            raise FiberKilled
        self._awake = False
        self._thread.back.release()
        self._thread.go.acquire()
        self.resumed_times += 1
        if self.killed:
            raise FiberKilled
        self.home.resumed(self)

    def kill(self) -> None:
        """Unwind it: its `finally` clauses run, and find a dead process."""
        if not self.ended:
            self.killed = True
            self.run()

    @property
    def thread(self) -> threading.Thread:
        return self._thread.thread

    @property
    def unbroken(self) -> threading.Lock:
        """It holds this where being given up would break what is not its own."""
        return self._thread.unbroken

    def line(self) -> str:
        """Where its users' code is."""
        return line_of(self._thread.frame())

    def hurry(self) -> None:
        """Its run has failed: it is waited for no longer than one that unwinds. Called in any thread."""
        self._hurried = True

    def _run(self) -> None:
        body, self._body = self._body, None
        _inside.fiber = self
        try:
            if not self.killed and body is not None:
                self.home.resumed(self)
                body()
        except FiberKilled:
            self.unwound = True
        except BaseException as error:
            self.error = error
        _inside.fiber = None
        self.ended = True
        self._awake = False


def _acquired(lock: threading.Lock, seconds: float, hurried: Callable[[], bool] = lambda: False) -> bool:
    """In slices: a signal that lands just before a wait begins does not end it, and its handler would run after it."""
    left = max(1, round(seconds / _SLICE_SECONDS))
    while left > 0:
        if lock.acquire(timeout=_SLICE_SECONDS):
            return True
        left = min(left, round(UNWIND_SECONDS / _SLICE_SECONDS)) if hurried() else left
        left -= 1
    return False


def raise_in(thread: threading.Thread, kind: type[BaseException] | None) -> None:
    """Have this raised at its next line of Python; None: nothing after all."""
    told = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), told)
