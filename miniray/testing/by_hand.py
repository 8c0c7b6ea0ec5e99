"""A world by hand: shipping loops, codec and machines, joined by links on which a frame moves only when it is told to.

    world = World(cpus=1)
    world.settle()                                   # the driver and the first workers have registered
    world.turn(DRIVER, Submitted(spec))              # step one process
    world.possible()                                 # what can happen next, in an order that depends on nothing else
    world.do(world.possible()[0])

For conversations (`tests/scripts`) and for enumerating interleavings: there are no threads, no users' code, no choices
and no time but what the caller says. The rules that hold here:

- A step of a machine is followed by one flush, so what one step says to one peer is one frame.
- What the world has to answer (start, kill and reap a process, copy a place) waits in `possible()` until it is done.
  Reserving memory and reading a ledger are answered at once.
- A host dies whole: with its node process all that runs there is gone, and nobody is left to reap it.
- The control store's disk is slow: each record reaches it when told to, and those that have are there after a crash.
- Machines are functions of what they were told. So two worlds of equal `fingerprint()` have equal futures, whatever the
  order in which their processes were stepped; and a world is copied by doing the same choices again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from miniray._runtime.loop import Loop
from miniray._runtime.perform import PERFORM
from miniray.core.control.control_store import ControlStore
from miniray.core.control.events import Log, Logged, StoreStarted
from miniray.core.failures import DeathCause
from miniray.core.ids import (
    CONTROL_NUMBER,
    DRIVER_NUMBER,
    LOCAL_BITS,
    LeaseId,
    ObjectId,
    ProcessId,
    node_of,
    process_id,
    process_number,
    process_on,
)
from miniray.core.machine import Machine, Send
from miniray.core.messages import NodeAdded, NodeDied
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import BytesFetched, ExtentReserved, LedgerRead, NodeStarted, ProcessEnded
from miniray.core.node.node_manager import NodeManager
from miniray.core.owner.events import ExtentsGivenBack, PlacesToldOf, ProcessStarted
from miniray.core.owner.owner import Owner
from miniray.core.record import Effect, Event, make_encoder, replace
from miniray.core.resources import demand
from miniray.core.task_spec import Place, Value
from miniray.core.worker.events import RunTask, TaskFinished
from miniray.core.worker.worker import Worker
from miniray.testing.faults import CrashHere, end_half_way
from miniray.transport import Arrival, Frame, LinkLost, LinkUp

SESSION = b"hand"
NODE = process_id(SESSION, 0)
DRIVER = process_on(NODE, DRIVER_NUMBER)
CONTROL = process_id(SESSION, CONTROL_NUMBER)
ARENA_BYTES = 1 << 30
MAX_WORKERS = 100
MAX_SETTLING_STEPS = 100_000
_PLACE_BYTES = 1 << 16  # places are this far from each other

#: ("deliver", from, to), ("start" | "crash" | "reap" | "logged", process), ("land", node, place)
Choice = tuple[Any, ...]

_encode = make_encoder()


class _HalfWay(Exception):
    """A process dies between two effects."""


class Member:
    """One process: its loop, what its main thread runs, and what lies in its extents."""

    def __init__(self, world: World, me: ProcessId, *machines: Machine) -> None:
        self._world = world
        self.me = me
        self.owner = next((machine for machine in machines if isinstance(machine, Owner)), None)
        self.alive = True
        self.half: int | None = None  # so many effects of its next step are performed, and then it dies
        self.ending = False  # it has decided to exit, and does when its last frames have left
        self.running: RunTask | None = None
        self.status = (LeaseId(0), 0)  # its word in shared memory: the last task that it has started
        self.extents: list[tuple[int, int]] = []
        self.sealed: dict[ObjectId, Place] = {}
        self._places = 0
        self.history = blake2b(me, digest_size=16)
        rows: dict[type[Effect], Callable[[Any], Event | None]] = {kind: _nothing for kind in PERFORM}
        answers = {name: getattr(self, f"_{name}", None) for name in (kind.__name__ for kind in PERFORM)}
        rows.update({kind: answer for kind in PERFORM if (answer := answers[kind.__name__]) is not None})
        rows[CrashHere] = self._CrashHere
        self.loop = Loop(me, machines, _Transport(world, me), world.clock, rows, _nothing, _ignore_loss, self._observe)

    def _observe(self, number: int, now: float, event: Event, effects: list[Effect]) -> None:
        self.history.update(_encode((now, type(event).__name__, event)))
        half = self.half if effects else None
        if half is not None:
            del effects[half:]
        told = self._world.effects
        told.extend((self.me, one) for one in effects if not (isinstance(one, Send) and one.peer == self.me))
        if half is not None:
            end_half_way(effects, half)

    # ---- effects ----

    def _RunTask(self, effect: RunTask) -> None:
        self.running = effect
        self.status = (effect.lease, effect.task.sequence)

    def _CrashHere(self, effect: CrashHere) -> None:
        raise _HalfWay

    def _ExitProcess(self, effect: Effect) -> None:
        self.ending = True

    def _EndNode(self, effect: Effect) -> None:
        self.ending = self.me != NODE  # the end of the session is not played

    def _Disconnect(self, effect: Any) -> None:
        self.loop.disconnect(effect.peer)

    def _DisconnectNode(self, effect: Any) -> None:
        self.loop.disconnect_node(effect.node)

    def _AddExtent(self, effect: Any) -> None:
        self.extents.append((effect.offset, effect.size_bytes))

    def _FreeStored(self, effect: Any) -> None:
        for object_id, place in effect.objects:
            if self.sealed.get(object_id) == place:
                del self.sealed[object_id]

    def _FreeStoredOf(self, effect: Any) -> None:
        for object_id in [one for one in self.sealed if one[:8] == effect.owner]:
            del self.sealed[object_id]

    def _GiveBackExtents(self, effect: Effect) -> Event:
        free = [extent for extent in self.extents if not self.sealed_in(*extent)]
        self.extents = [extent for extent in self.extents if extent not in free]
        return ExtentsGivenBack([offset for offset, _ in free])

    def _TellPlacesOf(self, effect: Any) -> Event:
        return PlacesToldOf(effect.owner, [item for item in self.sealed.items() if item[0][:8] == effect.owner])

    def _Log(self, effect: Log) -> None:
        self._world.unlogged.append(effect.record)

    def _StartWorker(self, effect: Any) -> None:
        self._world.starting[effect.process] = None

    def _KillProcess(self, effect: Any) -> None:
        self._world.doomed[effect.process] = None

    def _ReserveExtent(self, effect: Any) -> Event:
        self._world.granted[self.me, effect.offset] = effect.holder
        return ExtentReserved(effect.holder, effect.offset, effect.size_bytes, True)

    def _FetchBytes(self, effect: Any) -> None:
        self._world.landing[self.me, effect.into.offset] = effect.source, effect.into

    def _ReadLedger(self, effect: Any) -> Event:
        holder = self._world.members[self._world.granted[self.me, effect.extent_offset]]
        size = dict(holder.extents).get(effect.extent_offset, 0)  # 0: it died before it knew
        return LedgerRead(effect.extent_offset, holder.sealed_in(effect.extent_offset, size))

    # ---- its share of the arena ----

    def sealed_in(self, offset: int, size_bytes: int) -> list[tuple[ObjectId, Place]]:
        return [item for item in self.sealed.items() if offset <= item[1].offset < offset + size_bytes]

    def seal(self, object_id: ObjectId, size_bytes: int) -> Place:
        """Write a value into the last extent; no two places of a run are the same."""
        assert self.extents, "it has no extent: step ExtentNeeded and have it granted first"
        self._places += 1
        place = self.sealed[object_id] = Place(self.me, self.extents[-1][0] + self._places * _PLACE_BYTES, size_bytes)
        return place


class World:
    """A node and a driver, which is about to register; the node then starts a worker for each CPU.

    Of several nodes each has as many CPUs, and registers with a control store; the driver is on the first.

    Attributes:
        effects: what the machines have decided, but for what the roles of one process say to each other. The caller
            may clear it.
        ways: what is under way from one process to another, oldest first: frames, the end of the link, and the
            beginning of one that was made again.
    """

    def __init__(self, *, cpus: int = 1, nodes: int = 1) -> None:
        self.now = 0.0
        self.effects: list[tuple[ProcessId, Effect]] = []
        self.ways: dict[tuple[ProcessId, ProcessId], deque[bytes | LinkLost | LinkUp]] = {}
        self._broken: dict[tuple[ProcessId, ProcessId], None] = {}  # ways to a link that is no more, for the sender
        self.starting: dict[ProcessId, None] = {}
        self.doomed: dict[ProcessId, None] = {}
        self.unreaped: dict[ProcessId, int] = {}  # exit status
        self.landing: dict[tuple[ProcessId, int], tuple[Place, Place]] = {}  # node, offset -> whence, whither
        self.granted: dict[tuple[ProcessId, int], ProcessId] = {}  # node, offset of an extent -> who got it last
        self.log: list[NodeAdded | NodeDied] = []  # on the control store's disk
        self.unlogged: list[NodeAdded | NodeDied] = []
        self.members: dict[ProcessId, Member] = {}
        self._cpus, self._nodes = cpus, 0
        self._control = CONTROL if nodes > 1 else None
        if self._control is not None:
            self._start_control()
        for _ in range(nodes):
            self.join()
        self.members[DRIVER] = Member(self, DRIVER, Owner(DRIVER, NODE))
        self.turn(DRIVER, ProcessStarted(process_number(DRIVER), True))

    def clock(self) -> float:
        return self.now

    def _start_control(self) -> None:
        self.members[CONTROL] = Member(self, CONTROL, ControlStore(CONTROL, self.log))
        self.turn(CONTROL, StoreStarted())

    # ---- verbs ----

    def join(self) -> None:
        """Another node begins; its index was never used before."""
        me = process_id(SESSION, self._nodes << LOCAL_BITS)
        self._nodes += 1
        allocator = Allocator(ARENA_BYTES, 0)
        manager = NodeManager(me, demand({"CPU": self._cpus}), allocator, MAX_WORKERS, self._control)
        self.members[me] = Member(self, me, manager)
        if self._control is not None:
            self.turn(me, NodeStarted())

    def turn(self, me: ProcessId, event: Event) -> None:
        """Step one living process with one event, and send what it has decided."""
        member = self._living(me)
        self._step(member, lambda: member.loop.turn(event))

    def deliver(self, source: ProcessId, target: ProcessId) -> None:
        """The oldest frame of this way, or the end of the link, arrives. Who is dead refuses another link at once."""
        piece = self.ways[source, target].popleft()
        member = self._living(target)
        arrivals: list[Arrival]
        if isinstance(piece, LinkLost):
            self._broken[target, source] = None
            arrivals = [replace(piece, refused=not self.members[source].alive)]
        elif isinstance(piece, LinkUp):
            self._broken.pop((target, source), None)
            arrivals = [piece]
        else:
            arrivals = [LinkUp(source), Frame(source, piece)]
        self._step(member, lambda: member.loop.receive(arrivals))

    def advance(self, seconds: float) -> None:
        """Time passes; each process whose deadline has come gets its tick."""
        self.now += seconds
        for member in list(self.members.values()):
            if member.alive:
                self._step(member, member.loop.tick)

    def half(self, me: ProcessId, count: int) -> None:
        """Its next step that has effects ends after so many of them: it dies when they have been performed and sent."""
        self._living(me).half = count

    def finish(self, me: ProcessId, *values: Value, microseconds: int = 10_000, retry: bool = False) -> None:
        """The task that runs there returns."""
        member = self._living(me)
        assert member.running is not None, "nothing runs there"
        task, member.running = member.running.task, None
        self.turn(me, TaskFinished(task.task_id, task.attempt, values, microseconds, retry))

    def cut(
        self,
        first: ProcessId,
        second: ProcessId,
        keep: tuple[int | None, int | None] = (None, None),
        *,
        unreachable: bool = False,
    ) -> None:
        """The link breaks. `keep`: how many frames of each way still arrive (None: all of them). `unreachable`: these
        two have heard nothing of each other for a long time."""
        for way, frames in (((first, second), keep[0]), ((second, first), keep[1])):
            self._end_way(*way, frames, unreachable)

    def crash(self, me: ProcessId, status: int = -9, keep: int | None = None) -> None:
        """It is gone, and its links with it; its reaper has seen nothing yet. `keep`: of the frames on each way."""
        member = self.members[me]
        assert member.alive, "it is dead already"
        self._end(me, member, keep)
        if me == node_of(me):
            self._crash_host(me, keep)
        else:
            self.unreaped[me] = status

    def _crash_host(self, node: ProcessId, keep: int | None) -> None:
        for me, member in self.members.items():
            if node_of(me) == node and member.alive:
                self._end(me, member, keep)
        for key in [one for one in self.landing if one[0] == node]:
            del self.landing[key]
        for waiting in (self.starting, self.unreaped):
            for me in [one for one in waiting if node_of(one) == node]:
                del waiting[me]

    def _end(self, me: ProcessId, member: Member, keep: int | None) -> None:
        member.alive = False
        self.doomed.pop(me, None)
        for source, target in list(self.ways):
            if source == me:
                self._end_way(source, target, keep)
            elif target == me:
                self.ways[source, target].clear()

    def reap(self, me: ProcessId) -> None:
        """The node learns how it ended, and what its status word says."""
        status = self.unreaped.pop(me)
        cause = DeathCause(process_number(me), status, expected=status == 0)
        lease, started = self.members[me].status if me in self.members else (LeaseId(0), 0)
        self.turn(node_of(me), ProcessEnded(me, cause, lease, started))

    def start(self, me: ProcessId) -> None:
        """A worker that the node wants begins."""
        del self.starting[me]
        self.members[me] = Member(self, me, Worker(me, node_of(me)), Owner(me, node_of(me)))
        self.turn(me, ProcessStarted(process_number(me), False))

    def logged(self, me: ProcessId = CONTROL) -> None:
        """The control store's oldest record that is under way to its disk is there."""
        self.log.append(self.unlogged.pop(0))
        self.turn(me, Logged(len(self.log)))

    def restart(self) -> None:
        """The control store begins again, with what is on its disk. Who has not heard of its death yet hears of that
        first."""
        assert not self.members[CONTROL].alive, "it lives"
        self.unlogged.clear()
        for source, target in [way for way in self.ways if way[0] == CONTROL]:
            self._broken.pop((source, target), None)
            if self._broken.pop((target, source), 0) is None:
                del self.ways[source, target], self.ways[target, source]
            else:
                self.ways[source, target].append(LinkUp(source))
        self._start_control()

    def land(self, node: ProcessId, offset: int) -> None:
        """A copy ends, well if its source's node lives still."""
        source, into = self.landing.pop((node, offset))
        self.turn(node, BytesFetched(into, self.members[node_of(source.holder)].alive))

    # ---- what can happen ----

    def possible(self) -> list[Choice]:
        """What can happen next without anybody's wish or the passing of time, in a fixed order."""
        delivered = [("deliver", *way) for way in sorted(self.ways) if self.ways[way] and self.members[way[1]].alive]
        killed = [("crash", one) for one in sorted(self.doomed) if one in self.members and self.members[one].alive]
        started = [("start", one) for one in sorted(self.starting)]
        landed = [("land", *one) for one in sorted(self.landing)]
        logged = [("logged", CONTROL)] if self.unlogged and self.members[CONTROL].alive else []
        return [*delivered, *started, *landed, *logged, *killed, *(("reap", one) for one in sorted(self.unreaped))]

    def do(self, choice: Choice) -> None:
        verb, *processes = choice
        verbs: dict[str, Callable[..., None]] = {
            "deliver": self.deliver,
            "start": self.start,
            "crash": self.crash,
            "land": self.land,
            "reap": self.reap,
            "logged": self.logged,
        }
        verbs[verb](*processes)

    def settle(self) -> None:
        """Let happen what can, until nothing can."""
        for _ in range(MAX_SETTLING_STEPS):
            possible = self.possible()
            if not possible:
                return
            self.do(possible[0])
        raise AssertionError(f"no end: {self.possible()}")

    def deadline(self) -> float | None:
        """The next moment that some process waits for."""
        times = [member.loop.deadline() for member in self.members.values() if member.alive]
        return min((time for time in times if time is not None), default=None)

    def fingerprint(self) -> bytes:
        """Equal for worlds in which each process has been told the same in one order, and the same is under way."""
        ways = [(source, target, list(map(repr, way))) for (source, target), way in sorted(self.ways.items()) if way]
        told = [(me, one.alive, one.history.digest()) for me, one in sorted(self.members.items())]
        waiting = [sorted(self.starting), sorted(self.doomed), sorted(self.unreaped.items()), sorted(self.landing)]
        disk = [self.log, self.unlogged]
        return blake2b(_encode((self.now, ways, told, waiting, disk)), digest_size=16).digest()

    def leftovers(self) -> dict[ProcessId, dict[str, Any]]:
        """What is not zero at each living process; `{}` at quiescence."""
        found: dict[ProcessId, dict[str, Any]] = {}
        for me, member in self.members.items():
            figures = {name: value for name, value in member.loop.statistics().items() if value} if member.alive else {}
            if member.alive and member.sealed:
                figures["places"] = len(member.sealed)
            if figures:
                found[me] = figures
        return found

    # ---- links ----

    def connect(self, source: ProcessId, target: ProcessId) -> None:
        """Make both ways, or make them anew; to a dead process they are none, and the link ends at once."""
        if (source, target) in self.ways:
            self._connect_again(source, target)
            return
        self.ways[source, target], self.ways[target, source] = deque(), deque()
        if target not in self.members or not self.members[target].alive:
            self._end_way(target, source, 0)

    def _connect_again(self, source: ProcessId, target: ProcessId) -> None:
        """Whoever hears of the loss first makes the link for both; the other has it when it has heard, too."""
        if (source, target) not in self._broken:
            return
        del self._broken[source, target]
        if not self.members[target].alive:
            self.ways[target, source].append(LinkLost(target, "the process is dead"))
        elif (target, source) in self._broken:
            self.ways[source, target].append(LinkUp(source))
            self.ways[target, source].append(LinkUp(target))

    def _end_way(self, source: ProcessId, target: ProcessId, keep: int | None, unreachable: bool = False) -> None:
        way = self.ways[source, target]
        self._broken[source, target] = None
        if way and isinstance(way[-1], LinkLost):
            return
        while keep is not None and len(way) > keep:
            way.pop()
        way.append(LinkLost(source, "the link has ended", unreachable=unreachable))

    def _living(self, me: ProcessId) -> Member:
        member = self.members[me]
        assert member.alive, "it is dead"
        return member

    def _step(self, member: Member, step: Callable[[], None]) -> None:
        try:
            step()
        except _HalfWay:
            member.loop.flush()
            self.crash(member.me)
        else:
            self._finish(member)

    def _finish(self, member: Member) -> None:
        member.loop.flush()
        member.loop.check()
        if member.ending and member.alive:
            self.crash(member.me, 0)


class _Transport:
    """The outgoing half of a process's links; the world delivers."""

    def __init__(self, world: World, me: ProcessId) -> None:
        self._world = world
        self._me = me

    def connect(self, peer: ProcessId) -> None:
        self._world.connect(self._me, peer)

    def send(self, peer: ProcessId, frame: bytes) -> None:
        way = self._world.ways[self._me, peer]
        member = self._world.members.get(peer)
        if member is not None and member.alive and (self._me, peer) not in self._world._broken:
            way.append(frame)

    def disconnect(self, peer: ProcessId) -> None:
        if (self._me, peer) in self._world.ways:
            self._world.ways[peer, self._me].clear()
            self._world._end_way(self._me, peer, None)

    def poll(self, timeout_seconds: float | None) -> list[Arrival]:
        return []

    def wake(self) -> None: ...

    def watch(self, descriptor: int, token: Any) -> None: ...

    def close(self) -> None: ...


def _nothing(effect: Any) -> None:
    return None


def _ignore_loss(peer: ProcessId, reason: str) -> None:
    return None
