"""`SimulatedMachine`: a state machine of Hypothesis whose rules run in one simulated cluster.

- Each rule, initializer and invariant runs to its end in the driver, in a fiber of its own, so what blocks, sleeps or
  is interrupted in it is treated as in `simulate`. Between two of them no virtual time passes.
- The schedule is drawn first, before any rule, by which it shrinks together with the rules and their arguments.
- The cluster begins with the first of them, not in `__init__`: Hypothesis calls `teardown` only if `__init__` returned.
- `teardown` ends the cluster whatever has happened. Only if every rule came to its end, nothing may be left in it.
- Hypothesis knows its own test by the thread, so a fiber is told of it: `assume`, `note` and `data()` work in rules.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

from miniray.testing.strategies import schedules  # first: it says what to install

# isort: split
from hypothesis import reject
from hypothesis.control import _current_build_context, current_build_context
from hypothesis.stateful import RuleBasedStateMachine

from miniray.testing.arguments import check_allowed
from miniray.testing.exploration import DEATHS, no_session
from miniray.testing.faults import Faults
from miniray.testing.heap import frozen_heap
from miniray.testing.levels import Level, faults_of
from miniray.testing.size import Size
from miniray.testing.world import World

if not hasattr(RuleBasedStateMachine, "setup_state"):  # an older one would run the rules outside of the cluster
    raise ImportError("miniray.testing.SimulatedMachine needs a newer Hypothesis: pip install -U hypothesis")

_TOO_EARLY = (
    "there is no cluster yet in __init__ of a SimulatedMachine: make actors and call tasks in an @initialize rule"
)


class SimulatedMachine(RuleBasedStateMachine):
    """Base class of a machine whose rules call `miniray.get` and the rest as always. Make actors in an `@initialize`
    rule: there is no cluster in `__init__` yet.

    Attributes:
        faults, num_cpus, nodes, num_gpus, object_store_memory, resources: as of `simulate`.
        allow: a rule that ends with such an error after a process has died ends the example, which is no failure.
    """

    faults: ClassVar[Level | Faults] = "delays"
    num_cpus: ClassVar[int] = 2
    nodes: ClassVar[int] = 1
    num_gpus: ClassVar[int] = 0
    object_store_memory: ClassVar[int | None] = None
    resources: ClassVar[Mapping[str, float] | None] = None
    allow: ClassVar[tuple[type[BaseException], ...]] = DEATHS

    def __init__(self) -> None:
        super().__init__()
        self._world: World | None = None
        self._failed = False
        self._heap = ExitStack()
        self._schedule = current_build_context().data.draw(schedules())

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            setattr(cls, "__init__", _without_cluster(vars(cls)["__init__"]))  # noqa: B010

    @classmethod
    def setup_state(cls) -> Any:
        """What Hypothesis found in the class, each function made to run in the driver."""
        found = super().setup_state()
        return dataclasses.replace(
            found,
            rules=[_in_driver(one) for one in found.rules],
            initializers=[_in_driver(one) for one in found.initializers],
            invariants=[_in_driver(one) for one in found.invariants],
        )

    def teardown(self) -> None:
        """End the cluster.

        Raises:
            AssertionError: something is left in it that nobody holds.
        """
        with self._heap:
            self._end()

    def _end(self) -> None:
        world, self._world = self._world, None
        if world is None:
            return
        try:
            if not self._failed:
                self.names_to_values.clear()  # what rules have put into bundles
                world.settle()
        finally:
            world.end()

    def _call(self, code: Callable[[], Any]) -> Any:
        """Run it in the driver; what it returns."""
        build = current_build_context()
        results: list[Any] = []

        def main() -> None:
            with _current_build_context.with_value(build):
                results.append(code())

        try:
            if self._world is None:
                self._begin()
            assert self._world is not None
            self._world.call(main)
        except BaseException as error:
            self._failed = True
            cluster = self._world.cluster if self._world is not None else None
            if cluster is not None and (cluster.deaths or cluster.links_broken) and isinstance(error, self.allow):
                reject()
            raise
        return results.pop()

    def _begin(self) -> None:
        size = Size(self.num_cpus, self.nodes, self.num_gpus, self.object_store_memory, self.resources)
        size.check(type(self).__name__)
        check_allowed(self.allow)
        faults = faults_of(self.faults, self._schedule, self.nodes, self._schedule)
        self._heap.enter_context(frozen_heap())
        self._world = World(self._schedule, faults, size)
        module = sys.modules.get(type(self).__module__)
        self._world.begin(vars(module) if module is not None else {})


def _without_cluster(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def called(machine: SimulatedMachine, *args: Any, **kwargs: Any) -> None:
        with no_session(_TOO_EARLY):
            init(machine, *args, **kwargs)

    return called


def _in_driver(step: Any) -> Any:
    """A rule or an invariant of Hypothesis, with another function."""
    function = step.function

    @functools.wraps(function)
    def called(machine: SimulatedMachine, **arguments: Any) -> Any:
        return machine._call(functools.partial(function, machine, **arguments))

    return dataclasses.replace(step, function=called)
