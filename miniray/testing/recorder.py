"""Makes a recorded run of a simulated one: numbers each step, finds its cause, and keeps it as plain JSON.

A message is matched with the step that sent it by the frame that it travels in: of what was sent on a link that broke a
beginning arrives, and what is decided while it is made again goes nowhere. Everything here only looks: a run that is
recorded is the same run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from miniray._runtime.wire import decode
from miniray.core.ids import (
    CONTROL_NUMBER,
    DRIVER_NUMBER,
    NODE_NUMBER,
    ProcessId,
    TaskId,
    local_number,
    node_of,
    process_number,
    show,
)
from miniray.core.machine import LinkRenewed, PeerLost, Received, Send, Tick
from miniray.core.node.events import (
    ExtentReserved,
    LedgerRead,
    ProcessEnded,
    ReadLedger,
    ReserveExtent,
    StartWorker,
    WorkerFailed,
)
from miniray.core.owner.events import (
    ExtentsGivenBack,
    GiveBackExtents,
    PlacesToldOf,
    ProcessStarted,
    Submitted,
    TellPlacesOf,
)
from miniray.core.record import Effect, Event
from miniray.core.task_spec import TaskSpec
from miniray.core.worker.events import RunTask, TaskFinished
from miniray.testing.recording import Step, hashed, plain
from miniray.transport import Arrival, Frame

NOBODY = ProcessId(b"")

_RESULT_OF: dict[type[Event], type[Effect]] = {  # what comes of an effect at once
    ExtentReserved: ReserveExtent,
    LedgerRead: ReadLedger,
    ExtentsGivenBack: GiveBackExtents,
    PlacesToldOf: TellPlacesOf,
}


class Recorder:
    """Looks on while one simulated cluster runs; `payload` says what is kept of users' bytes."""

    def __init__(self, payload: Callable[[bytes], Any] = hashed) -> None:
        self._plain = partial(plain, payload=payload)
        self.steps: list[Step] = []
        self.observed: list[int] = []  # numbers of those that a machine made
        self.processes: dict[str, str] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self._decided: dict[tuple[ProcessId, ProcessId], deque[int]] = {}  # messages, by sender and receiver
        self._under_way: dict[int, tuple[bytes, list[int]]] = {}  # frames that left, by their identity
        self._arrived: dict[tuple[ProcessId, ProcessId], deque[int]] = {}  # and are read now
        self._broke: dict[tuple[ProcessId, ProcessId], int] = {}
        self._starting: dict[ProcessId, int] = {}
        self._to_run: dict[tuple[ProcessId, TaskId, int], int] = {}
        self._code: dict[ProcessId, int] = {}  # where users' code of a process has begun
        self._crashed: dict[ProcessId, int] = {}
        self._effects: dict[tuple[ProcessId, type[Effect]], int] = {}  # the last step with such an effect
        self._last: tuple[Event, int | None] | None = None

    def observe(self, me: ProcessId, now: float, event: Event, effects: list[Effect]) -> None:
        """A machine has made a step."""
        if self._last is not None and self._last[0] is event:
            cause = self._last[1]  # two machines of one process react to it
        else:
            cause = self._cause(me, event)
            self._last = (event, cause)
        number = self._add(me, now, self._plain(event), [self._plain(effect) for effect in effects], cause)
        self.observed.append(number)
        if type(event) is Submitted:
            self._name(event.spec)
        for effect in effects:
            if type(effect) is Send:
                self._decided.setdefault((me, effect.peer), deque()).append(number)
            elif type(effect) is StartWorker:
                self._starting[effect.process] = number
            elif type(effect) is RunTask:
                self._to_run[me, effect.task.task_id, effect.task.attempt] = number
            else:
                self._effects[me, type(effect)] = number

    def left(self, me: ProcessId, peer: ProcessId, frame: bytes) -> None:
        """A frame is sent: it has the last messages that were decided. Those before went nowhere."""
        decided = self._decided.pop((me, peer), deque())
        count = len(decode(frame))
        if count:
            self._under_way[id(frame)] = frame, list(decided)[-count:]

    def arrived(self, me: ProcessId, arrivals: Sequence[Arrival]) -> None:
        """The process reads these now."""
        for arrival in arrivals:
            if type(arrival) is Frame:
                _, numbers = self._under_way.pop(id(arrival.data), (b"", []))
                self._arrived.setdefault((arrival.peer, me), deque()).extend(numbers)

    def happened(self, me: ProcessId, now: float, kind: str, peer: ProcessId = NOBODY, **fields: Any) -> None:
        """Something happened to a process from outside of its machines."""
        cause = self._starting.get(me) if kind == "StartFailed" else None
        told = {"kind": kind, **({"peer": show(peer)} if peer else {}), **fields}
        number = self._add(me, now, told, [], cause)
        if kind in ("Crashed", "LeftBehind"):
            self._crashed[me] = number
        elif kind == "LinkBroke":
            self._broke[me, peer] = self._broke[peer, me] = number
        elif kind == "Began":
            self._code[me] = number
        elif kind == "BeganAgain":
            for link in [link for link in self._arrived if link[1] == me]:
                del self._arrived[link]  # the life before did not come to read it

    def task_started(self, me: ProcessId, now: float, task_id: TaskId, attempt: int, sequence: int) -> None:
        told = {"kind": "TaskStarted", "task": show(task_id), "attempt": attempt, "sequence": sequence}
        self._code[me] = self._add(me, now, told, [], self._to_run.get((me, task_id, attempt)))

    def _add(
        self, me: ProcessId, now: float, event: dict[str, Any], effects: list[dict[str, Any]], cause: int | None
    ) -> int:
        name = show(me)
        if name not in self.processes:
            kinds = {NODE_NUMBER: "node", DRIVER_NUMBER: "driver"}
            is_control = process_number(me) == CONTROL_NUMBER
            self.processes[name] = "control" if is_control else kinds.get(local_number(me), "worker")
        number = len(self.steps) + 1
        self.steps.append(Step(number, now, name, event, effects, cause))
        return number

    def _cause(self, me: ProcessId, event: Event) -> int | None:
        kind = type(event)
        if isinstance(event, Received):
            sent = (self._decided if event.peer == me else self._arrived).get((event.peer, me))
            return sent.popleft() if sent else None
        if kind is Tick:
            return None
        if isinstance(event, PeerLost):
            return self._crashed.get(event.peer, self._crashed.get(node_of(event.peer)))
        if isinstance(event, LinkRenewed):
            return self._broke.get((event.peer, me))
        if isinstance(event, ProcessEnded | WorkerFailed):
            return self._crashed.get(event.process, self._starting.get(event.process))
        if kind is ProcessStarted:
            return self._starting.get(me)
        if isinstance(event, TaskFinished) and me in self._code:
            return self._code.pop(me)
        if kind in _RESULT_OF:
            return self._effects.get((me, _RESULT_OF[kind]))
        return self._code.get(me)

    def _name(self, spec: TaskSpec) -> None:
        self.tasks[show(spec.task_id)] = {
            "name": spec.options.name,
            "site": spec.site,
            "parent": show(spec.parent) if spec.parent else None,
            "actor": show(spec.actor) if spec.actor else None,
        }
