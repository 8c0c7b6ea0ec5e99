"""What matters of a recorded run, in a few sentences: who died in the middle of what, and what therefore ran twice.

They are read off the steps alone, so they hold for any program. A run that no fault has struck has none: then it is the
order of things that matters, and the story of the whole run tells that.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from miniray.testing.moments import Execution, Moment, MomentKind, Run
from miniray.testing.recording import Step

MAX_SENTENCES = 8
MAX_CALLS = 10  # of one actor, in one sentence
_OTHERS = (MomentKind.CUT, MomentKind.NOT_STARTED, MomentKind.PAUSED, MomentKind.BEGAN_AGAIN)
_WITH_NODE = "its node died"


def what_matters(run: Run) -> list[str]:
    """The sentences, in the order in which it happened."""
    told = [
        (moment.step.number, _death_of_node(run, moment) if _runs_no_task(run, moment) else _death(run, moment))
        for moment in _of(run, MomentKind.DIED)
        if moment.step.event["why"] not in ("itself", _WITH_NODE) or _runs_no_task(run, moment)
    ]
    told += [(again.started.number, _again(run, again)) for again in run.executions if again.time > 1]
    if len(told) < MAX_SENTENCES:
        told += [(one.step.number, _broken(run, one)) for one in _of(run, MomentKind.CUT) if _is_link(one)]
        told += [(one.step.number, _other(one)) for one in _of(run, *_OTHERS) if not _is_link(one)]
    sentences = [sentence for _, sentence in sorted(told)]
    left = len(sentences) - MAX_SENTENCES
    return sentences[:MAX_SENTENCES] + ([f"... and {left} more; the file has them all"] if left > 0 else [])


def order_of_calls(run: Run) -> list[str]:
    """For a run that no fault has struck: in which order each actor ran what it was called for, and by whom; where
    there is none, in which order tasks ended."""
    order: dict[str, list[str]] = {}
    for one in run.executions:
        actor = run.recording.tasks.get(one.task, {}).get("actor")
        if actor:
            parent = run.parent(one.task)
            method = run.name(one.task).rpartition(".")[2]
            order.setdefault(actor, []).append(f"{method} (for {run.named(parent) if parent else 'the program'})")
    sentences = []
    for actor, calls in order.items():
        listed = ", ".join(calls[:MAX_CALLS]) + (f" and {len(calls) - MAX_CALLS} more" if calls[MAX_CALLS:] else "")
        if len(calls) > 1:
            sentences.append(f"{run.named(actor)} ran, in this order: {listed}.")
    ended = sorted((one.ended.number, one.task) for one in run.executions if one.ended is not None)
    if not sentences and len(ended) > 1:
        more = f" and {len(ended) - MAX_CALLS} more" if ended[MAX_CALLS:] else ""
        listed = _listed(run.named(task) for _, task in ended[:MAX_CALLS])
        sentences.append(f"Tasks ended in this order: {listed}{more}.")
    return sentences[:MAX_SENTENCES]


def _of(run: Run, *kinds: MomentKind) -> list[Moment]:
    return [moment for moment in run.moments if moment.kind in kinds]


def _death(run: Run, moment: Moment) -> str:
    crash = moment.step
    who = f"{run.who(crash.process)} was killed"
    if crash.event["why"] == "killed":
        who += " (the program asked for it, or whoever owned its task had died)"
    at = f"at {crash.time:.4f} s"
    last = _struck(run, crash)
    if last is None:
        return f"{who} {at} between tasks."
    ran = {one.task for one in run.executions if one.started.number < crash.number}
    done = [task for task in _called_by(run, last) if task in ran]
    if done:
        names = _listed(_full_name(run, task) for task in done)
        what = f"after {run.name(last.task)} had called {names}, which had run,"
    else:
        what = f"in {_full_name(run, last.task)}" + ("" if last.died else " after it had ended")
    return f"{who} {at} {what} and before the answer of {run.name(last.task)} arrived."


def _death_of_node(run: Run, moment: Moment) -> str:
    crash = moment.step
    its_processes = crash.process.rpartition("p")[0]  # "n2." of "n2.p0"
    died = [one.step for one in _of(run, MomentKind.DIED) if one.step.process.startswith(its_processes)]
    along = [one for one in died if one is not crash and one.event["why"] == _WITH_NODE]
    struck = [one for one in (_struck(run, step) for step in along) if one is not None]
    lost = f", in the middle of {_listed(_full_name(run, one.task) for one in struck)}" if struck else ""
    workers = " and its workers with it" if along else ""
    return f"{run.who(crash.process)} was killed at {crash.time:.4f} s{workers}{lost}."


def _runs_no_task(run: Run, moment: Moment) -> bool:
    return run.recording.processes[moment.step.process] in ("node", "control")


def _struck(run: Run, crash: Step) -> Execution | None:
    """What had begun last in the process that died, if nobody has heard of its end."""
    answered = {
        (result["task_id"], result["attempt"])
        for one in _of(run, MomentKind.ANSWERED)
        if one.step.number < crash.number
        for result in one.step.event["message"]["results"]
    }
    here = [one for one in run.executions if one.process == crash.process and one.started.number < crash.number]
    return next((one for one in reversed(here) if (one.task, one.attempt) not in answered), None)


def _again(run: Run, again: Execution) -> str:
    """A task that runs once more repeats what it has called."""
    sentence = f"{_full_name(run, again.task)} ran again in {again.process} at {again.started.time:.4f} s"
    repeated = _listed(run.name(task) for task in _called_by(run, again))
    if repeated:
        called = {task for one in run.executions if one.task == again.task for task in _called_by(run, one)}
        times = sum(one.task in called for one in run.executions)
        sentence += f", and called {repeated} again: it ran {times} times for this one {run.name(again.task)}"
    return f"{sentence}."


def _broken(run: Run, moment: Moment) -> str:
    """What was to be answered over that link, and how far the first of it had come."""
    cut = moment.step
    sentence = f"the link between {run.who(cut.process)} and {run.who(cut.event['peer'])} broke at {cut.time:.4f} s"
    if not moment.task:
        return f"{sentence}, and both lived on."
    mine = [one for one in run.executions if one.task == moment.task and one.started.number < cut.number]
    came = "which had not begun to run,"
    if mine:
        last = mine[-1]
        came = "which had run," if last.ended is not None and last.ended.number <= cut.number else "which ran on,"
    return f"{sentence}, before the answer of {_full_name(run, moment.task)}, {came} arrived; both lived on."


def _is_link(moment: Moment) -> bool:
    return bool(moment.step.event["kind"] == "LinkBroke")


def _other(moment: Moment) -> str:
    return f"{moment.words} at {moment.step.time:.4f} s."


def _called_by(run: Run, one: Execution) -> list[str]:
    return [moment.task for moment in _of(run, MomentKind.CALLED) if moment.step.cause == one.started.number]


def _full_name(run: Run, task: str) -> str:
    """`add (prog.py:31 in main)`."""
    path, colon, place = str(run.recording.tasks.get(task, {}).get("site") or "").rpartition(":")
    return f"{run.name(task)} ({PurePath(path).name}:{place})" if colon else run.name(task)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
