"""What matters of a recorded run, in a few sentences: who died in the middle of what, and what therefore ran twice.

They are read off the steps alone, so they hold for any program. A run that no fault has struck has none: then it is the
order of things that matters, and the story of the whole run tells that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from miniray.core.record import Record
from miniray.testing.recording import Step

MAX_SENTENCES = 8


class _Execution(Record, frozen=True):
    """Users' code of a task that began."""

    task: str
    attempt: int
    began: Step


class _Run:
    """What of the steps the sentences need, found in one pass."""

    def __init__(self, steps: Sequence[Step], tasks: dict[str, dict[str, Any]]) -> None:
        self.tasks = tasks
        self.executions: list[_Execution] = []
        self.crashes: list[Step] = []
        self.others: list[Step] = []  # starts that failed, pauses
        self.ended: dict[tuple[str, int], int] = {}  # the code of (task, attempt) had come to its end
        self.known: dict[tuple[str, int], int] = {}  # its result had arrived at the owner
        self.called: dict[tuple[str, int], list[str]] = {}  # by (task, attempt): what it called
        by_number = {step.number: step for step in steps}
        for step in steps:
            kind = step.event["kind"]
            if kind == "TaskStarted":
                self.executions.append(_Execution(step.event["task"], step.event["attempt"], step))
            elif kind == "Crashed" and step.event["why"] != "itself":
                self.crashes.append(step)
            elif kind in ("StartFailed", "Paused"):
                self.others.append(step)
            elif kind == "TaskFinished":
                self.ended[step.event["task_id"], step.event["attempt"]] = step.number
            elif kind == "Submitted" and step.cause is not None:
                by = by_number[step.cause].event
                if by["kind"] == "TaskStarted":
                    called = self.called.setdefault((by["task"], by["attempt"]), [])
                    called.append(step.event["spec"]["task_id"])
            elif kind == "Received" and step.event["message"]["kind"] == "TasksDone":
                for result in step.event["message"]["results"]:
                    self.known[result["task_id"], result["attempt"]] = step.number

    def name(self, task: str) -> str:
        return str(self.tasks.get(task, {}).get("name") or task)

    def full_name(self, task: str) -> str:
        """`add (prog.py:31 in main)`."""
        path, colon, place = str(self.tasks.get(task, {}).get("site") or "").rpartition(":")
        return f"{self.name(task)} ({PurePath(path).name}:{place})" if colon else self.name(task)

    def began(self, task: str, before: int | None = None) -> list[_Execution]:
        return [one for one in self.executions if one.task == task and (before is None or one.began.number < before)]


def what_matters(steps: Sequence[Step], tasks: dict[str, dict[str, Any]]) -> list[str]:
    """The sentences, in the order in which it happened."""
    run = _Run(steps, tasks)
    told: list[tuple[int, str]] = []
    for crash in run.crashes:
        told.append((crash.number, _death(run, crash)))
    for task in dict.fromkeys(one.task for one in run.executions):
        told += [(again.began.number, _again(run, again)) for again in run.began(task)[1:]]
    for step in run.others if len(told) < MAX_SENTENCES else []:
        told.append((step.number, _other(step)))
    sentences = [sentence for _, sentence in sorted(told)]
    left = len(sentences) - MAX_SENTENCES
    return sentences[:MAX_SENTENCES] + ([f"... and {left} more; the file has them all"] if left > 0 else [])


def _death(run: _Run, crash: Step) -> str:
    who = f"worker {crash.process} was killed"
    if crash.event["why"] == "killed":
        who += " (the program asked for it, or whoever owned its task had died)"
    at = f"at {crash.time:.4f} s"
    here = [one for one in run.executions if one.began.process == crash.process and one.began.number < crash.number]
    hit = [one for one in here if run.known.get((one.task, one.attempt), crash.number) >= crash.number]
    if not hit:
        return f"{who} {at} between tasks."
    last = hit[-1]
    done = [child for child in run.called.get((last.task, last.attempt), ()) if run.began(child, crash.number)]
    what = f"in {run.full_name(last.task)}"
    if done:
        names = ", ".join(dict.fromkeys(map(run.full_name, done)))
        what = f"after {run.name(last.task)} had called {names}, which had run,"
    if run.ended.get((last.task, last.attempt), crash.number) < crash.number:
        what = f"{what} after it had ended" if not done else what
    return f"{who} {at} {what} and before the answer of {run.name(last.task)} arrived."


def _again(run: _Run, again: _Execution) -> str:
    """A task that runs once more repeats what it has called."""
    repeated = ", ".join(dict.fromkeys(map(run.name, run.called.get((again.task, again.attempt), ()))))
    times = sum(
        len(run.began(child)) for one in run.began(again.task) for child in run.called.get((one.task, one.attempt), ())
    )
    where = f"in {again.began.process} at {again.began.time:.4f} s"
    sentence = f"{run.full_name(again.task)} ran again {where}"
    if repeated:
        sentence += f", and called {repeated} again: it ran {times} times for this one {run.name(again.task)}"
    return f"{sentence}."


def _other(step: Step) -> str:
    if step.event["kind"] == "Paused":
        return f"{step.process} stood still for {step.event['seconds']:g} s at {step.time:.4f} s."
    return f"worker {step.process} could not be started at {step.time:.4f} s."
