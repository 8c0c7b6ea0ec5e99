"""Signals may land anywhere: what a handler raises must not tear a step apart (DESIGN.md section 6).

Of 300 interrupts sent into a submit/get loop, 95 landed inside a step and 29 between a read and its step. So the
Python handlers of the main thread are wrapped. While that thread is inside the runtime (`enter` to `leave`), a signal
is only noted, and whatever it waits in is woken; it is raised when the thread leaves. A signal that finds the thread
in `unbroken` code is sent again, soon: in our `__del__`s and the callbacks of weak containers (Python swallows what is
raised there), and between an event and what stands for it in Python (a task submitted whose ref was never made is a
leak).

Who keeps tables of his own above the runtime, as a pool does, does the same by an `UnbrokenLock`.

Only the main thread may change handlers, and it has no reason to come by when another one begins or ends a session. So
that one has Python do it there (`Py_AddPendingCall`: where it would run a handler, before the next line or so).

Masking instead would cost two system calls a step (2.3 us).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import ctypes
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar

from miniray._serialization.strikes import handling

_F = TypeVar("_F", bound=Callable[..., Any])

_WRAPPED = (signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_SIGINT, _SIGALRM = int(signal.SIGINT), int(signal.SIGALRM)
_getsignal: Callable[[int], Any] = _signal.getsignal  # the module's own wraps its result in an enum: 2 us

unbroken_code: dict[CodeType, None] = {}
_lives: dict[CodeType, None] = {}  # in these a forked process's own life begins

_main = threading.main_thread().ident
_held = 0  # how many `UnbrokenLock`s the main thread holds, each as often as it has taken it
_guards: list[Signals] = []  # those that are installed; the last is the session's


def unbroken(function: _F) -> _F:
    """Nothing is raised by a signal's handler while this function runs, or what it calls. Costs nothing until then."""
    unbroken_code[function.__code__] = None
    return function


def life(function: _F) -> _F:
    """What calls this function in a forked process is its parent's code, and never goes on: it puts no signal off."""
    _lives[function.__code__] = None
    return function


class Wrapper:
    """The handler that is installed in place of a user's. One for each: a user's handler may call the one before it."""

    __slots__ = ("handler", "signals")

    def __init__(self, signals: Signals, handler: Callable[..., Any]) -> None:
        self.signals = signals
        self.handler = handler

    @property
    def __name__(self) -> str:  # `signal.getsignal(SIGINT).__name__`, in programs that log it
        return getattr(self.handler, "__name__", type(self.handler).__name__)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signals.handle(self.handler, number, frame)


class Signals:
    """The guard of one process's main thread.

    Args:
        wake: makes the main thread return from whatever it waits in; called from a handler.
        resend: has this signal sent to the main thread again, soon, by another thread.
    """

    def __init__(self, wake: Callable[[], None], resend: Callable[[int], None]) -> None:
        self._wake = wake
        self._resend = resend
        self.main = threading.main_thread().ident
        self.depth = 0
        self.noted: list[tuple[int, Callable[..., Any]]] = []  # what came while the main thread was inside
        self._installed: dict[int, Wrapper] = {}
        self._wanted = False

    def install(self) -> None:
        """Wrap the Python handlers that there are. Only the main thread is guarded."""
        self._wanted = True
        if self not in _guards:
            _guards.append(self)
        _in_main_thread(self._wrap_all)

    def _wrap_all(self) -> None:
        if self._wanted:
            for number in _WRAPPED:
                self._wrap(number)

    def look_again(self) -> None:
        """At each blocking entry: somebody may have put another handler for Ctrl-C or a timer in place since."""
        if self._installed:
            if type(handler := _getsignal(_SIGINT)) is not Wrapper and callable(handler):
                self._wrap(_SIGINT)
            if type(handler := _getsignal(_SIGALRM)) is not Wrapper and callable(handler):
                self._wrap(_SIGALRM)
        elif self._wanted:
            self._wrap_all()

    def _wrap(self, number: int) -> None:
        handler = _getsignal(number)
        ours = isinstance(handler, Wrapper) and handler.signals is self
        if callable(handler) and not ours and get_ident() == self.main:
            self._installed[number] = Wrapper(self, handler)
            signal.signal(number, self._installed[number])

    def uninstall(self) -> None:
        """A wrapper that somebody has kept, and puts back later, still leads to its handler."""
        self._wanted = False
        if self in _guards:
            _guards.remove(self)
        _in_main_thread(self._unwrap_all)

    def _unwrap_all(self) -> None:
        if not self._wanted:
            for number, wrapper in self._installed.items():
                if _getsignal(number) is wrapper:
                    signal.signal(number, wrapper.handler)
            self._installed.clear()

    def handle(self, handler: Callable[..., Any], number: int, frame: FrameType | None) -> None:
        if self.depth:
            if all(number != other for other, _ in self.noted):  # the kernel, too, keeps one of a kind
                self.noted.append((number, handler))
            self._wake()
        elif _held or _is_unbroken(frame):
            self._resend(number)
        else:
            handler(number, frame)

    # ---- the guarded stretch; `Driving.post` has these lines written out ----

    def enter(self, thread: int) -> bool:
        """Begin a stretch of this thread; whether it is the main one, which has to `leave` it."""
        if thread != self.main:
            return False
        self.depth += 1
        return True

    def leave(self) -> None:
        """End it; raises what the noted signals' handlers raise."""
        self.depth -= 1
        if self.noted and not self.depth:
            self.raise_noted()

    def raise_noted(self) -> None:
        try:
            number, handler = self.noted.pop(0)
        except IndexError:
            return  # another handler has come in between, and done it
        try:
            if _held or _is_unbroken(sys._getframe(1)):
                self._resend(number)
            else:
                handler(number, None)
        finally:
            if self.noted:
                self.raise_noted()


class UnbrokenLock:
    """A re-entrant lock, for tables that an interrupt must not leave half changed.

        lock = miniray.UnbrokenLock()
        with lock:
            ...

    While the main thread waits for it or holds it no handler of a signal runs there: neither one that raises, such as
    Ctrl-C's, nor one that calls whatever the lock guards. The signal is sent again, a millisecond later, until the lock
    is free. So what changes under the lock changes whole, up to the values that are assigned there; and a `finally`
    that begins with it is done to its end. Therefore nothing belongs under it that may take long: no wait, no code of
    others.

    It guards against the handlers of the session that there is, and costs a quarter of a microsecond. In a forked child
    it is free, unless the thread that forked holds it.
    """

    __slots__ = ("__weakref__", "_acquire", "_lock", "_release", "is_mine")

    def __init__(self) -> None:
        lock: Any = threading.RLock()
        self._lock = lock
        self._acquire = lock.acquire
        self._release = lock.release
        self.is_mine: Callable[[], bool] = lock._is_owned  # whether this thread holds it
        _locks.add(self)

    # These two frames are unbroken: nothing is raised between the lock and the count, nor on the way out. And Python
    # runs no handler between a `with` and the first, nor between the second and the line that follows.

    @unbroken
    def __enter__(self) -> None:
        global _held
        if get_ident() == _main:
            if not _held and _guards:
                _guards[-1].look_again()
            self._acquire()
            _held += 1
        else:
            self._acquire()

    @unbroken
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _held
        if _held and get_ident() == _main:  # none is counted in a child that was forked under it
            _held -= 1
        self._release()

    def free_in_child(self, *, also_mine: bool) -> None:
        """After a fork: another thread's is nobody's there."""
        if also_mine or not self.is_mine():
            self._lock._at_fork_reinit()


_locks: weakref.WeakSet[UnbrokenLock] = weakref.WeakSet()
_for_main: deque[Callable[[], None]] = deque()


def _in_main_thread(action: Callable[[], None]) -> None:
    """Do this, there: at once, or soon."""
    if get_ident() == _main:
        action()
        return
    _for_main.append(action)
    ctypes.pythonapi.Py_AddPendingCall(_pending_call, None)  # full (32 others): then it is done with the next one


def _do_for_main(_: object) -> int:
    interrupted = False
    while _for_main:
        try:
            _for_main[0]()
        except KeyboardInterrupt:  # whatever leaves this function is printed and forgotten
            interrupted = True
        else:
            _for_main.popleft()
    if interrupted:
        _thread.interrupt_main()
    return 0


_pending_call = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_do_for_main)


def _after_fork() -> None:
    """The locks that the parent's other threads held are nobody's here, and so are its guards."""
    global _main, _held
    _main, _held = threading.main_thread().ident, 0
    _guards.clear()
    _for_main.clear()
    for lock in _locks:
        lock.free_in_child(also_mine=False)


def hold_nothing() -> None:
    """In a forked process that never goes on with its parent's code: what that holds would be held for ever."""
    for lock in _locks:
        lock.free_in_child(also_mine=True)


os.register_at_fork(after_in_child=_after_fork)


handling.update(dict.fromkeys((Signals.handle.__code__, Signals.raise_noted.__code__)))


@contextmanager
def held() -> Iterator[None]:
    """Signals of the main thread wait until the end of this stretch, where no session has its own guard yet."""
    signals = Signals(lambda: None, lambda number: None)
    signals.install()
    guarded = signals.enter(get_ident())
    try:
        yield
    finally:
        signals.uninstall()
        if guarded:
            signals.leave()


def _is_unbroken(frame: FrameType | None) -> bool:
    """Whether this is unbroken code, or was called by it, in this process."""
    while frame is not None and (code := frame.f_code) not in _lives:
        if code in unbroken_code or (code.co_name == "__del__" and code.co_filename.startswith(_PACKAGE)):
            return True
        frame = frame.f_back
    return False


_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
for _container in (weakref.WeakSet, weakref.WeakKeyDictionary, weakref.WeakValueDictionary):
    _within = vars(_container)["__init__"].__code__.co_consts
    unbroken_code.update(dict.fromkeys(one for one in _within if isinstance(one, CodeType)))
