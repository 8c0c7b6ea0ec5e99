"""A simulated cluster, and all that is virtual around a user's code: `simulate` and `SimulatedMachine` run in it.

Between `begin` and `end` the clocks and random functions of this process are replaced, for simulated code only. Each
`call` runs in the driver to its end; handlers of signals wait meanwhile. `end` is due in every case: it puts all back.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from miniray._api.actor import ActorHandle
from miniray._api.object_ref import ObjectRef
from miniray._runtime import context
from miniray._runtime.process import Pin
from miniray.core.ids import TaskId, show
from miniray.core.task_spec import PushedTask
from miniray.testing.checkers.quiet import assert_quiet
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.faults import Faults
from miniray.testing.fibers import FiberKilled
from miniray.testing.looks import look
from miniray.testing.recorder import Recorder
from miniray.testing.simulated import SimulatedProcess
from miniray.testing.size import Size
from miniray.testing.virtual import Virtual
from miniray.transport import Choices

_MAX_REAL = 20
_TASK_SECONDS = (0.0, 0.0, 0.002)  # the last is more than most messages take


class World:
    """`began`: the executions of tasks, in order; `real`: what users' code did with the real world."""

    def __init__(
        self,
        choices: Choices,
        faults: Faults,
        size: Size,
        recorder: Recorder | None = None,
    ) -> None:
        self.began: list[TaskId] = []
        self.real: list[str] = []
        self.cluster = SimulatedCluster(
            choices,
            nodes=size.nodes,
            num_cpus=size.num_cpus,
            resources=size.total(),
            faults=faults,
            arena_bytes=size.store_bytes,
            max_lineage_bytes=size.max_lineage_bytes,
            recorder=recorder,
        )
        self.cluster.on_task = self._on_task
        self._calls = 0
        self._outside = context.get_current()
        waits = self.cluster.threads, self.cluster.real_waits
        self._virtual = Virtual(self._now, self._cpu_seconds, self._sleep, self._die, self._note, *waits)
        self.cluster.on_call_back = self.cluster.threads.on_start = self._virtual.seed

    def begin(self, names: dict[str, Any]) -> None:
        """`names`: the globals of the user's code, where clocks may be bound as well."""
        self._virtual.begin(names)

    def call(self, code: Callable[[], None]) -> None:
        """Run it in the driver to its end.

        Raises:
            SimulationError: it waits for something that cannot happen, or a machine's assertion failed.
        """
        seed = self.cluster.session.hex() + (f" {self._calls}" if self._calls else "")
        self._calls += 1

        def main() -> None:
            self._virtual.seed(seed)
            code()

        with self._inside():
            self.cluster.run(main)

    def settle(self) -> None:
        """The user's code has ended: let everything happen that is still planned.

        Raises:
            AssertionError: something is left that nobody holds.
        """
        with self._inside():
            self.cluster.settle()
            self.cluster.threads.raise_met()
            _assert_nothing_left(self.cluster)

    def end(self) -> None:
        """End the cluster and put everything back.

        Raises:
            SimulationError: a thread of the user's code does not end; everything else has.
        """
        with self._inside():
            try:
                self.cluster.close()
            finally:
                self._virtual.end()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        self.cluster.interrupts.begin()
        forbidden = context.forbid_implicit_start("")
        start = context.set_implicit_start(self.cluster.threads.refuse_call)  # between two steps there is no process
        try:
            yield
        finally:
            context.set_implicit_start(start)
            context.forbid_implicit_start(forbidden)
            context.set_current(self._outside)
            self.cluster.interrupts.end()

    def _on_task(self, task: PushedTask) -> None:
        self.began.append(task.task_id)
        if self.cluster.awake is not None:
            self.cluster.awake.spin.begin_anew()  # of a batch, whose tasks follow one another without a wait
        self._virtual.seed(f"{show(task.task_id)} {task.attempt} {self.cluster.session.hex()}")
        # What takes no time at all answers a batch of calls in one message, and nobody ever dies between two of them.
        seconds = _TASK_SECONDS[self.cluster.choices.choose(len(_TASK_SECONDS), "how long a task takes")]
        if seconds:
            self.cluster.sleep(seconds)

    def _now(self) -> float:
        self._look(polls=False)
        now: float = self.cluster.timeline.now
        return now

    def _cpu_seconds(self) -> float:
        return self._look(polls=False).cpu_seconds

    def _sleep(self, seconds: float) -> None:
        if seconds:
            if self.cluster.awake is not None:
                seconds = self.cluster.awake.spin.lasting(seconds, polls=False)
            self.cluster.sleep(seconds)
        else:
            self._look(polls=True)

    def _look(self, *, polls: bool) -> SimulatedProcess:
        fiber, home = self.cluster.awake, self.cluster.awake_home()
        if fiber is None or home is None:
            raise FiberKilled  # a `finally` of what is unwound
        look(home, fiber, polls=polls)
        return home

    def _note(self, what: str) -> None:
        if len(self.real) < _MAX_REAL:
            self.real.append(f"{self.cluster.who_is_awake()}: {what}")

    def _die(self, status: int) -> None:
        fiber = self.cluster.awake
        if fiber in self.cluster.driver.fibers:
            if fiber is not None and fiber.is_guest:  # as a SystemExit it would end the thread alone
                self.cluster.fail(SystemExit(status))
                raise FiberKilled
            raise SystemExit(status)
        self.cluster.die(status)


def _assert_nothing_left(cluster: SimulatedCluster) -> None:
    """Unless the program itself keeps refs, in a global say, or returns a view of a stored value, nothing may stay."""
    try:
        assert_quiet(cluster, but=("functions",))  # those of modules are not dropped
    except AssertionError:
        if not any(isinstance(one, ObjectRef | ActorHandle | Pin) for one in gc.get_objects()):
            raise
