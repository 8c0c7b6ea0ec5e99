"""Every interleaving of a few threads, up to a number of deviations: threads of which exactly one runs.

A thread may be interrupted before each line of the watched files that touches shared state, and at each operation on
a fake lock, poller or clock. By itself, a thread runs until it blocks, and then the eldest that can. All *schedules*
that deviate from this at most so many times are tried, depth first, first with no deviation, then with one, and so on
("delay bounding", Emmi et al., POPL 2011: nearly every race shows with two, and the number stays polynomial). Time is
virtual. It passes when nobody can run, or, as a deviation, at any moment: a timeout races with everything.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

MAX_POINTS = 4_000  # of one run; more is a livelock


class StuckError(AssertionError):
    """Threads that should end sleep without end, or run without end."""


class _Abort(BaseException):
    """Ends the threads of a run that is over."""


class _Thread:
    """A real thread that runs one job after another: making one costs more than a whole run."""

    def __init__(self) -> None:
        self.job: Callable[[], None] | None = None
        self.go, self.back = _held_lock(), _held_lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            self.go.acquire()
            assert self.job is not None
            self.job()
            self.job = None
            self.back.release()


_idle: list[_Thread] = []


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Task:
    """One fake thread."""

    def __init__(self, scheduler: Scheduler, name: str, body: Callable[[], Any], daemon: bool) -> None:
        self.name, self.daemon, self.ident = name, daemon, len(scheduler.tasks) + 1
        self.can_run: Callable[[], bool] | None = None  # blocked until then
        self.until: float | None = None  # or until this time
        self.ended = self.aborted = False
        self.signals: list[int] = []
        self._scheduler, self._body = scheduler, body
        self._thread = _idle.pop() if _idle else _Thread()
        self.go = self._thread.go

    @property
    def is_runnable(self) -> bool:
        return not self.ended and (self.can_run is None or bool(self.signals) or self.can_run())

    def start(self) -> None:
        self._scheduler.tasks.append(self)
        self._thread.job = self._run

    def is_alive(self) -> bool:
        return not self.ended

    def join(self, timeout: float | None = None) -> None:
        self._scheduler.block(lambda: self.ended, timeout)

    def finish(self) -> None:
        """The run is over: give the real thread back."""
        self._scheduler.current = self
        if not self.ended:
            self.go.release()
        self._thread.back.acquire()
        _idle.append(self._thread)

    def _run(self) -> None:
        try:
            if not self._scheduler.aborting:
                sys.settrace(self._scheduler.trace)
                self._body()
        except _Abort:
            pass
        except BaseException as error:
            self._scheduler.failure = self._scheduler.failure or error
        finally:
            sys.settrace(None)
            self.ended = True
            if not self._scheduler.aborting:
                self._scheduler.go_on(None)


class Scheduler:
    """One run along a schedule. `trail` is what was chosen: [choice, of how many]."""

    def __init__(self, prefix: list[int], deviations: int, watched: dict[str, frozenset[int]]) -> None:
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self.now = 0.0
        self.aborting = False
        self.failure: BaseException | None = None
        self.trail: list[list[int]] = []
        self.story: list[str] = []
        self.handler: Callable[[int, FrameType | None], None] | None = None
        self._prefix, self._left, self._watched = prefix, deviations, watched
        self._points = 0
        self._over = _held_lock()

    def run(self) -> None:
        self.go_on(None)
        self._over.acquire()
        self.aborting = True
        for task in list(self.tasks):
            task.finish()
        if self.failure is not None:
            raise self.failure

    # ---- points ----

    def trace(self, frame: FrameType, kind: str, argument: Any) -> Any:
        lines = self._watched.get(frame.f_code.co_filename)
        if lines is None:
            return None
        if kind == "line" and frame.f_lineno in lines:
            self.point(f"{frame.f_code.co_name}:{frame.f_lineno}")
        return self.trace

    def point(self, where: str) -> None:
        """The running thread may be preempted here, or be hit by a signal."""
        task = self.current
        if task is None or task.aborted:
            return
        self._points += 1
        if self._points > MAX_POINTS:
            self._fail("runs without end")
        self.story.append(f"{task.name} {where}")
        self.go_on(task)

    def block(self, can_run: Callable[[], bool], timeout: float | None = None) -> bool:
        """The running thread sleeps until `can_run`: True; False after `timeout` virtual seconds."""
        task = self.current
        assert task is not None
        if task.aborted:
            return True
        until = None if timeout is None or timeout < 0 else self.now + timeout
        while not can_run():
            if until is not None and self.now >= until:
                return False
            task.can_run, task.until = can_run, until
            self.go_on(task)
        return True

    def go_on(self, me: Task | None) -> None:
        """Choose who runs next; `me` comes back from here when it is chosen again."""
        chosen = self._choose(me)
        if chosen is None:
            self._over.release()
        elif chosen is not me:
            self.story.append(f"-> {chosen.name}")
            self.current = chosen
            chosen.go.release()
        if me is None:
            return
        if chosen is not me:
            me.go.acquire()
        if self.aborting:
            me.aborted = True
            raise _Abort
        me.can_run = me.until = None
        while me.signals:
            assert self.handler is not None
            self.handler(me.signals.pop(), sys._getframe(1))

    def _choose(self, me: Task | None) -> Task | None:
        if self.failure is not None or all(task.ended for task in self.tasks if not task.daemon):
            return None
        free = [task for task in self.tasks if task.is_runnable]
        timed = sorted((t for t in self.tasks if t.until is not None and t not in free), key=lambda t: t.until or 0.0)
        options = [*free, *timed] if free else timed[:1]
        if not options:
            self._fail("sleeps without end")
            return None
        if me in free:
            options.remove(me)
            options.insert(0, me)
        if not self._left:
            del options[1:]
        index = 0
        if len(options) > 1:
            depth = len(self.trail)
            index = self._prefix[depth] if depth < len(self._prefix) else 0
            self.trail.append([index, len(options)])
        chosen = options[index]
        if index:
            self._left -= 1
        if not chosen.is_runnable and chosen.until is not None:
            self.now = max(self.now, chosen.until)
        return chosen

    def _fail(self, what: str) -> None:
        who = [task.name for task in self.tasks if not (task.ended or task.daemon)]
        self.failure = self.failure or StuckError(f"{who} {what}")
        if what == "runs without end":
            self.go_on(self.current)


class FakeLock:
    """`threading.Lock`, and with `reentrant` as much of `RLock` as is used."""

    def __init__(self, scheduler: Scheduler, reentrant: bool = False) -> None:
        self._scheduler, self._reentrant = scheduler, reentrant
        self._owner: Task | None = None
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._scheduler.point("acquire")
        assert not (self._reentrant and self._is_owned()), "the state lock is taken twice"
        if self._held and not (blocking and self._scheduler.block(lambda: not self._held, timeout)):
            return False
        self._held, self._owner = True, self._scheduler.current
        return True

    def release(self) -> None:
        self._scheduler.point("release")
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held, self._owner = False, None

    def locked(self) -> bool:
        self._scheduler.point("locked")
        return self._held

    def _is_owned(self) -> bool:
        return self._held and self._owner is self._scheduler.current

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def shared_lines(file: str, words: str) -> frozenset[int]:
    """The lines of a file that name one of these attributes."""
    pattern = re.compile(rf"\.({words})\b")
    return frozenset(n for n, line in enumerate(Path(file).read_text().splitlines(), 1) if pattern.search(line))


def explore(scenario: Callable[[Scheduler], None], watched: dict[str, frozenset[int]], deviations: int) -> int:
    """Run the scenario along every schedule with at most so many deviations; how many runs that were."""
    for bound in range(deviations + 1):  # each includes those below: a failure is told with as few as possible
        count, prefix = 0, [0]
        while prefix:
            scheduler = Scheduler(prefix, bound, watched)
            scenario(scheduler)
            try:
                scheduler.run()
            except BaseException as error:
                told = "\n".join(scheduler.story[-200:])
                error.add_note(f"schedule {[choice for choice, _ in scheduler.trail]}, {bound} deviations:\n{told}")
                raise
            prefix = _next(scheduler.trail)
            count += 1
    return count


def _next(trail: list[list[int]]) -> list[int]:
    """The schedule after this one; empty after the last."""
    while trail and trail[-1][0] + 1 == trail[-1][1]:
        trail.pop()
    return [choice for choice, _ in trail[:-1]] + [trail[-1][0] + 1] if trail else []


def fail_with(error: Exception) -> None:
    """What `Driving` does in tests when a turn has raised."""
    raise error
