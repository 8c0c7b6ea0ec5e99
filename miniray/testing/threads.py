"""Threads that simulated code starts: each is a fiber of its simulated process, on the real thread that Python makes.

So who it is (`current_thread`, its ident, thread-locals) is real, and when it goes on is a choice of the run. It may
call miniray, as any thread of a process may. It ends with its process, and at the latest with the run.

Threads of before the run are real. Nobody decides when one goes on, so a word of miniray that it says fails the run,
even when it keeps the error to itself; and simulated code that would wait for one, or give it work, is refused.
"""

from __future__ import annotations

import _thread
import concurrent.futures.thread as pools
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from miniray._runtime.process import Ended, Process
from miniray.testing import locks
from miniray.testing.fibers import Fiber, FiberKilled, Guest, inside_fiber, inside_one_given_up, this_fiber
from miniray.testing.looks import look, wait
from miniray.testing.places import place_of
from miniray.testing.waits import NotSimulated, SimulationError

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster
    from miniray.testing.simulated import SimulatedProcess

Replaced = tuple[Any, str, Callable[[Any], Any]]  # where, its name, and what makes the new one of the real one


class _Ended(NamedTuple):
    home: SimulatedProcess


class Threads:
    """Those of one run. It is created in the thread that runs the cluster.

    `live`: how many there are; `on_start` is told the name of the source of chance of one that begins, in it.
    """

    def __init__(self, cluster: SimulatedCluster, fail: Callable[[SimulationError], None]) -> None:
        self._cluster = cluster
        self._fail = fail
        self._runner = threading.get_ident()
        self._started: WeakKeyDictionary[threading.Thread, Fiber | _Ended] = WeakKeyDictionary()
        self._pools: WeakSet[Any] = WeakSet()
        self._count = itertools.count()
        self._met: NotSimulated | None = None
        self.live = 0
        self.on_start: Callable[[str], None] | None = None

    def replaced(self) -> Iterator[Replaced]:
        """What is virtual of the standard library while the run lasts."""
        yield threading.Thread, "start", self._start
        yield threading.Thread, "join", self._join
        yield threading.Thread, "is_alive", self._is_alive
        yield threading.Event, "is_set", self._is_set
        yield _thread, "start_new_thread", self._start_new
        yield pools.ThreadPoolExecutor, "submit", self._submit

    def values(self) -> Iterator[tuple[Any, str, Any]]:
        """What is another value meanwhile: where, its name, and that."""
        for (module, name), kind in locks.CLASSES.items():
            yield module, name, kind
        if hasattr(threading, "_counter"):
            yield threading, "_counter", itertools.count(1).__next__  # threads have the same names in each run
        yield pools.ThreadPoolExecutor, "_counter", itertools.count().__next__
        yield pools, "_global_shutdown_lock", locks.new_lock()

    # ---- what simulated code calls ----

    def _start(self, real: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
        def start(thread: threading.Thread) -> None:
            fiber = _this()
            if not getattr(thread, "_initialized", False) or thread._started.is_set():  # type: ignore[attr-defined]
                real(thread)  # says what is wrong
                return
            if fiber.killed or not fiber.home.alive:
                raise FiberKilled
            guest, home, run = Guest(thread), fiber.home, thread.run
            new = Fiber(lambda: self._main(thread, run), home, guest)
            new.number = next(self._count)
            with fiber.unbroken:  # else nobody ends the new one, or it is struck in this one's place
                guest.start(real)
                self._started[thread] = new
                self.live += 1
                self._cluster.living.add(new, self._cluster.draw_lag())
            if self._cluster.choices.choose(2, "who goes first after a thread's start"):
                home.wake(fiber, self._cluster.draw_lag())
                fiber.park()

        return start

    def _start_new(self, real: Any) -> Callable[..., int]:
        def start_new_thread(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any = None, /) -> int:
            thread = threading.Thread(target=function, args=args, kwargs=kwargs, daemon=True)
            thread.start()
            return thread.ident or 0

        return start_new_thread

    def _main(self, thread: Any, run: Callable[[], None]) -> None:
        """What a thread does, and how it ends (as `Thread._bootstrap_inner` has it)."""
        fiber = _this()
        try:
            if self.on_start is not None:
                self.on_start(f"thread {fiber.number} of {self._cluster.session.hex()}")
            run()
        except FiberKilled:
            raise
        except BaseException:
            if not fiber.killed:
                thread._invoke_excepthook(thread)

    def ended(self, fiber: Fiber) -> None:
        """Its thread is no more. What users' code still holds of it is not held here, nor what that holds."""
        self.live -= 1
        self._started[fiber.thread] = _Ended(fiber.home)
        for other in fiber.home.fibers:
            if other.joins is fiber:
                fiber.home.wake(other, 0.0)

    def end(self, home: SimulatedProcess | None = None) -> None:
        """Those of this process end; None: of all."""
        for fiber in list(self._started.values()):
            if isinstance(fiber, Fiber) and home in (None, fiber.home):
                self._cluster.living.unwind(fiber)

    def close(self) -> None:
        """The run is over. A pool that outlives it has threads that it takes for living ones."""
        for pool in self._pools:
            pool._broken = "its threads were those of a simulated run, which has ended"

    def _join(self, real: Callable[..., None]) -> Callable[..., None]:
        def join(thread: threading.Thread, timeout: float | None = None) -> None:
            real(thread, 0)  # says what is wrong
            fiber, joined = _this(), self._started.get(thread)
            if joined is None:
                if thread.is_alive():
                    self.refuse("is waited for by simulated code", thread)
            elif timeout is not None and timeout <= 0:
                look(fiber.home, fiber, polls=True)
            elif isinstance(joined, Fiber):
                fiber.joins = joined
                try:
                    wait(fiber, lambda: joined.ended, timeout)
                finally:
                    fiber.joins = None

        return join

    def _is_alive(self, real: Callable[[threading.Thread], bool]) -> Callable[[threading.Thread], bool]:
        def is_alive(thread: threading.Thread) -> bool:
            fiber = _this()
            if real(thread) and not fiber.killed:
                look(fiber.home, fiber, polls=False)
            return real(thread)

        return is_alive

    def _is_set(self, real: Callable[[threading.Event], bool]) -> Callable[[threading.Event], bool]:
        def is_set(event: threading.Event) -> bool:
            fiber = _this()
            if not real(event) and not fiber.killed:
                look(fiber.home, fiber, polls=False)
            return real(event)

        return is_set

    def _submit(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def submit(pool: Any, /, *args: Any, **kwargs: Any) -> Any:
            home = _this().home
            mine = locks.made_here(pool._work_queue) and all(
                found is not None and found.home is home for found in map(self._started.get, pool._threads)
            )
            if not mine:
                self._refuse(
                    f"simulated code gives work to a pool of threads of before the run, or of another simulated process"
                    f"{_at(sys._getframe(1))}. Make the pool in the program, the task or the actor that uses it"
                )
            if not pool._threads:
                pool._threads = _InOrder()  # they are joined in the order of what was a set
                self._pools.add(pool)
            return real(pool, *args, **kwargs)

        return submit

    # ---- threads that are not simulated ----

    def check(self, does: str = "calls miniray") -> None:
        """Asked by each word of miniray, among others.

        Raises:
            NotSimulated: it is said in a thread that is no fiber.
        """
        if not self.none_calls():
            self.refuse(does, threading.current_thread())

    def is_runner(self) -> bool:
        return threading.get_ident() == self._runner

    def none_calls(self) -> bool:
        return inside_fiber() or self.is_runner()

    def refuse_call(self) -> NoReturn:
        """In place of a session, which a word of miniray would begin where there is none."""
        self.refuse("calls miniray", threading.current_thread())

    def refuse(self, does: str, thread: threading.Thread) -> NoReturn:
        if inside_one_given_up():
            raise FiberKilled
        self._refuse(
            f"a thread that is not simulated, {thread.name}, {does}{_at(sys._getframe(1))}. It was there before the run"
            " began: start it in the program, or in a task or an actor"
        )

    def _refuse(self, text: str) -> NoReturn:
        self._met = self._met or NotSimulated(text)
        self._fail(self._met)
        raise NotSimulated(text)

    def raise_met(self) -> None:
        """For what was met when nothing was left to happen, so that no step has told of it."""
        if self._met is not None:
            raise self._met


class _InOrder(dict[threading.Thread, None]):
    add = dict.setdefault


def _at(frame: Any) -> str:
    place = place_of(frame)
    return f" at {place}" if place else ""


def _this() -> Fiber:
    fiber = this_fiber()
    if fiber is None:
        raise FiberKilled  # it was given up
    return fiber


class WatchedProcess(Process):
    """The shipping one; each word of miniray looks at `ended` first, and so asks who says it."""

    def __init__(self, threads: Threads, *args: Any) -> None:
        self._threads = threads
        super().__init__(*args)
        self._extent_lock = locks.new_lock()  # who waits for an extent holds it

    @property
    def ended(self) -> Ended | None:
        self._threads.check()
        return self._ended

    @ended.setter
    def ended(self, ended: Ended | None) -> None:
        self._ended = ended
