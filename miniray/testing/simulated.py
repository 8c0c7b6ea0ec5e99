"""One process of a simulated cluster: the shipping loop, machines and API over a simulated network and clock.

`SimulatedProcess` joins what `driver.py`, `worker_main.py` and `node_main.py` of the runtime join for a real one.
What differs: nobody polls; the cluster's timeline calls `look` when something has arrived or a deadline has come, as
the background thread of a real process would. Users' code runs in fibers, which park where a real thread blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from miniray._runtime import context
from miniray._runtime.execute import Executor
from miniray._runtime.loop import Loop
from miniray._runtime.process import Ended, Process
from miniray._runtime.waiters import Waiter
from miniray.core.failures import Failure
from miniray.core.ids import ProcessId, show
from miniray.core.machine import Machine, Send
from miniray.core.messages import TasksDone
from miniray.core.record import Effect, Event
from miniray.core.task_spec import PushedTask, Stored, contained
from miniray.core.worker.events import RunTask
from miniray.errors import SessionError
from miniray.testing.faults import CrashHere, CrashMode, end_half_way
from miniray.testing.fibers import Fiber, FiberKilled, inside_fiber
from miniray.testing.looks import look
from miniray.transport import load

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster

Rows = Mapping[type[Effect], Callable[[Any], Event | None]]


def _brings_more(effect: Effect) -> bool:
    """Whether this is a result that is not all there: refs or a place are in it."""
    if type(effect) is not Send or type(effect.message) is not TasksDone:
        return False
    return any(contained(one) or type(one) is Stored for result in effect.message.results for one in result.values)


class CrashNow(BaseException):
    """A fault strikes this process here."""

    def __init__(self, why: str = "fault") -> None:
        super().__init__(why)
        self.why = why


class SimulatedProcess:
    """A loop, what it drives, and the fibers of one process. `process` and `executor` are filled in by the cluster."""

    def __init__(self, cluster: SimulatedCluster, me: ProcessId) -> None:
        self.cluster = cluster
        self.me = me
        self.name = show(me)
        self.alive = True
        self.may_crash = False
        self.dies_mid_step = False  # the next that has effects
        self._dies_after_turn = False
        self.process: Process | None = None
        self.executor: SimulatedExecutor | None = None
        self.loop: Loop
        self.steps = 0
        self.waiting: list[tuple[Fiber, Waiter]] = []
        self.fibers: list[Fiber] = []
        self.transport: Any = load("simulated")(me, cluster.network, self.look_soon)
        self._look_at: float | None = None
        self.stands_until = 0.0
        self._callbacks = 0
        self.cpu_seconds = 0.0  # what its looks have taken
        self._send = self.transport.send
        setattr(self.transport, "send", self._send_or_crash)  # noqa: B010  a fault may strike between two frames

    def join(self, machines: tuple[Machine, ...], rows: Rows, on_lost: Callable[[ProcessId, str], None]) -> None:
        timeline = self.cluster.timeline
        rows = {**rows, CrashHere: self._crash_here}
        self.loop = Loop(self.me, machines, self.transport, timeline, rows, lambda token: None, on_lost, self._observe)

    # ---- turns ----

    def turns(self, events: tuple[Event, ...]) -> None:
        """Step these events, with what finalisers left, and what has arrived by now.

        Raises:
            CrashNow: a fault has struck; the process is dead.
        """
        try:
            if self.process is not None:
                for event in self.process.collect():
                    self.loop.turn(event)
            for event in events:
                self.loop.turn(event)
            arrivals = self.transport.poll(0)
            if self.cluster.recorder is not None:
                self.cluster.recorder.arrived(self.me, arrivals)
            self.loop.receive(arrivals)
            self.loop.tick()
            self.loop.flush()
            self.loop.check()
            if self._dies_after_turn:
                raise CrashNow
        except CrashNow as strike:
            self.cluster.crash(self, -9, strike.why)
            raise
        if self.alive:
            self._wake_fibers()
            self._plan_deadline()

    def look(self) -> None:
        """What the background thread does, called by the timeline."""
        if not self.alive:
            return
        self._look_at = None
        if self.stands_still:
            self._plan_look(self.stands_until)
            return
        try:
            self.turns(())
        except CrashNow:
            pass

    def look_soon(self) -> None:
        """Something has arrived, or was left behind."""
        if self.alive:
            cluster = self.cluster
            pause = cluster.draw_pause()
            if pause:
                self.stand_still(pause)
                cluster.tell(self.me, "Paused", seconds=pause)
            self._plan_look(cluster.timeline.now + (pause or cluster.draw_lag()))

    def stand_still(self, seconds: float) -> None:
        self.stands_until = max(self.stands_until, self.cluster.timeline.now + seconds)

    @property
    def stands_still(self) -> bool:
        now: float = self.cluster.timeline.now
        return self.stands_until > now

    @property
    def may_act(self) -> bool:
        """Whether anything of it will ever happen again."""
        return self.alive and self.stands_until < inf

    def _plan_look(self, time: float) -> None:
        if self._look_at is None or time < self._look_at:
            self._look_at = time
            self.cluster.timeline.at(time, lambda: self.look() if self._look_at == time else None)

    def _plan_deadline(self) -> None:
        deadline = self.loop.deadline()
        if deadline is not None:
            self._plan_look(max(deadline, self.cluster.timeline.now))

    def _observe(self, number: int, now: float, event: Event, effects: list[Effect]) -> None:
        self.steps += 1
        half = bool(effects) and self._strikes_mid_step()
        if half:  # what is seen of the step is what was done
            del effects[1 + self.cluster.choices.choose(len(effects), "effects that are performed") :]
        self.cluster.observe(self, number, now, event, effects)
        if half:
            end_half_way(effects, len(effects))
        if not self.may_crash or half:
            return
        if self.cluster.crash_is_due(CrashMode.AT_STEP):
            raise CrashNow
        if any(map(_brings_more, effects)) and self.cluster.crash_is_due(CrashMode.AFTER_RESULT):
            self._dies_after_turn = True

    def _strikes_mid_step(self) -> bool:
        if self.dies_mid_step:
            return self.cluster.healed_at is None
        return self.may_crash and self.cluster.crash_is_due(CrashMode.MID_STEP)

    def _crash_here(self, effect: CrashHere) -> None:
        """What was decided by now leaves; how much of it arrives is a choice of the network."""
        self.may_crash = False
        self.loop.flush()
        raise CrashNow("fault mid-step")

    def _send_or_crash(self, peer: ProcessId, frame: bytes) -> None:
        if self.may_crash and self.cluster.crash_is_due(CrashMode.AT_SEND):
            raise CrashNow
        self.cluster.frames += 1
        if self.cluster.recorder is not None:
            self.cluster.recorder.left(self.me, peer, frame)
        self._send(peer, frame)
        self.cluster.sent(self.me, peer)

    # ---- fibers ----

    def start_fiber(self, body: Callable[[], None]) -> Fiber:
        fiber = Fiber(body, self)
        self.cluster.living.add(fiber, 0.0)
        return fiber

    def resumed(self, fiber: Fiber) -> None:
        """It goes on, or begins; called in it."""
        self.cluster.awake = fiber
        context.set_current(self.process)

    def wake(self, fiber: Fiber, seconds: float) -> None:
        """Let a fiber go on after so long, unless it has gone on by then."""
        self.cluster.timeline.after(seconds, partial(self._resume, fiber, fiber.resumed_times))

    def _resume(self, fiber: Fiber, times: int) -> None:
        if fiber.resumed_times != times or fiber.ended or not self.alive:
            return
        if self.stands_still:
            self.cluster.timeline.at(self.stands_until, partial(self._resume, fiber, times))
            return
        self.cluster.living.run(fiber)

    def _wake_fibers(self) -> None:
        for fiber, waiter in self.waiting:
            if waiter.is_ready or (self.process is not None and self.process.ended is not None):
                self.wake(fiber, self.cluster.draw_lag())

    def sleep(self, fiber: Fiber, seconds: float) -> None:
        """Virtual time passes. A cancelled task gets its KeyboardInterrupt here."""
        until = self.cluster.timeline.now + seconds
        while self.cluster.timeline.now < until:
            self.wake(fiber, until - self.cluster.timeline.now)
            fiber.park()
            self.raise_interrupt()

    def call_back(self, job: Callable[[], None]) -> None:
        """Run it soon, in a fiber of its own; others may wait for what it does."""

        self._callbacks += 1
        name = f"callback {self._callbacks} of {self.name} {self.cluster.session.hex()}"

        def main() -> None:
            if self.cluster.on_call_back is not None:
                self.cluster.on_call_back(name)
            try:
                job()
            except FiberKilled:
                raise
            except BaseException as error:  # as the thread of a real process shows it (callbacks.py), and goes on
                threading.excepthook(
                    threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
                )
            self.rouse_fibers()

        self.cluster.timeline.after(self.cluster.draw_lag(), lambda: self.start_fiber(main) if self.alive else None)

    def rouse_fibers(self) -> None:
        """Have each look whether what it waits for is there, or an interrupt that is meant for it."""
        for fiber in self.fibers:
            self.wake(fiber, self.cluster.draw_lag())

    def raise_interrupt(self) -> None:
        if self.executor is not None:
            self.executor.raise_interrupt()

    def end(self, *, crashed: bool) -> None:
        """Nothing of it happens any more. Its fibers unwind at once, or as soon as they park."""
        self.alive = False
        self.transport.crash() if crashed else self.transport.close()
        if self.process is not None and self.process.ended is None:
            self.process.ended = Ended(SessionError, "this simulated process has died")
        self.waiting.clear()


class SimulatedDrives:
    """Steps events at once, and parks fibers that wait."""

    asleep = True

    def __init__(self, home: SimulatedProcess) -> None:
        self._home = home

    def post(self, *events: Event) -> None:
        home = self._home
        if not home.alive:
            raise FiberKilled
        try:
            home.turns(events)
        except CrashNow:
            if not inside_fiber():
                raise  # what awaits a ref is called by the process's own turn, which ends here
            raise FiberKilled from None
        except Exception as error:
            home.cluster.fail(error)
            raise FiberKilled from error
        home.cluster.maybe_pause(home)

    def locked(self, action: Callable[[], Any]) -> Any:
        return action()

    def wait(self, waiter: Waiter, timeout: float | None = None) -> bool:
        home, timeline = self._home, self._home.cluster.timeline
        fiber = home.cluster.awake_in(home)
        if timeout is not None and timeout <= 0:
            look(home, fiber, polls=True)
            return waiter.is_ready
        deadline = None
        if timeout is not None and not waiter.is_ready:
            deadline = timeline.now + fiber.spin.lasting(timeout, polls=True)
        while home.alive and not waiter.is_ready and not (home.process and home.process.ended):
            entry = (fiber, waiter)
            home.waiting.append(entry)
            waiter.before_sleep()
            if deadline is not None:
                home.wake(fiber, max(0.0, deadline - timeline.now))
            try:
                fiber.park()
            finally:
                if timeout is None:
                    fiber.spin.begin_anew()
                waiter.after_sleep()
                if entry in home.waiting:
                    home.waiting.remove(entry)
            home.raise_interrupt()
            if deadline is not None and timeline.now >= deadline:
                break
        if not home.alive:
            raise FiberKilled
        return waiter.is_ready

    def rouse(self) -> None:
        if self._home.cluster.threads.none_calls():  # what a real thread drops is seen at the next turn
            self._home.look_soon()

    def stop(self) -> None:
        pass


class SimulatedExecutor(Executor):
    """The main thread of a simulated worker: an interrupt is raised where its fiber is parked."""

    def __init__(self, home: SimulatedProcess, record_start: Callable[[int, int], None]) -> None:
        assert home.process is not None
        super().__init__(home.process, record_start, home.cluster.timeline)
        self._home = home
        self._serves: Fiber | None = None

    def begin(self, effect: RunTask) -> None:
        self._home.cluster.task_starts(self._home, effect.task)
        super().begin(effect)

    def _failure(self, task: PushedTask, error: BaseException) -> tuple[Failure, bool]:
        if isinstance(error, FiberKilled):
            raise error  # it has no outcome, and a thread that was given up is to end without a look at its frames
        return super()._failure(task, error)

    def _strike(self) -> None:
        self._home.rouse_fibers()

    def raise_interrupt(self) -> None:
        if self._home.cluster.awake is self._serves:  # a callback waits in a fiber of its own, and is no task
            self._on_interrupt(0, None)

    def serve(self) -> None:
        self._serves = self._home.cluster.awake
        try:
            super().serve()
        finally:
            # An actor may hold views of stored values, which hold their process, and the collector cannot see through
            # an array: all of the run would stay for ever.
            self._instance = None
