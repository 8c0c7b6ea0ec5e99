"""Threads that are not simulated: those that users' code starts, by itself or through a library.

They are real, and run beside the one fiber that is awake. What they compute is welcome; but a word of miniray that one
of them says would be said at a moment that no choice has decided, in the process of whoever is awake then. So it fails
the run, even when the thread keeps the error to itself.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from miniray._runtime.process import Ended, Process
from miniray.testing.fibers import FiberKilled, inside_fiber, inside_one_given_up, raise_in
from miniray.testing.places import place_of
from miniray.testing.waits import NotSimulated, SimulationError


_ever_started: WeakSet[threading.Thread] = WeakSet()  # by simulated code


def _is_users(thread: threading.Thread) -> bool:
    """No fiber, and none that Python only has a name for."""
    return not (thread.name.startswith("miniray-") or isinstance(thread, threading._DummyThread))


def _pools() -> Mapping[threading.Thread, Any]:
    """The threads of every ThreadPoolExecutor, and the queues of what they shall do."""
    module: Any = sys.modules.get("concurrent.futures.thread")
    return dict(module._threads_queues) if module is not None else {}


def _idle(thread: threading.Thread, frame: FrameType | None) -> bool:
    """Whether this thread of a pool waits for something to do; a work item is run in a frame of its own."""
    queue = _pools().get(thread)
    if queue is None or frame is None or frame.f_code.co_name != "_worker":
        return False
    return bool(queue.empty())


class Strangers:
    """Those of one run. `fail` is told what ends it; it is created in the thread that runs the cluster."""

    def __init__(self, fail: Callable[[SimulationError], None]) -> None:
        self._fail = fail
        self._runner = threading.get_ident()
        self._before = WeakSet(threading.enumerate())
        self._started: WeakKeyDictionary[threading.Thread, str] = WeakKeyDictionary()  # and where
        self._starts = False
        self._met: NotSimulated | None = None

    def start(self, thread: threading.Thread, start: Callable[[threading.Thread], None]) -> None:
        """Simulated code starts a thread."""
        self._started[thread] = place_of(sys._getframe(1))
        _ever_started.add(thread)
        self._starts = True  # it is waited for, and not alive yet
        try:
            start(thread)
        finally:
            self._starts = False

    @property
    def live(self) -> bool:
        """Whether one does that may end what simulated code waits for; a pool of threads may be of before the run."""
        return self._starts or bool(self._living())

    @property
    def busy(self) -> bool:
        """Whether one of them is anything else than a thread of a pool that has nothing to do."""
        frames: dict[int, FrameType] = sys._current_frames() if _pools() else {}
        return self._starts or any(not _idle(one, frames.get(one.ident or 0)) for one in self._living())

    def _living(self) -> list[threading.Thread]:
        """Those that this run, or an earlier one, has started, and theirs; and the pools' of before. Others that were
        there before, those of a debugger say, are none of the program's."""
        begun = [one for one in threading.enumerate() if one not in self._before and _is_users(one)]
        return [one for one in {*begun, *_ever_started, *_pools()} if one.is_alive()]

    def check(self) -> None:
        """Asked by each word of miniray.

        Raises:
            NotSimulated: it is said in a thread that is no fiber.
        """
        if not self.none_calls():
            self.refuse()

    def none_calls(self) -> bool:
        return inside_fiber() or threading.get_ident() == self._runner

    def refuse(self) -> NoReturn:
        if inside_one_given_up():
            raise FiberKilled
        me = threading.current_thread()
        place, started = place_of(sys._getframe(1)), self._started.get(me, "")
        told = (f" at {place}" if place else "") + (f" (it was started at {started})" if started else "")
        text = (
            f"a thread that is not simulated calls miniray{told}. Only the thread in which the program, a task or an"
            " actor runs is simulated: call miniray there, and give threads values; or let tasks do what the threads do"
        )
        self._met = self._met or NotSimulated(text)
        self._fail(self._met)
        raise NotSimulated(text)

    def raise_met(self) -> None:
        """For one that called when nothing was left to happen, so that no step has told of it."""
        if self._met is not None:
            raise self._met

    def end(self) -> None:
        """The run has ended. If one has called miniray others may be about to: their words would begin a session."""
        if self._met is not None:
            for thread in list(self._started):
                if thread.is_alive():
                    raise_in(thread, SystemExit)


class WatchedProcess(Process):
    """The shipping one; each word of miniray looks at `ended` first, and so asks who says it."""

    def __init__(self, strangers: Strangers, *args: Any) -> None:
        self._strangers = strangers
        super().__init__(*args)

    @property
    def ended(self) -> Ended | None:
        self._strangers.check()
        return self._ended

    @ended.setter
    def ended(self, ended: Ended | None) -> None:
        self._ended = ended
