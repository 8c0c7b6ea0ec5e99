"""Fibers: threads of which exactly one is ever awake, so that code which blocks runs deterministically.

Who is awake holds the baton. `run` hands it to a fiber and gets it back when the fiber parks or ends; so the fiber
and its caller are never both awake, and what they share needs no lock. A fiber that is killed raises `FiberKilled`
from where it is parked; it derives from BaseException, since users' code must not catch it by accident.

A fiber that is awake for too long, or while a signal's handler raises in who waits for it, is *given up*: `FiberKilled`
is raised in its thread from outside, at once or when what it blocks on returns; so it can touch no later run.

Threads are kept and used again: making one costs more than a small program's whole run.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType

from miniray.testing.places import line_of

from miniray.testing.looks import Spin

STUCK_SECONDS = 30.0  # real ones; a task may compute that long, but not wait for what is outside of the simulation
UNWIND_SECONDS = 1.0  # real ones, until one that is given up is left to itself
_SLICE_SECONDS = 0.1

_idle: list[_Thread] = []


class _Inside(threading.local):
    thread: _Thread | None = None


_inside = _Inside()


def _forked() -> None:
    """A process that simulated code has forked is a real one: `os._exit` ends it."""
    _inside.thread = None


os.register_at_fork(after_in_child=_forked)


def inside_fiber() -> bool:
    """Whether the thread that asks runs simulated code."""
    thread = _inside.thread
    return thread is not None and not thread.given_up


def inside_one_given_up() -> bool:
    thread = _inside.thread
    return thread is not None and thread.given_up


class FiberStuck(Exception):
    """It has not come back for `STUCK_SECONDS`: it blocks on something real. The message is the line of the user's."""


class FiberKilled(BaseException):
    """The simulated process of this fiber is dead; nothing of it goes on."""


class _Thread:
    """A thread that runs one job after another, when it is given the baton."""

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.back = threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.job: Callable[[], None] | None = None
        self.given_up = False
        self._thread = threading.Thread(target=self._serve, name="miniray-fiber", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        _inside.thread = self
        try:
            while not self.given_up:
                self.go.acquire()
                job, self.job = self.job, None
                assert job is not None
                job()
                del job  # nothing of a finished job may live on here
                self.back.release()
        except FiberKilled:
            pass  # it was given up, and has ended just then

    def give_up(self) -> bool:
        """Raise FiberKilled in it, wherever it is; whether it has given the baton back."""
        self.given_up = True
        raise_in(self._thread, FiberKilled)
        if not _acquired(self.back, UNWIND_SECONDS):
            return False
        raise_in(self._thread, None)  # it may have come back by itself
        return True

    def frame(self) -> FrameType | None:
        return sys._current_frames().get(self._thread.ident or 0)


class Fiber:
    """One line of execution. `error` is what its code raised, if it did; `unwound`: FiberKilled has ended it.

    Args:
        body: what it runs.
        on_resume: called in the fiber each time it goes on, and when it begins.
    """

    def __init__(self, body: Callable[[], None], on_resume: Callable[[], None]) -> None:
        self._thread = _idle.pop() if _idle else _Thread()
        self._thread.job = self._run
        self._body: Callable[[], None] | None = body
        self._on_resume = on_resume
        self.ended = False
        self.killed = False
        self.unwound = False
        self.resumed_times = 0
        self.spin = Spin()
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
            _idle.append(thread)

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
        self._on_resume()

    def kill(self) -> None:
        """Unwind it: its `finally` clauses run, and find a dead process."""
        if not self.ended:
            self.killed = True
            self.run()

    def line(self) -> str:
        """Where its users' code is."""
        return line_of(self._thread.frame())

    def hurry(self) -> None:
        """Its run has failed: it is waited for no longer than one that unwinds. Called in any thread."""
        self._hurried = True

    def _run(self) -> None:
        body, self._body = self._body, None
        try:
            if not self.killed and body is not None:
                self._on_resume()
                body()
        except FiberKilled:
            self.unwound = True
        except BaseException as error:
            self.error = error
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
