"""A `Driving` among fake threads: its loop, its transport, its clock and what happens around it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from miniray._runtime import driving as driving_module
from miniray._runtime import signals as signals_module
from miniray._runtime import waiters as waiters_module
from miniray._runtime.driving import Driving
from tests.runtime.interleavings import FakeLock, Scheduler, Task, explore, fail_with, shared_lines

THOROUGH = os.environ.get("CI") == "true"
SIGNAL = 2
SHARED = (
    "_(deferred|token|parked|waiting|main_waiter|background_sleep|background_parked|background_drives|token_wanted"
    "|stopping|resend)|asleep|is_ready|noted|depth|parked|pending"
)
FILES = [str(module.__file__) for module in (driving_module, waiters_module, signals_module)]
WATCHED = {file: shared_lines(file, SHARED) for file in FILES}


class World:
    """The loop and the transport of one `Driving`, and the threads around it. An event is what its turn calls."""

    outboxes: tuple[Any, ...] = ()
    flush: Callable[[], None]

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.arrivals: deque[Callable[[], None]] = deque()
        self.left: deque[Callable[[], None]] = deque()
        self.due: float | None = None
        self.ticked = self.woken = self.turns = False
        self.poller: Task | None = None
        self.stepped: list[str] = []
        scheduler.handler = self.on_signal
        self.driving = Driving(  # type: ignore[arg-type]
            self, self, lambda: scheduler.now, self.collect, lambda: bool(self.left), lambda: False, fail_with
        )

    def thread(self, name: str, *bodies: Callable[[], Any], daemon: bool = False) -> Task:
        task = Task(self.scheduler, name, lambda: [body() for body in bodies], daemon)
        task.start()
        return task

    def until(self, condition: Callable[[], bool]) -> Callable[[], Any]:
        """A thread that waits for what must come to be without it."""
        return lambda: self.scheduler.block(condition)

    def arrive(self, event: Callable[[], None]) -> None:
        self.scheduler.point("arrival")
        self.arrivals.append(event)

    def is_parked(self) -> bool:
        return self.driving._background_parked

    def leave_work(self) -> None:
        self.due = self.scheduler.now + 0.001

    def drop(self, event: Callable[[], None]) -> None:
        """What a finaliser does."""
        self.left.append(event)
        self.scheduler.point("dropped")
        if self.driving.asleep:
            self.driving.rouse()

    def step(self, name: str) -> Callable[[], None]:
        return lambda: self.stepped.append(name)

    def is_stepped(self, name: str) -> Callable[[], bool]:
        return lambda: name in self.stepped

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.driving.signals.handle(_interrupt, number, frame)

    def check_released(self) -> None:
        driving = self.driving
        assert not driving.signals.depth and not driving.signals.noted
        assert not driving._is_owned() and threading_ident() not in driving._waiting

    # ---- the loop

    def turn(self, event: Callable[[], None]) -> None:
        assert not self.turns, "two turns at once"
        self.turns = True
        self.scheduler.point("turn")
        event()
        self.turns = False

    def receive(self, arrivals: list[Callable[[], None]]) -> None:
        for event in arrivals:
            self.turn(event)

    def deadline(self) -> float | None:
        assert self.driving._is_owned(), "tables are read without the lock"
        return self.due

    def tick(self) -> None:
        if self.due is not None and self.due <= self.scheduler.now:
            self.due, self.ticked = None, True

    def collect(self) -> list[Callable[[], None]]:
        return [self.left.popleft() for _ in range(len(self.left))]

    # ---- the transport

    def poll(self, timeout: float | None) -> list[Callable[[], None]]:
        assert self.poller is None, "two threads poll"
        self.poller = self.scheduler.current
        self.scheduler.point("poll")
        self.scheduler.block(lambda: self.woken or bool(self.arrivals), timeout)
        self.poller, self.woken = None, False
        return [self.arrivals.popleft() for _ in range(len(self.arrivals))]

    def wake(self) -> None:
        self.scheduler.point("wake")
        self.woken = True


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def threading_ident() -> int:
    return int(driving_module.get_ident())


def explored(monkeypatch: pytest.MonkeyPatch, scenario: Callable[[World], None], deviations: int) -> int:
    """How many interleavings of it there were, all of them good."""

    def begin(scheduler: Scheduler) -> None:
        def ident() -> int:
            return scheduler.current.ident if scheduler.current is not None else 0

        fake = SimpleNamespace(
            Lock=lambda: FakeLock(scheduler),
            RLock=lambda: FakeLock(scheduler, reentrant=True),
            Thread=lambda target, name, daemon: Task(scheduler, name, target, daemon),
            current_thread=lambda: scheduler.current,
            main_thread=lambda: SimpleNamespace(ident=1),  # the first that a scenario makes
            get_ident=ident,
        )
        system = SimpleNamespace(
            SIG_BLOCK=0,
            SIG_DFL=object(),
            getsignal=lambda number: None,  # whose handler is there
            valid_signals=tuple,
            pthread_sigmask=lambda *_: None,
            pthread_kill=lambda ident, number: scheduler.tasks[ident - 1].signals.append(number),
        )
        for module in (driving_module, waiters_module, signals_module):
            monkeypatch.setattr(module, "threading", fake)
        monkeypatch.setattr(driving_module, "get_ident", ident)
        monkeypatch.setattr(driving_module, "signal", system)
        scenario(World(scheduler))

    return explore(begin, WATCHED, deviations)


def parks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving_module, "PARK_AFTER_SECONDS", 0.0)
