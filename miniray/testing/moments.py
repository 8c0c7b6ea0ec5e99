"""What happened in a recorded run, in its user's words: calls, executions, deaths, and the messages between processes.

`story.py` tells it and `sequence.py` draws it; both look at one `Run`, which is made of a `Recording` once.

- A *moment* is a step that a user would mention: he called, it ran, it ended, a worker was killed, it ran again.
- A *message* is matched with the step that sent it and the one that received it; one that never arrived has no second.
- Routine (leases, extents, counting of refs, ticks) is neither; `routine` counts it, by kind.
- `cone` is what came before a step: through causes, and through the order of steps within one process. Nothing outside
  of it can have to do with a failure.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

from miniray.core.record import Record
from miniray.testing.faults import Lasting
from miniray.testing.recording import Recording, Step


class MomentKind(Enum):
    BEGAN = "began"  # the program
    CALLED = "called"
    STARTED = "started"
    ENDED = "ended"
    RAISED = "raised"
    PUSHED_AGAIN = "pushed again"
    DIED = "died"
    HEARD = "heard of a death"
    PAUSED = "paused"
    CUT = "cut"  # a link, or all of a node's
    NOT_STARTED = "not started"
    BEGAN_AGAIN = "began again"  # the control store
    ANSWERED = "answered"  # the caller has what it called for


class Moment(Record, frozen=True):
    """One step, as its user would tell it. `task`: "p1.t7", or "" when it is about none."""

    step: Step
    kind: MomentKind
    task: str
    words: str


class Message(Record, frozen=True):
    """One message. `received` is None when it never arrived; `label` is empty for routine."""

    sent: Step
    received: Step | None
    source: str
    target: str
    kind: str
    label: str
    tasks: tuple[str, ...]


class Execution(Record, frozen=True):
    """Users' code of a task in one process; `ended` is None when it was still running at the end of the recording.

    `time` counts the starts of this task from 1. `attempt` counts also what was sent and never started.
    """

    task: str
    attempt: int
    time: int
    process: str
    started: Step
    ended: Step | None
    died: bool


_TASK = re.compile(r"(?:n\d+\.)?p\d+\.t\d+")  # as `ids.show` writes them
_MAX_NAMED = 3  # tasks in one sentence
_ORDINALS = {2: "a second", 3: "a third", 4: "a fourth"}


def ordinal(time: int) -> str:
    return _ORDINALS.get(time, f"a {time}th")


class Run:
    """A recording, indexed. `moments`, `messages` and `executions` are in the order of their steps."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.steps = {step.number: step for step in recording.steps}
        self.moments: list[Moment] = []
        self.messages: list[Message] = []
        self.executions: list[Execution] = []
        self.routine: Counter[str] = Counter()
        self._running: dict[str, tuple[Step, int]] = {}  # process -> its TaskStarted, which start of the task it is
        self._starts: Counter[str] = Counter()
        self._pushes: Counter[str] = Counter()
        self._given: dict[tuple[str, str], dict[str, int]] = {}  # (owner, worker) -> tasks not answered -> sequence
        self._sent: dict[tuple[int, str], deque[int]] = {}  # (step, receiver) -> places in `messages`
        for step in recording.steps:
            self._receive(step)
            tellings = list(_TELLERS.get(step.event["kind"], _nothing)(self, step))
            tellings += [found for effect in step.effects for found in self._pushed_again(step, effect)]
            self.moments += [Moment(step, kind, task, words) for kind, task, words in tellings]
            if not tellings:
                self.routine[_family(step)] += 1
            self._send(step)
        for process in list(self._running):
            self._close(process, None, died=False)
        self.executions.sort(key=lambda one: one.started.number)
        self._tell_lost_answers()
        self.failing = self._find_failing()

    # ---- names ----

    def name(self, identifier: str) -> str:
        """The function's name of a task or of an object, as the user knows it."""
        known = self.recording.tasks.get(task_of(identifier))
        return str(known["name"]) if known and known["name"] else identifier

    def named(self, identifier: str) -> str:
        """The same, with the id beside it."""
        name = self.name(identifier)
        return identifier if name == identifier else f"{name} ({identifier})"

    def who(self, process: str) -> str:
        """ "driver p1", "worker p3", "node p0"."""
        kind = self.recording.processes.get(process, "process")
        return "the control store" if kind == "control" else f"{kind} {process}"

    def parent(self, task: str) -> str | None:
        known = self.recording.tasks.get(task)
        return known["parent"] if known else None

    # ---- causes ----

    def cone(self, last: Step) -> set[int]:
        """Numbers of the steps that came before this one, and its own."""
        previous: dict[int, int] = {}
        latest: dict[str, int] = {}
        for step in self.recording.steps:
            if step.process in latest:
                previous[step.number] = latest[step.process]
            latest[step.process] = step.number
        found: set[int] = set()
        todo = [last.number]
        while todo:
            number = todo.pop()
            if number in found or number not in self.steps:
                continue
            found.add(number)
            cause = self.steps[number].cause
            todo += [one for one in (cause, previous.get(number)) if one is not None]
        return found

    def chain(self, last: Step) -> list[Step]:
        """From this step back by its causes, to one that has none."""
        found = []
        step: Step | None = last
        while step is not None:
            found.append(step)
            step = self.steps.get(step.cause) if step.cause is not None else None
        return found

    def _find_failing(self) -> Step | None:
        """The step after which the program failed: the last one in which its driver learned something."""
        error = self.recording.error
        if error is None or not self.recording.steps:
            return None
        if error["type"].endswith("SimulationError"):
            return self.recording.steps[-1]
        of_driver = [step for step in self.recording.steps if self.recording.processes[step.process] == "driver"]
        learned = [step for step in of_driver if any(effect["kind"] == "Ready" for effect in step.effects)]
        return (learned or of_driver or self.recording.steps)[-1]

    # ---- messages ----

    def _send(self, step: Step) -> None:
        for effect in step.effects:
            if effect["kind"] != "Send" or effect["peer"] == step.process:
                continue
            message, target = effect["message"], effect["peer"]
            tasks = tuple(_tasks_in(message))
            for task in message.get("tasks", ()) if message["kind"] == "PushTasks" else message.get("calls", ()):
                self._given.setdefault((step.process, target), {})[task["task_id"]] = task["sequence"]
            made = Message(step, None, step.process, target, message["kind"], self._label(message, tasks), tasks)
            self._sent.setdefault((step.number, target), deque()).append(len(self.messages))
            self.messages.append(made)

    def _receive(self, step: Step) -> None:
        if step.event["kind"] != "Received" or step.cause is None or step.event["peer"] == step.process:
            return
        places = self._sent.get((step.cause, step.process))
        if places:
            place = places.popleft()
            sent = self.messages[place]
            self.messages[place] = Message(sent.sent, step, sent.source, sent.target, sent.kind, sent.label, sent.tasks)

    def _label(self, message: dict[str, Any], tasks: tuple[str, ...]) -> str:
        words = _LABELS.get(message["kind"])
        if words is None or (not tasks and message["kind"] not in _LABELS_WITHOUT_TASKS):
            return ""
        names = Counter(self.name(task) for task in tasks)
        listed = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in list(names.items())[:3])
        again = [task for task in message.get("tasks", ()) if isinstance(task, dict) and task.get("attempt", 1) > 1]
        if len(names) > 3:
            listed += ", ..."
        if message["kind"] == "ProcessDied":
            listed = message["process"]
        if _failed(message):
            words = "{} failed"
        return words.format(listed) + (" again" if again else "")

    # ---- moments ----

    def _pushed_again(self, step: Step, effect: dict[str, Any]) -> Iterator[tuple[MomentKind, str, str]]:
        if effect["kind"] != "Send" or effect["message"]["kind"] not in ("PushTasks", "CallActor"):
            return
        message = effect["message"]
        for task in message.get("tasks") or message.get("calls") or ():
            self._pushes[task["task_id"]] += 1
            if task["attempt"] > 1:
                time = ordinal(self._pushes[task["task_id"]])
                words = f"sends {self.named(task['task_id'])} {time} time, to {effect['peer']}"
                yield MomentKind.PUSHED_AGAIN, task["task_id"], words

    def tell_began(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        yield MomentKind.BEGAN, "", f"{self.recording.program['name']}() begins"

    def tell_called(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        spec = step.event["spec"]
        task = spec["task_id"]
        refs = [self.named(ref) for ref in [*spec["slots"], *spec["refs"]]]
        verb = "creates" if spec["creates_actor"] else "calls"
        inside = spec.get("parent")
        given = f" with {', '.join(refs)}" if refs else ""
        place = spec["site"].split(" in ")[0].replace("\\", "/").split("/")[-1]
        caller = f"{self.name(inside)} " if inside else ""
        yield MomentKind.CALLED, task, f"{caller}{verb} {self.named(task)}{given}{f' at {place}' if place else ''}"

    def tell_started(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        task = step.event["task"]
        self._starts[task] += 1
        self._running[step.process] = step, self._starts[task]
        again = f" {ordinal(self._starts[task])} time" if self._starts[task] > 1 else ""
        yield MomentKind.STARTED, task, f"{self.named(task)} starts{again}"

    def tell_finished(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        task = step.event["task_id"]
        self._close(step.process, step, died=False)
        failures = [value["failure"] for value in step.event["values"] if value["kind"] == "Failed"]
        if failures:
            yield MomentKind.RAISED, task, f"{self.named(task)} fails: {_first_line(failures[0]['message'])}"
        else:
            yield MomentKind.ENDED, task, f"{self.named(task)} ends"

    def tell_crashed(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        found = self._running.get(step.process)
        task = found[0].event["task"] if found else ""
        self._close(step.process, step, died=True)
        how = {
            "killed": "is killed, as the node was told",
            "itself": f"ends itself ({step.event['status']})",
            "fault mid-step": "is killed by a fault, half-way through a step",
        }
        words = f"{self.who(step.process)} {how.get(step.event['why'], 'is killed by a fault')}"
        yield MomentKind.DIED, task, words + (f", while {self.named(task)} runs there" if task else "")

    def tell_received(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        message, peer = step.event["message"], step.event["peer"]
        if message["kind"] == "TasksDone":
            for result in message["results"]:
                self._given.get((step.process, peer), {}).pop(result["task_id"], None)
                if peer != step.process:
                    yield MomentKind.ANSWERED, result["task_id"], f"has what came of {self.named(result['task_id'])}"
        elif message["kind"] == "TakenBack":
            for task in message["tasks"]:
                self._given.get((step.process, peer), {}).pop(task, None)
        elif message["kind"] == "ProcessDied":
            given = self._given.pop((step.process, message["process"]), {})
            for task, sequence in given.items():
                had = "had" if not sequence or sequence <= message["started"] else "had not"
                words = f"hears of the death of {message['process']}: {self.named(task)} {had} started there"
                yield MomentKind.HEARD, task, words

    def tell_paused(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        who = self.who(step.process)
        who = f"{who} with all that runs there" if step.event.get("whole_node") else who
        yield MomentKind.PAUSED, "", f"{who} stands still for {step.event['seconds']:g} s"

    def tell_broke(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        ends = step.process, step.event["peer"]
        lost = {**self._given.pop(ends, {}), **self._given.pop((ends[1], ends[0]), {})}
        names = [self.named(task) for task in lost]
        listed = ", ".join(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED} more" if names[_MAX_NAMED:] else "")
        meanwhile = f", with {listed} under way" if names else ""
        yield MomentKind.CUT, next(iter(lost), ""), f"its link to {self.who(ends[1])} breaks{meanwhile}; both live"

    def tell_left_behind(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        who = f"{self.who(step.process)} with all that runs there"
        if step.event["how"] == Lasting.CUT_OFF.value:
            yield MomentKind.CUT, "", f"{who} is cut off for ever"
        else:
            yield MomentKind.PAUSED, "", f"{who} stands still for ever"

    def tell_silent(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        words = f"what {step.process} sends to {step.event['peer']} is lost for {step.event['seconds']:g} s"
        yield MomentKind.CUT, "", words

    def tell_began_again(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        yield MomentKind.BEGAN_AGAIN, "", "the control store begins again, from its log"

    def tell_not_started(self, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
        yield MomentKind.NOT_STARTED, "", f"{self.who(step.process)} could not be started: {step.event['reason']}"

    def _tell_lost_answers(self) -> None:
        """A death that took results along says so: they were made, and nobody has heard of them."""
        arrived = {
            (one.source, task)
            for one in self.messages
            if one.kind == "TasksDone" and one.received is not None
            for task in one.tasks
        }
        for place, moment in enumerate(self.moments):
            if moment.kind is MomentKind.DIED:
                process = moment.step.process
                mine = [one.task for one in self.executions if one.process == process and not one.died]
                lost = [self.named(task) for task in dict.fromkeys(mine) if (process, task) not in arrived]
                if lost:
                    words = f"{moment.words}; what came of {', '.join(lost)} is lost"
                    self.moments[place] = Moment(moment.step, moment.kind, moment.task or mine[-1], words)

    def _close(self, process: str, step: Step | None, *, died: bool) -> None:
        found = self._running.pop(process, None)
        if found is not None:
            started, time = found
            task, attempt = started.event["task"], started.event["attempt"]
            self.executions.append(Execution(task, attempt, time, process, started, step, died))


def _nothing(run: Run, step: Step) -> Iterator[tuple[MomentKind, str, str]]:
    return iter(())


_TELLERS = {
    "Began": Run.tell_began,
    "Submitted": Run.tell_called,
    "TaskStarted": Run.tell_started,
    "TaskFinished": Run.tell_finished,
    "Crashed": Run.tell_crashed,
    "Received": Run.tell_received,
    "Paused": Run.tell_paused,
    "LinkBroke": Run.tell_broke,
    "LeftBehind": Run.tell_left_behind,
    "LinkSilent": Run.tell_silent,
    "BeganAgain": Run.tell_began_again,
    "StartFailed": Run.tell_not_started,
}

# What stands at a message's arrow; a kind that is not here is routine.
_LABELS = {
    "PushTasks": "{}",
    "CallActor": "{}",
    "TasksDone": "{} done",
    "TakeBack": "give back {}",
    "TakenBack": "{} given back",
    "CancelTask": "cancel {}",
    "RequestCancel": "cancel {}",
    "RequestKill": "kill {}",
    "ProcessDied": "{} is dead",
    "RefGone": "{} is gone",
    "LeaseRefused": "no worker to be had",
}
_LABELS_WITHOUT_TASKS = ("ProcessDied", "LeaseRefused")

_FAMILIES = {
    "leases": ("Lease", "Register", "Blocked", "CancelRequest", "ExitWorker", "Awaited", "AwaitEnded", "TakenBack"),
    "refs": ("Holder", "Refs", "RefGone", "Handoff", "WhereIs", "ValueIs", "Arguments", "Views", "View", "ValuePut"),
    "functions": ("Function",),
    "arena": ("Extent", "Places", "Orphans", "Ledger", "OwnerBuried"),
    "deaths": ("ProcessDied", "PeerLost", "ProcessEnded", "KillWorker"),
    "deadlines": ("Tick",),
}


def _family(step: Step) -> str:
    kind = step.event["kind"]
    kind = step.event["message"]["kind"] if kind == "Received" else kind
    return next((name for name, words in _FAMILIES.items() if any(word in kind for word in words)), "others")


def _tasks_in(message: dict[str, Any]) -> Iterator[str]:
    for field in ("tasks", "calls", "results"):
        for task in message.get(field) or ():
            yield task["task_id"] if isinstance(task, dict) else task
    for field in ("task", "object_id", "actor"):
        if message["kind"] != "CallActor" and isinstance(message.get(field), str):
            yield task_of(message[field])


def _failed(message: dict[str, Any]) -> bool:
    """Results none of which is a value."""
    values = [value for result in message.get("results") or () for value in result["values"]]
    return bool(values) and all(value["kind"] == "Failed" for value in values)


def task_of(identifier: str) -> str:
    """ "p1.t7" of "p1.t7.0", "n2.p3.t7" of "n2.p3.t7.0"; what is no return of a task is its own."""
    found = _TASK.match(identifier)
    return found.group() if found else identifier


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"
