"""The story of a recorded run as text: what led to its failure, in the user's words, on one screen.

    print(tell(read(Path("run.json"))))            # the failure and what led to it
    print(tell(recording, everything=True))        # each step
    print(story(recording, "p1.t7"))               # the last steps about one task, object or actor

Only what came before the failure is told, of that only what concerns the tasks that something happened to: those that
ran twice, that were running where a worker died, that failed, and what they called. The rest is counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from miniray.testing.moments import Moment, MomentKind, Run, task_of
from miniray.testing.recording import Recording, Step

MAX_LINES = 30  # of what led to it, without what is counted between them
MAX_STORY_STEPS = 30
HEADING = f"{'ms':>9} {'step':>5} {'cause':>5}  who         what"
_ERROR_LINES = 4
_WIDTH = 118
_OF_THEIR_TASK = (MomentKind.STARTED, MomentKind.PUSHED_AGAIN)  # their nearest cause is that a worker was to be had
_HITS = (MomentKind.DIED, MomentKind.CUT, MomentKind.PUSHED_AGAIN)
_HARM = (MomentKind.DIED, MomentKind.CUT, MomentKind.HEARD, MomentKind.RAISED)
_WEIGHTY = (MomentKind.BEGAN, MomentKind.DIED, MomentKind.HEARD, MomentKind.PUSHED_AGAIN, MomentKind.RAISED)
_SELDOM = (
    MomentKind.DIED, MomentKind.CUT, MomentKind.NOT_STARTED, MomentKind.PAUSED, MomentKind.BEGAN, MomentKind.BEGAN_AGAIN
)  # fmt: skip


def tell(recording: Recording, *, everything: bool = False) -> str:
    """What led to the failure; with `everything`, each step of the run.

    A line of it: virtual milliseconds, number of the step, number of the told step that is its cause, who, what.
    """
    run = Run(recording)
    lines = [_title(run), ""]
    if recording.error is not None:
        lines += wrap(failure_line(recording), _WIDTH, subsequent_indent="  ")[:_ERROR_LINES]
    for number, sentence in enumerate(recording.matters, 1):
        lines += wrap(sentence, _WIDTH, initial_indent=f"  {number}. ", subsequent_indent="     ")
    lines += ["", HEADING]
    if everything:
        lines += [_line(run.who(step.process), step, step.cause, show_step(step)) for step in recording.steps]
        return "\n".join(lines)
    lines += _told(run)
    if run.failing is not None and recording.error is not None:
        lines.append(_line(run.who(run.failing.process), run.failing, None, "and the program fails"))
    folded = ", ".join(f"{count} of {family}" for family, count in run.routine.most_common())
    lines += ["", f"not told: {folded or 'nothing'} (--all tells every step)"]
    return "\n".join(lines)


def story(recording: Recording, about: str) -> str:
    """The last steps that name this task ("p1.t7"), object or actor ("p1.t7.0"), with what each did about it.

    Raises:
        KeyError: no step names it.
    """
    lines = last_steps(recording.steps, recording.processes, (about,))
    if not lines:
        raise KeyError(f"no step of this run names {about}; its tasks are {', '.join(recording.tasks)}")
    known = recording.tasks.get(task_of(about))
    heading = f"{Run(recording).named(about)}, called at {known['site']}" if known else about
    return "\n".join([heading, *lines])


def last_steps(steps: Sequence[Step], processes: Mapping[str, str], about: Sequence[str]) -> list[str]:
    """Lines of the last steps that name one of `about`, or what belongs to it (p1.t2.0 belongs to p1.t2).

    Args:
        processes: "driver", "worker" or "node", by the name of the process.
    """
    found = [step for step in steps if _names(step.event, about) or _names(step.effects, about)]
    left = len(found) - MAX_STORY_STEPS
    lines = [f"  ({left} earlier steps)"] if left > 0 else []
    return lines + [line for step in found[-MAX_STORY_STEPS:] for line in whole(step, processes, about)]


def whole(step: Step, processes: Mapping[str, str], about: Sequence[str] = ()) -> list[str]:
    """Lines of one step, as long as they are: below the event its effects (with `about`: those that name it)."""
    head = _row(f"{processes[step.process]} {step.process}", step, step.cause, show_event(step.event))
    told = [effect for effect in step.effects if not about or _names(effect, about)]
    return [head, *(f"{'':>35}-> {show_event(effect)}" for effect in told)]


def told_moments(run: Run) -> list[Moment]:
    """The moments that matter to the failure; to a run without one, all."""
    if run.failing is None:
        return run.moments
    cone = run.cone(run.failing)
    tasks = concerned(run)
    return [
        moment
        for moment in run.moments
        if moment.step.number in cone
        and (moment.kind in _SELDOM or moment.task in tasks)
        and (moment.kind is not MomentKind.ANSWERED or moment.step is run.failing)
    ]


def concerned(run: Run) -> set[str]:
    """The tasks that something happened to, what they called, the actors of those, and the last answer's; all of them
    when nothing did (a task that was taken back and sent elsewhere has come to no harm)."""
    if not any(moment.kind in _HARM for moment in run.moments):
        return set(run.recording.tasks)
    hit = {moment.task for moment in run.moments if moment.kind in _HITS}
    hit |= {moment.task for moment in run.moments if moment.kind in (MomentKind.RAISED, MomentKind.HEARD)}
    hit |= {one.task for one in run.executions if one.attempt > 1}
    hit |= {moment.task for moment in run.moments if run.failing is not None and moment.step is run.failing}
    hit.discard("")
    if not hit:
        return set(run.recording.tasks)
    for task, known in run.recording.tasks.items():  # in the order of their calls: parents first
        if known["parent"] in hit:
            hit.add(task)
    hit |= {task_of(known["actor"]) for task, known in run.recording.tasks.items() if task in hit and known["actor"]}
    return hit


def failure_line(recording: Recording) -> str:
    """What the run ended with, as the last line of a traceback has it; "" when it did not fail."""
    if recording.error is None:
        return ""
    name, text = recording.error["type"].removeprefix("builtins."), recording.error["text"].strip()
    return f"{name}: {text.splitlines()[0]}" if text else name


# ---- lines ----


def _title(run: Run) -> str:
    recording = run.recording
    program = recording.program
    seed = f", seed {recording.seed}" if recording.seed is not None else ""
    kinds = Counter(recording.processes.values())
    processes = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in kinds.items())
    milliseconds = recording.steps[-1].time * 1000 if recording.steps else 0.0
    size = f"{len(recording.steps)} steps, {milliseconds:.2f} ms"
    return f"{program['name']}() of {_short(program['file'])}{seed}: {processes}, {size}"


def _short(file: str) -> str:
    """From here, when it is below."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _told(run: Run) -> list[str]:
    moments = _at_most(MAX_LINES, told_moments(run))
    shown = {moment.step.number for moment in moments}
    cone = run.cone(run.failing) if run.failing is not None else set(run.steps)
    quiet = deque(one for one in run.moments if one.kind is MomentKind.STARTED and one.step.number in cone - shown)
    lines: list[str] = []
    last_of: dict[str, int] = {}  # task -> the last told step about it
    for moment in moments:
        passed = []
        while quiet and quiet[0].step.number < moment.step.number:
            passed.append(quiet.popleft())
        lines += _passed(run, passed)
        cause = last_of.get(moment.task) if moment.kind in _OF_THEIR_TASK else None
        cause = cause or _told_cause(run, moment.step, shown)
        lines.append(_line(run.who(moment.step.process), moment.step, cause, moment.words))
        last_of[moment.task] = moment.step.number
    return lines + _passed(run, list(quiet))


def _at_most(count: int, moments: list[Moment]) -> list[Moment]:
    """Of too many, first those that are seldom, then the last ones."""
    if len(moments) <= count:
        return moments

    def weight(place: int) -> tuple[bool, int]:
        moment = moments[place]
        return moment.kind in _WEIGHTY or moment.step.event.get("attempt", 1) > 1, place

    order = sorted(range(len(moments)), key=weight, reverse=True)
    return [moments[place] for place in sorted(order[:count])]


def _passed(run: Run, moments: list[Moment]) -> list[str]:
    if not moments:
        return []
    names = Counter(run.name(moment.task) for moment in moments)
    listed = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())
    return [f"{'':>23}...         meanwhile: {listed}"[:_WIDTH]]


def _told_cause(run: Run, step: Step, shown: set[int]) -> int | None:
    """The nearest step, back by causes, that is told."""
    return next((one.number for one in run.chain(step)[1:] if one.number in shown), None)


def _row(where: str, step: Step, cause: int | None, words: str) -> str:
    return f"{step.time * 1000:9.2f} {step.number:>5} {cause or '':>5}  {where:<11} {words.removeprefix(where + ' ')}"


def _line(where: str, step: Step, cause: int | None, words: str) -> str:
    """On a screen."""
    line = _row(where, step, cause, words)
    return line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..."


def show_step(step: Step) -> str:
    """One line: what happened, and what the process did."""
    did = ", ".join(show_event(effect) for effect in step.effects)
    return show_event(step.event) + (f" -> {did}" if did else "")


def show_event(what: dict[str, Any]) -> str:
    """An event or effect as one would say it: messages by their own name, without what is empty."""
    if what["kind"] == "Received":
        return f"from {what['peer']}: {show_event(what['message'])}"
    if what["kind"] == "Send":
        return f"to {what['peer']}: {show_event(what['message'])}"
    fields = [f"{name}={_show(value)}" for name, value in what.items() if name != "kind" and not _empty(value)]
    return f"{what['kind']}({', '.join(fields)})"


def _empty(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {}) or (isinstance(value, dict) and "hash" in value)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return show_event(value) if "kind" in value else "{...}"
    if isinstance(value, list):
        return f"[{', '.join(map(_show, value))}]"
    return str(value)


def _names(what: Any, about: Sequence[str]) -> bool:
    if isinstance(what, dict):
        return any(_names(value, about) for value in what.values())
    if isinstance(what, list):
        return any(_names(value, about) for value in what)
    return isinstance(what, str) and any(what == one or what.startswith(f"{one}.") for one in about)
