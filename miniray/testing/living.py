"""The fibers of one run: they begin, are run one at a time, and end; each at the latest with the run."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from miniray._runtime import context
from miniray.testing.fibers import Fiber, FiberStuck
from miniray.testing.waits import SimulationError, told_stuck

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster


class LivingFibers:
    """Those that have not ended, in the order in which they began."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._living: dict[Fiber, None] = {}

    def add(self, fiber: Fiber, seconds: float) -> None:
        """It begins after so long."""
        self._living[fiber] = None
        fiber.home.fibers.append(fiber)
        fiber.home.wake(fiber, seconds)

    def run(self, fiber: Fiber) -> None:
        cluster = self._cluster
        if fiber.is_guest:
            cluster.seen(fiber)
        before = cluster.awake
        try:
            with cluster.interrupts.taken():
                fiber.run()
        except FiberStuck as error:
            self._remove(fiber)
            cluster.fail(self._stuck(fiber, error))
            return
        finally:
            cluster.awake = before
        context.set_current(None)
        if fiber.ended:
            self._remove(fiber)
            if fiber.error is not None and (fiber.home is not cluster.driver or fiber.is_guest):
                cluster.fail(fiber.error)
        cluster.real_waits.look_again()

    def unwind(self, fiber: Fiber) -> None:
        """Nothing of it goes on."""
        context.set_current(fiber.home.process)
        try:
            with self._cluster.interrupts.taken():
                fiber.kill()
        except FiberStuck as error:
            self._cluster.fail(self._stuck(fiber, error))
        finally:
            context.set_current(None)
            self._remove(fiber)

    def unwind_soon(self, fibers: Iterable[Fiber]) -> None:
        """Called by one of them, perhaps."""
        for fiber in fibers:
            self._cluster.timeline.after(0.0, partial(self.unwind, fiber))

    def end(self) -> BaseException | None:
        """Unwind all; the error of one that does not end, or of a signal's handler meanwhile."""
        error: BaseException | None = None
        for fiber in list(self._living):
            context.set_current(fiber.home.process)
            try:
                with self._cluster.interrupts.taken():
                    fiber.kill()
            except FiberStuck as stuck:
                error = self._stuck(fiber, stuck)
            except BaseException as raised:
                error = raised
            self._remove(fiber)
        context.set_current(None)
        return error

    def _remove(self, fiber: Fiber) -> None:
        if fiber in self._living:
            del self._living[fiber]
            fiber.home.fibers.remove(fiber)
            if fiber.is_guest:
                self._cluster.threads.ended(fiber)

    def _stuck(self, stuck: Fiber, error: FiberStuck) -> SimulationError:
        parked = [(self._who(one), one.line()) for one in self._living if not one.killed]
        return told_stuck(self._who(stuck), str(error), parked)

    def _who(self, fiber: Fiber) -> str:
        who = self._cluster.code_in(fiber.home)
        return f"thread {fiber.thread.name} of {who}" if fiber.is_guest else who
