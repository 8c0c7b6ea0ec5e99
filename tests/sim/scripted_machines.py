"""Processes that follow scripts in a world by hand: a `TransitionSystem` of `exhaustive.py`.

A script is a generator at one process: what it does between two `yield`s is one move, and what it yields says when it
may go on (None: at any time). Nothing else moves by itself, but what `by_hand.World.possible()` lists. A move reads and
changes one process, takes from the heads of its inbound ways and appends to its outbound ones; so moves at different
processes commute, but for those that cut frames off or let time pass, which are not `local`.

What a script asserts, and the end, is true of every interleaving. `_what_is_held_lives` looks at several processes at
once, in the states that are visited: of two moves that commute only one order is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import FunctionId, ObjectId, ProcessId, node_of, owner_of, return_id, show, task_id
from miniray.core.machine import Awaited, AwaitEnded
from miniray.core.owner.events import (
    ExtentNeeded,
    FunctionDropped,
    FunctionExported,
    RefsDropped,
    RefsHeld,
    Submitted,
    ValuePut,
)
from miniray.core.owner.owner import Owner
from miniray.core.task_spec import Failed, Inline, Stored, TaskOptions, TaskSpec, Value
from miniray.core.worker.events import InterruptTask
from miniray.testing import by_hand
from miniray.testing.by_hand import DRIVER
from miniray.testing.exhaustive import Move

FUNCTION = FunctionId(b"f" * 16)
INTERRUPTED = Failure(FailureKind.CANCELLED, "f", "KeyboardInterrupt")

Condition = Callable[[], bool]
Script = Generator[Condition | None, None, None]


class Home:
    """One process, and what its scripts may say."""

    def __init__(self, linked: Linked, me: ProcessId) -> None:
        self._world, self.me = linked.world, me
        self.scripts: dict[str, tuple[Script, Condition | None, bool]] = {}
        self.exported = False

    @property
    def alive(self) -> bool:
        return self._world.members[self.me].alive

    @property
    def owner(self) -> Owner:
        found = self._world.members[self.me].owner
        assert found is not None
        return found

    def script(self, name: str, script: Script, *, local: bool = True) -> None:
        """Run it to its first `yield`. `local=False`: a move of it reaches beyond this process."""
        self.scripts[name] = (script, next(script), local)

    def go_on(self, name: str) -> None:
        script, _, local = self.scripts[name]
        try:
            self.scripts[name] = (script, script.send(None), local)
        except StopIteration:
            del self.scripts[name]

    # ---- doing ----

    def does(self, *events: Any) -> None:
        for event in events:
            self._world.turn(self.me, event)

    def put(self, number: int) -> ObjectId:
        made = ref_of(self, number)
        self.does(ValuePut(made, Inline(b"v")))
        return made

    def submit(self, number: int, *, retries: int | None = None, **spec: Any) -> ObjectId:
        """A task, or a call when `actor` is given; `wait` sends what was held back for company.

        `retries`: 3 of a task; of a creation its restarts, and of a call how often it may be made again: none.
        """
        function = FunctionId(b"") if "actor" in spec else FUNCTION
        if function and not self.exported:
            self.exported = True
            self.does(FunctionExported(FUNCTION, Inline(b"")))
        if retries is None:
            retries = 0 if "creates_actor" in spec or "actor" in spec else 3
        options = TaskOptions("f", () if "creates_actor" in spec else (("CPU", 10_000),), retries)
        self.does(Submitted(TaskSpec(task_id(self.me, number), function, b"", options, **spec)))
        return ref_of(self, number)

    def wait(self, *refs: ObjectId) -> None:
        self.does(Awaited(list(refs)))

    def woke(self) -> None:
        self.does(AwaitEnded())

    def hold(self, *refs: ObjectId) -> None:
        self.does(RefsHeld(list(refs)))

    def drop(self, *refs: ObjectId) -> None:
        self.does(RefsDropped(list(refs)))

    def finish(self, ref: ObjectId, contains: tuple[ObjectId, ...] = ()) -> None:
        """The task that makes `ref`, and runs here, ends; if it has been interrupted, it fails."""
        assert self.runs(ref)(), f"{show(ref)} does not run in {show(self.me)}"
        interrupted = (self.me, InterruptTask(ref[:14])) in self._world.effects  # type: ignore[arg-type]
        value: Value = Failed(INTERRUPTED) if interrupted else Inline(b"r", contains)
        self._world.finish(self.me, value, microseconds=100_000)

    def finish_stored(self, ref: ObjectId) -> None:
        """The same, in a setup: its value lies in this process's extents."""
        assert self.runs(ref)(), f"{show(ref)} does not run in {show(self.me)}"
        self.does(ExtentNeeded(8 << 20))
        self._world.settle()
        self._world.finish(self.me, Stored(self._world.members[self.me].seal(ref, 1 << 16)), microseconds=100_000)

    def die(self, frames_kept: int | None = None) -> None:
        """`frames_kept`: so many of what is under way on each link; then the script is not local."""
        if self.alive:
            self._world.crash(self.me, keep=frames_kept)

    def sleep(self, seconds: float) -> None:
        """Time passes, everywhere: the script is not local."""
        self._world.advance(seconds)

    # ---- looking ----

    def runs(self, ref: ObjectId) -> Condition:
        def it_runs() -> bool:
            running = self._world.members[self.me].running
            return running is not None and running.task.task_id == ref[:14]

        return it_runs

    def has(self, *refs: ObjectId) -> Condition:
        return lambda: all(ref in self.owner.values for ref in refs)

    def value(self, ref: ObjectId) -> str | FailureKind | None:
        """In one word."""
        found = self.owner.values.get(ref)
        return found.failure.kind if isinstance(found, Failed) else "value" if isinstance(found, Inline) else None


def ref_of(home: Home, number: int) -> ObjectId:
    """What that process's task or put of this number makes."""
    return return_id(task_id(home.me, number))


class Linked:
    """A world whose processes follow scripts.

    Args:
        setup: makes the actors, gives the scripts, and says what is expected when nothing can move any more.
    """

    def __init__(self, setup: Callable[[Linked], None], *, cpus: int, nodes: int = 1) -> None:
        self.world = by_hand.World(cpus=cpus, nodes=nodes)
        self.homes: dict[ProcessId, Home] = {}
        self.driver = self.homes[DRIVER] = Home(self, DRIVER)
        self.told: dict[str, Any] = {}  # by scripts
        self.actors: list[ObjectId] = []  # the driver's handles, dropped at the end
        self._expected: list[Condition] = []
        self._every_worker: Callable[[Home], None] = lambda home: None
        self.world.settle()
        self._meet_workers()
        setup(self)

    # ---- for setups ----

    def does(self, home: Home, action: Callable[[], Any]) -> Any:
        """Let it be done, and everything that follows."""
        found = action()
        self.world.settle()
        self._meet_workers()
        return found

    def actor(self, number: int, *, restarts: int = 0) -> tuple[ObjectId, Home]:
        """A living one that the driver has made."""
        options = {"creates_actor": True, "retries": restarts}
        made: ObjectId = self.does(self.driver, lambda: self.driver.submit(number, **options))
        home = self.where(made)
        self.does(home, lambda: home.finish(made))
        self.actors.append(made)
        return made, home

    def where(self, ref: ObjectId) -> Home:
        """Where the task that makes it runs now."""
        return next(one for one in self.homes.values() if one.runs(ref)())

    def workers(self, join: Callable[[Home], None]) -> None:
        """Give scripts to each worker, also to those that begin later."""
        self._every_worker = join
        for home in self.homes.values():
            if home.me != DRIVER:
                join(home)

    def expect(self, expected: Condition) -> None:
        self._expected.append(expected)

    def _meet_workers(self) -> None:
        for me in self.world.members:
            if me not in self.homes and me != node_of(me):
                self.homes[me] = Home(self, me)
                self._every_worker(self.homes[me])

    # ---- as a transition system ----

    def moves(self) -> list[Move]:
        found = []
        for verb, *processes in self.world.possible():
            place = node_of(processes[-1]) if verb == "reap" else processes[-1]
            found.append(Move(show(place), f"{verb} {' > '.join(map(show, processes))}"))
        for home in self.homes.values():
            for name, (_, condition, local) in home.scripts.items():
                if home.alive and (condition is None or condition()):
                    found.append(Move(show(home.me), f"{show(home.me)}: {name}", local))
        return found

    def take(self, move: Move) -> None:
        process, colon, name = move.name.partition(": ")
        if colon:
            next(home for home in self.homes.values() if show(home.me) == process).go_on(name)
        else:
            shown = {f"{verb} {' > '.join(map(show, who))}": (verb, *who) for verb, *who in self.world.possible()}
            self.world.do(shown[move.name])
            self._meet_workers()
        if all(member.alive for member in self.world.members.values()):
            self._what_is_held_lives()

    def _what_is_held_lives(self) -> None:
        for home in self.homes.values():
            for ref in home.owner.held_of_others():
                known = self.homes[owner_of(ref)].owner.knows(ref)
                assert known, f"{show(home.me)} holds {show(ref)}, which its owner has freed"

    def judge(self) -> None:
        for home in self.homes.values():
            waits = [name for name in home.scripts if home.alive and not name.startswith("perhaps")]
            assert not waits, f"{show(home.me)} waits for ever: {waits}"
        for expected in self._expected:
            assert expected(), f"not what is expected: {self.told}"
        self.driver.drop(*self.actors)
        for home in self.homes.values():
            if home.alive and home.exported:
                home.does(FunctionDropped(FUNCTION))
        self.world.settle()
        while (deadline := self.world.deadline()) is not None:
            self.world.advance(max(0.0, deadline - self.world.now))
            self.world.settle()
        left = {show(me): figures for me, figures in self.world.leftovers().items()}
        assert not left, f"left at the end: {left}"
