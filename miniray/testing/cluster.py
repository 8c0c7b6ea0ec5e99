"""A simulated cluster: a driver, its host and others; virtual time, and every choice from one source.

    cluster = SimulatedCluster(SeededChoices(7), num_cpus=2)
    cluster.run(program)         # an ordinary function that uses miniray.get, .remote, put, wait, ...
    cluster.settle()             # the driver has let everything go: run until nothing is planned
    assert_quiet(cluster)        # checkers/quiet.py

A host is a node process, its arena and its workers (`host.py`); the processes are the shipping ones (`simulated.py`).
Exactly one fiber is awake at any moment, and the garbage collector is off while a run lasts, so the same choices give
the same trace, byte for byte (`trace_hash`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn

import miniray._api.objects  # noqa: F401  registers how refs and handles are pickled
from miniray._runtime import context
from miniray.core.ids import (
    CONTROL_INDEX,
    LOCAL_BITS,
    NODE_NUMBER,
    ProcessId,
    local_number,
    node_index,
    node_of,
    process_id,
    same_node,
    show,
)
from miniray.core.owner.lineage import MAX_LINEAGE_BYTES
from miniray.core.record import Effect, Event, make_encoder
from miniray.core.resources import demand
from miniray.core.task_spec import PushedTask
from miniray.testing import faults as _faults
from miniray.testing.control import SimulatedControl
from miniray.testing.faults import NO_FAULTS, CrashMode, Faults, Lasting
from miniray.testing.fibers import Fiber, FiberKilled
from miniray.testing.fixed import Fixed
from miniray.testing.healing import heal
from miniray.testing.heap import clusters
from miniray.testing.host import SimulatedHost
from miniray.testing.interrupts import Interrupts
from miniray.testing.living import LivingFibers
from miniray.testing.recorder import NOBODY, Recorder
from miniray.testing.real_waits import RealWaits
from miniray.testing.simulated import CrashNow, SimulatedProcess
from miniray.testing.strikes import Strikes
from miniray.testing.threads import Threads
from miniray.testing.waits import SimulationError, told_room, told_waits
from miniray.transport import Choices, load

if TYPE_CHECKING:
    from miniray.testing.checkers import Watch

MAX_STEPS = 200_000
MAX_VIRTUAL_SECONDS = 3_600.0
ARENA_BYTES = 24 << 20
_POST_PAUSE_ONE_IN = 6  # after so many posts of users' code other things get their turn before it goes on

_encode = make_encoder()
running: list[SimulatedCluster] = []


class SimulatedCluster:
    """One world.

    Args:
        nodes: how many hosts; several have a control store.
        num_cpus: of each host.
        resources: what each host has beside.
        max_lineage_bytes: as of `init`.
        recorder: is told of each step, and of what happens to processes.
    """

    def __init__(
        self,
        choices: Choices,
        *,
        nodes: int = 1,
        num_cpus: int = 2,
        resources: Mapping[str, float] | None = None,
        faults: Faults = NO_FAULTS,
        arena_bytes: int = ARENA_BYTES,
        max_lineage_bytes: int = MAX_LINEAGE_BYTES,
        recorder: Recorder | None = None,
    ) -> None:
        clusters.add(self)
        self.choices, self._nodes = choices, nodes
        self.faults = self.present_faults = faults
        transport: Any = load("simulated")
        self.network = transport.network(self._delay, choices)
        self._slowness: dict[tuple[ProcessId, ProcessId], float] = {}
        self.timeline = self.network.timeline
        self.session = choices.choose(1 << 32, "session").to_bytes(4, "big")
        self._fixed = Fixed(self.session)
        self.processes: dict[ProcessId, SimulatedProcess] = {}
        self.deaths: dict[ProcessId, int] = {}  # of workers that did not end by themselves: exit status
        self.recorder = recorder
        self.watch: Watch | None = None  # it sets itself
        self.healed_at: float | None = None  # from then on there are no faults
        self.left_behind: dict[ProcessId, Lasting] = {}  # nodes that do not heal
        self.awake: Fiber | None = None
        self.steps = self.frames = 0
        self.interrupts = Interrupts()
        self.threads = Threads(self, self.fail)
        self.real_waits = RealWaits(self)
        self.living = LivingFibers(self)
        self.on_task: Callable[[PushedTask], None] | None = None  # called in the fiber in which a task begins
        self.on_call_back: Callable[[str], None] | None = None  # in that of a callback, which has a name
        self._check: Callable[[], None] | None = None
        self._check_every = self._check_at = 0
        self.is_small = arena_bytes < ARENA_BYTES  # its stores may be full: errors that say so are legal
        self.links_broken = 0  # between two that live
        self.disturbed = False  # somebody died, or was killed: errors that say so are legal
        self._notes: dict[str, int] = {}
        self._digest = blake2b(digest_size=16)
        self.digests: list[bytes] = []  # after each step
        self._error: BaseException | None = None
        self._crashes = list(faults.crashes)
        self._until_crash = self._until_break = self._until_control_break = 0
        self._node_crashes = sorted(faults.node_crashes)
        self._paused_at = 0  # step at which a pause of a node was drawn last
        self._breaks, self._control_breaks = list(faults.broken_links), list(faults.control_breaks)
        self.control = SimulatedControl(self, faults.control_crashes) if nodes > 1 else None
        control = self.control.me if self.control is not None else None
        total = demand({**(resources or {}), "CPU": num_cpus})
        self.max_lineage_bytes = max_lineage_bytes
        self.hosts: dict[ProcessId, SimulatedHost] = {}
        for index in range(nodes):
            me = process_id(self.session, index << LOCAL_BITS)
            self.hosts[me] = SimulatedHost(self, me, total, arena_bytes, control)
        self.head = next(iter(self.hosts.values()))
        self.strikes = Strikes(self, faults.node_strikes)
        self.driver = self.head.start_driver()

    @property
    def trace_hash(self) -> str:
        """Of every step so far: process, number, virtual time, event and effects."""
        return self._digest.hexdigest()

    @property
    def node_died(self) -> bool:
        return any(local_number(one) == NODE_NUMBER for one in self.deaths)

    def on_every(self, steps: int, check: Callable[[], None]) -> None:
        """Have `check` called between events, once in so many steps."""
        self._check, self._check_every, self._check_at = check, steps, steps

    # ---- running ----

    def run(self, program: Callable[[], None]) -> None:
        """Run `program` in the driver to its end; again, if there is more than one.

        Raises:
            SimulationError: it waits for something that cannot happen, or a machine's assertion failed.
        """
        if self not in running:
            self._fixed.begin()
            running.append(self)
            self.tell(self.driver.me, "Began")
        try:
            fiber = self.driver.start_fiber(program)
            while not fiber.ended:
                self._step()
            if fiber.error is not None:
                raise fiber.error
            if fiber.unwound:
                raise SimulationError("the program has not come to its end, though nothing has failed")
        finally:
            context.set_current(None)

    def settle(self) -> None:
        """The driver holds nothing any more: let everything happen that is still planned.

        Its threads end here, and those of others when no task is left to run.
        """
        self.threads.end(self.driver)
        while True:
            gc.collect()
            self.posted(self.driver)
            if self.timeline.next_time() is None:
                if not self.threads.live:
                    return
                self.threads.end()
            while self.timeline.next_time() is not None:
                self._step()
                if self.threads.live and not self._tasks():
                    self.threads.end()

    def _tasks(self) -> int:
        return sum(home.loop.statistics().get("tasks", 0) for home in self.processes.values())

    def close(self) -> None:
        """End every process; fibers unwind.

        Raises:
            SimulationError: one does not; everything else has ended.
        """
        for home in list(self.processes.values()):
            if home.alive:
                home.end(crashed=True)
        self.timeline.clear()
        error = self.living.end()
        self.threads.close()
        self.processes.clear()
        if self in running:
            running.remove(self)
        self._fixed.end()
        if error is not None:
            raise error

    def _step(self) -> None:
        self.interrupts.take()
        if self._node_crashes and self.steps >= self._node_crashes[0] and self.healed_at is None:
            self._crash_a_node()
        if self.present_faults.one_node_pause_in and self.steps > self._paused_at:
            self._maybe_pause_a_node()
        happened = self.real_waits.hold() or self.timeline.step()
        if isinstance(self._error, SimulationError):
            raise self._error
        if self._error is not None:
            raise SimulationError(f"at {self.timeline.now:.6f} s: {self._error!r}") from self._error
        if not happened:
            room = told_room(self.hosts.values(), self._nodes, self.head.resources)
            self._has_no_end(f"the program waits, and nothing is left to happen{room}")
        if self.steps >= self.faults.heal_after > 0 and self.healed_at is None:
            heal(self)
        if self._check is not None and self.steps >= self._check_at:
            self._check_at = self.steps + self._check_every
            self._check()
        if self.steps > MAX_STEPS or self.timeline.now > MAX_VIRTUAL_SECONDS:
            self._has_no_end(f"no end: {self.steps} steps, {self.timeline.now:g} virtual seconds")

    def end_faults(self) -> None:
        """No fault strikes any more, and every link is fast."""
        self.healed_at = self.timeline.now
        self.present_faults = NO_FAULTS
        self._crashes.clear()
        self._breaks.clear()
        self._control_breaks.clear()
        self.strikes.end()
        self._slowness.clear()

    def fail(self, error: BaseException) -> None:
        """A machine's assertion, seen by a fiber, or what cannot be simulated: the run ends with it."""
        if self._error is None:
            self._error = error
        if self.awake is not None:
            self.awake.hurry()

    def posted(self, home: SimulatedProcess, *events: Event) -> None:
        if home.stands_still:
            self.timeline.at(home.stands_until, partial(self.posted, home, *events))
        elif home.alive:
            with suppress(CrashNow):
                home.turns(events)

    def awake_in(self, home: SimulatedProcess) -> Fiber:
        assert self.awake is not None and self.awake in home.fibers, "only a fiber of that process can wait in it"
        return self.awake

    def awake_home(self) -> SimulatedProcess | None:
        return next((one for one in self.processes.values() if self.awake in one.fibers), None)

    def maybe_pause(self, home: SimulatedProcess) -> None:
        """Users' code has posted something; other things may happen before it goes on."""
        fiber = self.awake
        if fiber is None or fiber not in home.fibers:
            return
        if self.choices.choose(_POST_PAUSE_ONE_IN, "pause") == _POST_PAUSE_ONE_IN - 1:
            home.wake(fiber, self.draw_lag())
            fiber.park()

    def sleep(self, seconds: float) -> None:
        """Called by simulated code: virtual time passes."""
        home = self.awake_home()
        if home is None or self.awake is None:
            raise FiberKilled  # a `finally` of what is unwound
        home.sleep(self.awake, seconds)

    def die(self, status: int = -9) -> None:
        """Called by simulated code: its process ends here, as by a signal or `os._exit`."""
        home = self.awake_home()
        assert home is not None, "only a simulated process can end so"
        self.crash(home, status, "itself")
        raise FiberKilled

    def die_soon(self, seconds: float) -> None:
        """Called by simulated code: its process ends after so long; 0: about when what it sends next arrives."""
        home = self.awake_home()
        assert home is not None, "only a simulated process can end so"
        self.timeline.after(seconds + self.draw_lag() + self.draw_lag(), lambda: self.crash(home, -9, "itself"))

    def note(self, key: str) -> int:
        """How often simulated code has said this by now: what a real program would write to a file."""
        count = self._notes[key] = self._notes.get(key, 0) + 1
        return count

    # ---- choices ----

    def _delay(self, source: ProcessId, target: ProcessId) -> float:
        slow = self._slowness.get((source, target))
        if slow is None:
            slow = self._slowness[source, target] = _faults.slowness(self.choices, self.present_faults)
        return slow + _faults.delay(self.choices, self.present_faults)

    def draw_lag(self) -> float:
        return _faults.delay(self.choices, self.present_faults)

    def draw_pause(self) -> float:
        return _faults.pause(self.choices, self.present_faults)

    def crash_is_due(self, mode: CrashMode) -> bool:
        if not self._crashes or self._crashes[0].mode is not mode:
            return False
        self._until_crash += 1
        if self._until_crash <= self._crashes[0].after:
            return False
        del self._crashes[0]
        self._until_crash = 0
        return True

    def sent(self, me: ProcessId, peer: ProcessId) -> None:
        """A frame has left; perhaps its link breaks now."""
        if self._control_breaks and CONTROL_INDEX in (node_index(me), node_index(peer)):
            self._until_control_break += 1
            if self._until_control_break > self._control_breaks[0]:
                del self._control_breaks[0]
                self._until_control_break = 0
                if self.network.break_link(me, peer):
                    self.tell(me, "LinkBroke", peer)
        if not self._breaks or NODE_NUMBER in (local_number(me), local_number(peer)):
            return
        if self._breaks[0].between_nodes and same_node(me, peer):
            return
        self._until_break += 1
        if self._until_break <= self._breaks[0].after:
            return
        silent = self._breaks.pop(0).silent_seconds
        self._until_break = 0
        if not silent:
            self._break_link(me, peer)
        elif self.network.silence(me, peer):
            self.tell(me, "LinkSilent", peer, seconds=silent)
            self.timeline.after(silent, partial(self._break_link, me, peer))

    def _break_link(self, me: ProcessId, peer: ProcessId) -> None:
        if self.network.break_link(me, peer):
            self.links_broken += 1
            self.tell(me, "LinkBroke", peer)

    # ---- processes ----

    def crash(self, home: SimulatedProcess, status: int, why: str) -> None:
        """This process is gone; its peers and its reaper hear of it, in any order."""
        if not home.alive:
            return
        if self.control is not None and home is self.control.home:
            self.control.crash(why)
            return
        if home.me == node_of(home.me):
            self.crash_node_process(self.hosts[home.me], why)
            return
        self.tell(home.me, "Crashed", status=status, why=why)
        self.deaths[home.me] = status
        self.disturbed = True
        home.end(crashed=True)
        self.host_of(home).report_end(home, status)
        self.living.unwind_soon(home.fibers)

    def _crash_a_node(self) -> None:
        del self._node_crashes[0]
        others = [host for host in self.hosts.values() if host is not self.head and host.node.alive]
        if not others:
            return
        host = others[self.choices.choose(len(others), "the node that crashes")]
        if self.choices.choose(2, "its process alone"):
            if self.choices.choose(2, "half-way through a step"):
                host.node.dies_mid_step = True
            else:
                self.crash_node_process(host, "fault")
        else:
            self.crash_host(host)

    def _maybe_pause_a_node(self) -> None:
        self._paused_at = self.steps
        seconds = _faults.node_pause(self.choices, self.present_faults)
        if seconds:
            hosts = list(self.hosts.values())
            host = hosts[self.choices.choose(len(hosts), "the node that stands still")]
            self.tell(host.me, "Paused", seconds=seconds, whole_node=True)
            host.stand_still(seconds)

    def crash_node_process(self, host: SimulatedHost, why: str) -> None:
        """The zygote kills its workers a moment later, until which nobody rules them. They would end by themselves, but
        may stand still for longer than `FENCE_SECONDS`, and then run beside what was started in their place."""
        self.disturbed = True
        self.tell(host.me, "Crashed", status=-9, why=why)
        self.deaths[host.me] = -9
        host.node.end(crashed=True)
        del self.processes[host.me]
        for home in [one for one in self.processes.values() if node_of(one.me) == host.me]:
            host.after(self.draw_lag(), partial(self.crash, home, -9, "its node died"))

    def crash_host(self, host: SimulatedHost) -> None:
        """All its processes are gone at once, with its arena; nobody reaps them."""
        self.disturbed = True
        del self.hosts[host.me]
        for home in [one for one in self.processes.values() if node_of(one.me) == host.me]:
            if home.alive:
                self.tell(home.me, "Crashed", status=-9, why="its node died")
                self.deaths[home.me] = -9
                home.end(crashed=True)
            self.timeline.after(0.0, partial(self._forget, home))

    def _forget(self, home: SimulatedProcess) -> None:
        for fiber in list(home.fibers):
            self.living.unwind(fiber)
        self.processes.pop(home.me, None)

    def host_of(self, home: SimulatedProcess) -> SimulatedHost:
        return self.hosts[node_of(home.me)]

    # ---- what is told ----

    def task_starts(self, home: SimulatedProcess, task: PushedTask) -> None:
        """Users' code of a task is about to run in this process."""
        self.strikes.task_starts(home.me, task)
        if self.watch is not None:
            self.watch.task_starts(home, task)
        if self.recorder is not None:
            self.recorder.task_started(home.me, self.timeline.now, task.task_id, task.attempt, task.sequence)
        if self.on_task is not None:
            self.on_task(task)

    def code_in(self, home: SimulatedProcess) -> str:
        """Whose users' code runs in this process now, in words."""
        running = home.process.running if home.process is not None else None
        return f"task {show(running)}" if running else "the program" if home is self.driver else f"process {home.name}"

    def who_is_awake(self) -> str:
        """The same, for the fiber that asks."""
        home = self.awake_home()
        return "nobody" if home is None else self.code_in(home)

    def tell(self, me: ProcessId, kind: str, peer: ProcessId = NOBODY, **fields: Any) -> None:
        """Something happens to a process from outside of its machines (the kinds are in `recording.py`)."""
        if self.recorder is not None:
            self.recorder.happened(me, self.timeline.now, kind, peer, **fields)

    def observe(self, home: SimulatedProcess, number: int, now: float, event: Event, effects: list[Effect]) -> None:
        self.steps += 1
        told = (home.me, number, now, type(event).__name__, event, [(type(one).__name__, one) for one in effects])
        self._digest.update(_encode(told))
        self.digests.append(self._digest.digest())
        if self.recorder is not None:
            self.recorder.observe(home.me, now, event, effects)
        if self.watch is not None:
            self.watch.observe(home, event, effects)

    def seen(self, fiber: Fiber) -> None:
        """This thread goes on now: which of them does when is a part of the run, though no machine is told of it."""
        self._digest.update(_encode((fiber.number, fiber.resumed_times, self.timeline.now)))

    def _has_no_end(self, text: str) -> NoReturn:
        lines = []
        for home in self.processes.values():
            figures = {name: value for name, value in home.loop.statistics().items() if value}
            lines.append(f"  tables of {home.name}{'' if home.alive else ' (dead)'}: {figures}")
        raise SimulationError(text, told_waits(self.processes.values(), self.driver), "\n".join(lines))
