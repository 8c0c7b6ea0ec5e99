"""A recorded run as a sequence diagram: one SVG element, which fetches nothing (`page.py` puts it on a page).

A lifeline for each process that users' code ran in, time downwards. What stands there: executions as bars, messages as
arrows from the moment of sending to that of receiving, deaths as crosses, the step after which the program failed as
a band. Rows are events, not seconds: virtual time is written at the left, and a long silence is a wider gap.

- Each row belongs to one step of one process, and an arrow's label stands in the row of its receiver: so no two labels
  can meet.
- A picture of a failure has only the messages of its causes, and those of tasks that something happened to once there
  would be more than `MAX_ARROWS`.
- Colours are names of a style sheet inside, with a light and a dark half; each mark has a `<title>` with its step.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import atan2, degrees

from miniray.core.record import Record
from miniray.testing.moments import Execution, Message, Moment, MomentKind, Run, ordinal
from miniray.testing.recording import Recording, Step
from miniray.testing.story import concerned, show_event

MAX_ARROWS = 60
_ROW, _HEAD, _TAIL, _LEFT = 24, 62, 38, 74
_SILENCE_MILLISECONDS, _SILENCE_ROWS = 5.0, 0.9
_LETTER = 6.3  # pixels of width at 11 px, a little more than the mean
_LEAST_GAP, _MOST_GAP = 116, 230
_BAR = 12
_STEEP, _LONG = 0.9, 6 * _ROW  # an arrow of more height to its width, and of more height, is bent
_NEAR = 4 * _ROW  # so near below its arrow a bar needs no name
_TITLE = 300  # letters
_LEAST_WIDTH = 620  # of the legend

STYLE = """
.miniray-sequence { --paper:#ffffff; --ink:#1f2430; --soft:#6b7280; --line:#cbd2dc; --head:#eef1f6; --task:#2563eb;
 --done:#15803d; --death:#c81e3a; --routine:#9aa3b2; --bar:#dbe7ff; --again:#ffe2b8; --again-line:#b45309;
 --fail:#ffe4e8; font:11px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif; background:var(--paper) }
@media (prefers-color-scheme: dark) { .miniray-sequence { --paper:#14171d;
 --ink:#e6e9ef; --soft:#98a2b3; --line:#3a4250;
 --head:#222834; --task:#7aa8ff; --done:#5fd38a; --death:#ff6b81; --routine:#667085; --bar:#22365f; --again:#5a3d12;
 --again-line:#f5a742; --fail:#4a1a24 } }
.miniray-sequence .paper { fill:var(--paper) } .miniray-sequence text { fill:var(--ink) }
.miniray-sequence .time, .miniray-sequence .silence { fill:var(--soft); font-size:10px }
.miniray-sequence .silence { font-style:italic }
.miniray-sequence .head { fill:var(--head); stroke:var(--line) }
.miniray-sequence .name { font-weight:600; font-size:12px } .miniray-sequence .kind { fill:var(--soft); font-size:10px }
.miniray-sequence .life { stroke:var(--line); stroke-width:1.5 } .miniray-sequence .unborn { stroke-dasharray:2 4 }
.miniray-sequence .bar { fill:var(--bar); stroke:var(--task) }
.miniray-sequence .bar.again { fill:var(--again); stroke:var(--again-line) }
.miniray-sequence .arrow { fill:none; stroke-width:1.5 }
.miniray-sequence .label { paint-order:stroke; stroke:var(--paper);
 stroke-width:4px; stroke-linejoin:round }
.miniray-sequence .task { stroke:var(--task) } .miniray-sequence .done { stroke:var(--done) }
.miniray-sequence .death { stroke:var(--death) } .miniray-sequence .routine { stroke:var(--routine); stroke-width:0.8 }
.miniray-sequence polygon.task { fill:var(--task) } .miniray-sequence polygon.done { fill:var(--done) }
.miniray-sequence polygon.death { fill:var(--death) } .miniray-sequence polygon.routine { fill:var(--routine) }
.miniray-sequence .lost { stroke-dasharray:5 3 }
.miniray-sequence text.note { font-weight:600 }
.miniray-sequence text.note.death { fill:var(--death); stroke:var(--paper) }
.miniray-sequence text.note.again { fill:var(--again-line) }
.miniray-sequence text.label.routine { fill:var(--soft); font-size:9.5px; stroke:var(--paper); stroke-width:3px }
.miniray-sequence .cross { stroke:var(--death); stroke-width:3; stroke-linecap:round }
.miniray-sequence .fail { fill:var(--fail) } .miniray-sequence text.failure { fill:var(--death); font-weight:600 }
"""

_NOTED = (MomentKind.PAUSED, MomentKind.CUT)
_NOTES = {
    "Paused": "stands still {seconds:g} s",
    "LeftBehind": "{how}, for ever",
    "LinkSilent": "sends into nothing for {seconds:g} s",
    "LinkBroke": "its link to {peer} breaks",
}
_ARROW_CLASS = {"TasksDone": "done", "ProcessDied": "death", "RefGone": "death", "LeaseRefused": "death"}


class _Picture(Record, frozen=True):
    """What is drawn, before anybody knows where."""

    messages: list[Message]
    executions: list[Execution]
    deaths: list[Moment]
    notes: list[Moment]  # pauses, and links that break
    processes: list[str]
    steps: list[Step]


def to_svg(recording: Recording, *, everything: bool = False) -> str:
    """The diagram as one SVG element; with `everything`, routine messages, too."""
    return draw(Run(recording), everything)


# ---- what is drawn ----


def _picture(run: Run, everything: bool) -> _Picture:
    cone = run.cone(run.failing) if run.failing is not None and not everything else set(run.steps)
    messages = [one for one in run.messages if everything or (one.label and one.sent.number in cone)]
    executions = [one for one in run.executions if one.started.number in cone]
    if not everything:
        if len(messages) > MAX_ARROWS and run.failing is not None:
            tasks = concerned(run)
            messages = [one for one in messages if tasks.intersection(one.tasks)]
            executions = [one for one in executions if one.task in tasks]
        heard = {one.step.number for one in run.moments if one.kind is MomentKind.HEARD}
        messages = [one for one in messages if _says_something(one, heard)][-MAX_ARROWS:]
    moments = [one for one in run.moments if one.step.number in cone]
    busy = {one.process for one in executions} | {end for one in messages for end in (one.source, one.target)}
    moments = [one for one in moments if one.step.process in busy or one.step.event["kind"] == "LeftBehind"]
    deaths = [one for one in moments if one.kind is MomentKind.DIED]
    notes = [one for one in moments if one.kind in _NOTED]
    steps = {one.started.number: one.started for one in executions}
    steps |= {one.ended.number: one.ended for one in executions if one.ended is not None}
    steps |= {one.step.number: one.step for one in deaths + notes}
    steps |= {one.sent.number: one.sent for one in messages}
    steps |= {one.received.number: one.received for one in messages if one.received is not None}
    if run.failing is not None:
        steps[run.failing.number] = run.failing
    ordered = [steps[number] for number in sorted(steps)]
    return _Picture(messages, executions, deaths, notes, _columns(run, ordered, messages), ordered)


def _says_something(message: Message, heard: set[int]) -> bool:
    """News of a death does to whom it matters; what nobody received, if it was a result or a task."""
    if message.kind == "ProcessDied":
        return message.received is not None and message.received.number in heard
    return True


def _columns(run: Run, steps: list[Step], messages: list[Message]) -> list[str]:
    """The driver, then workers as they come in, then the node, to which few arrows go. Whom nothing reaches has one."""
    ends = [step.event["peer"] for step in steps if step.event["kind"] == "LinkBroke"]
    ends += [message.target for message in messages]
    seen = dict.fromkeys([*(step.process for step in steps), *ends])
    rank = {"driver": 0, "worker": 1}
    return sorted(seen, key=lambda process: rank.get(run.recording.processes.get(process, "worker"), 2))


# ---- where it is drawn ----


class _Layout:
    """Columns and rows in pixels."""

    def __init__(self, run: Run, picture: _Picture) -> None:
        longest = max([len(_label(one)) for one in picture.messages], default=0)
        self.gap = int(min(max(longest * _LETTER + 34, _LEAST_GAP), _MOST_GAP))
        self.x = {process: _LEFT + self.gap // 2 + place * self.gap for place, process in enumerate(picture.processes)}
        self.y: dict[int, float] = {}
        self.rows: list[tuple[float, Step]] = []
        self.silences: list[tuple[float, float]] = []  # y, milliseconds
        y = float(_HEAD + _ROW)
        last: Step | None = None
        for step in picture.steps:
            if last is not None:
                passed = (step.time - last.time) * 1000
                if not self._shares_row(run, step, last):
                    y += _ROW
                if passed >= _SILENCE_MILLISECONDS:
                    self.silences.append((y - _ROW / 2 + _ROW * _SILENCE_ROWS / 2, passed))
                    y += _ROW * _SILENCE_ROWS
            if last is None or y != self.rows[-1][0]:
                self.rows.append((y, step))
            self.y[step.number] = y
            last = step
        self.bottom = y + _ROW
        self.width = max(_LEFT + self.gap * len(picture.processes) + 24, _LEAST_WIDTH)
        self.height = self.bottom + _TAIL

    def _shares_row(self, run: Run, step: Step, last: Step) -> bool:
        """What a process does at once because of the step before is the same row to a reader."""
        if step.process != last.process or step.time - last.time > 0.001:
            return False
        return last.number in [one.number for one in run.chain(step)[1:4]] and step.event["kind"] in (
            "TaskStarted",
            "Received",
        )


def _label(message: Message) -> str:
    return message.label or message.kind


def draw(run: Run, everything: bool) -> str:
    picture = _picture(run, everything)
    layout = _Layout(run, picture)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="miniray-sequence" width="{layout.width}" '
        f'height="{layout.height:.0f}" viewBox="0 0 {layout.width} {layout.height:.0f}" role="img">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{layout.width}" height="{layout.height:.0f}"/>',
        *_failure_band(run, layout),
        *_times(layout),
        *_lifelines(run, picture, layout),
        *(part for one in picture.executions for part in _bar(run, one, layout)),
        *(part for one in picture.messages for part in _arrow(one, layout)),
        *(part for one in picture.executions for part in _bar_note(run, one, picture, layout)),
        *(part for one in picture.deaths for part in _cross(one, layout)),
        *(part for one in picture.notes for part in _note(one, layout)),
        *_failure(run, layout),
        *_legend(layout),
        "</svg>",
    ]
    return "\n".join(parts)


def _times(layout: _Layout) -> Iterator[str]:
    shown = ""
    for y, step in layout.rows:
        text = f"{step.time * 1000:.2f} ms"
        if text != shown:
            yield f'<text class="time" x="{_LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        shown = text
    for y, passed in layout.silences:
        right = layout.width - 12
        yield f'<line class="life unborn" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="silence" x="{_LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">+{passed:.0f} ms</text>'


def _lifelines(run: Run, picture: _Picture, layout: _Layout) -> Iterator[str]:
    ends = {one.step.process: layout.y[one.step.number] for one in picture.deaths}
    for process in picture.processes:
        x, end = layout.x[process], ends.get(process, layout.bottom)
        mine = [layout.y[step.number] for step in picture.steps if step.process == process]
        born = min(mine) - _ROW / 2 if mine and run.recording.processes.get(process, "worker") == "worker" else _HEAD
        yield f'<line class="life unborn" x1="{x}" x2="{x}" y1="{_HEAD}" y2="{born:.1f}"/>'
        yield f'<line class="life" x1="{x}" x2="{x}" y1="{born:.1f}" y2="{end:.1f}"/>'
        yield f'<rect class="head" x="{x - 46}" y="14" width="92" height="40" rx="7"/>'
        yield f'<text class="name" x="{x}" y="31" text-anchor="middle">{process}</text>'
        kind = run.recording.processes.get(process, "worker")
        yield f'<text class="kind" x="{x}" y="45" text-anchor="middle">{_inhabitant(run, process) or kind}</text>'


def _inhabitant(run: Run, process: str) -> str:
    """Of a worker that an actor lives in: its class."""
    for one in run.executions:
        known = run.recording.tasks.get(one.task)
        if one.process == process and known and known["actor"]:
            return escape(f"actor {run.name(known['actor'])}")
    return ""


def _bar(run: Run, one: Execution, layout: _Layout) -> Iterator[str]:
    x, top = layout.x[one.process] - _BAR / 2, layout.y[one.started.number]
    bottom = layout.y[one.ended.number] if one.ended is not None and one.ended.number in layout.y else layout.bottom
    height = max(bottom - top, 10)
    title = f"{run.named(one.task)}, attempt {one.attempt}, steps {one.started.number} to "
    title += str(one.ended.number) if one.ended else "the end"
    yield (
        f'<rect class="bar{" again" if one.time > 1 else ""}" x="{x}" y="{top:.1f}" width="{_BAR}" '
        f'height="{height:.1f}" rx="2"><title>{escape(title)}</title></rect>'
    )


def _bar_note(run: Run, one: Execution, picture: _Picture, layout: _Layout) -> Iterator[str]:
    """A bar is named where no arrow shortly above does it; that it runs again is always said."""
    y = layout.y[one.started.number]
    arrows = [
        message
        for message in picture.messages
        if message.received is not None and message.target == one.process and one.task in message.tasks
        if 0 <= y - layout.y[message.received.number] <= _NEAR
    ]
    if arrows and one.time == 1:
        return
    words = f"{run.name(one.task)}, {ordinal(one.time)[2:]} time" if one.time > 1 else run.name(one.task)
    from_right = bool(arrows) and layout.x[arrows[0].source] > layout.x[one.process]
    x = layout.x[one.process] + (-10 if from_right else 10)
    anchor = "end" if from_right else "start"
    kind = "note again" if one.time > 1 else ""
    yield f'<text class="label {kind}" x="{x}" y="{y + 8:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _arrow(message: Message, layout: _Layout) -> Iterator[str]:
    kind = _ARROW_CLASS.get(message.kind, "task") if message.label else "routine"
    kind = "death" if message.label.endswith(" failed") else kind
    x1, y1 = float(layout.x[message.source]), layout.y[message.sent.number]
    x2 = float(layout.x[message.target])
    side = 1 if x2 > x1 else -1
    x1, x2 = x1 + side * _BAR // 2, x2 - side * _BAR // 2
    sent = f"{message.kind}, sent in step {message.sent.number}"
    label = f'class="label {kind if kind == "routine" else ""}"'
    words = escape(_label(message))
    if message.received is None:
        yield f"<g><title>{escape(sent)}, never received</title>"
        x2, anchor = x1 + side * (len(words) * _LETTER + 14), "start" if side > 0 else "end"
        yield f'<path class="arrow lost {kind}" d="M{x1:.1f} {y1:.1f} H{x2:.1f}"/>'
        yield f'<path class="arrow death" d="M{x2 - 4:.1f} {y1 - 4:.1f} l8 8 m0 -8 l-8 8"/>'
        yield f'<text {label} x="{x1 + side * 6:.1f}" y="{y1 - 5:.1f}" text-anchor="{anchor}">{words}</text></g>'
        return
    y2 = layout.y[message.received.number]
    yield f"<g><title>{escape(f'{sent}, received in step {message.received.number}'[:_TITLE])}: "
    yield f"{escape(show_event(message.received.event)[:_TITLE])}</title>"
    if y2 - y1 > max(
        _STEEP * abs(x2 - x1), _LONG
    ):  # long under way: it waits beside its receiver, for a diagonal would cross all
        wait = x2 - side * 12
        yield f'<path class="arrow {kind}" d="M{x1:.1f} {y1:.1f} L{wait:.1f} {y1 + _ROW * 0.8:.1f}"/>'
        yield f'<path class="arrow lost {kind}" d="M{wait:.1f} {y1 + _ROW * 0.8:.1f} V{y2 - 12:.1f}"/>'
        x1, y1 = wait, y2 - 12
    yield f'<line class="arrow {kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
    yield f'<polygon class="{kind}" points="{_head(x1, y1, x2, y2)}"/>'
    angle = degrees(atan2(side * (y2 - y1), abs(x2 - x1))) if abs(x2 - x1) > 12 else 0.0
    x, y, anchor = x2 - side * (12 if angle else 20), y2 - 5, "end" if side > 0 else "start"
    turn = f' transform="rotate({angle:.1f} {x2:.1f} {y2:.1f})"' if angle else ""
    yield f'<text {label} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{words}</text></g>'


def _head(x1: float, y1: float, x2: float, y2: float) -> str:
    """The three corners of an arrow's head."""
    length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1.0)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    bx, by = x2 - 8 * dx, y2 - 8 * dy
    return f"{x2:.1f},{y2:.1f} {bx - 4 * dy:.1f},{by + 4 * dx:.1f} {bx + 4 * dy:.1f},{by - 4 * dx:.1f}"


def _cross(moment: Moment, layout: _Layout) -> Iterator[str]:
    x, y = layout.x[moment.step.process], layout.y[moment.step.number]
    yield f"<g><title>{escape(f'step {moment.step.number}: {moment.words}')}</title>"
    yield f'<path class="cross" d="M{x - 7} {y - 7:.1f} l14 14 m0 -14 l-14 14"/>'
    told = {"fault": "killed", "killed": "killed by the node", "itself": "ended itself"}
    words = told.get(moment.step.event["why"], "killed") + ("; its result is lost" if "is lost" in moment.words else "")
    yield f'<text class="label note death" x="{x + 13}" y="{y + 4:.1f}">{words}</text></g>'


def _note(moment: Moment, layout: _Layout) -> Iterator[str]:
    x, y = layout.x[moment.step.process], layout.y[moment.step.number]
    event = moment.step.event
    if event["kind"] != "LinkBroke" or event["peer"] not in layout.x:
        yield f'<text class="label" x="{x + 10}" y="{y + 4:.1f}">{_NOTES[event["kind"]].format(**event)}</text>'
        return
    end = layout.x[event["peer"]]
    middle = (x + end) / 2
    yield f"<g><title>{escape(f'step {moment.step.number}: {moment.words}')}</title>"
    yield f'<line class="arrow lost death" x1="{x}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'
    yield f'<path class="cross" d="M{middle - 5} {y - 5:.1f} l10 10 m0 -10 l-10 10"/>'
    yield f'<text class="label note death" x="{middle + 9}" y="{y - 4:.1f}">the link breaks</text></g>'


def _failure_band(run: Run, layout: _Layout) -> Iterator[str]:
    if run.failing is not None:
        y = layout.y[run.failing.number]
        yield f'<rect class="fail" x="0" y="{y - 17:.1f}" width="{layout.width}" height="{_ROW + 22}"/>'


def _failure(run: Run, layout: _Layout) -> Iterator[str]:
    error = run.recording.error
    if run.failing is None or error is None:
        return
    x, y = layout.x[run.failing.process], layout.y[run.failing.number]
    text = f"{error['type'].split('.')[-1]}: {(error['text'].strip().splitlines() or [''])[0]}"
    room = int((layout.width - x - 20) / _LETTER)
    text = text if len(text) <= room else text[: room - 3] + "..."
    yield f'<circle cx="{x}" cy="{y:.1f}" r="5" class="cross" fill="none"/>'
    yield f'<text class="failure" x="{x + 12}" y="{y + 19:.1f}">{escape(text)}</text>'


def _legend(layout: _Layout) -> Iterator[str]:
    x, y = _LEFT, layout.height - 14
    for kind, words in (("task", "a task or call"), ("done", "its result"), ("death", "a failure, or news of a death")):
        yield f'<line class="arrow {kind}" x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}"/>'
        yield f'<text class="kind" x="{x + 28}" y="{y + 3.5}">{words}</text>'
        x += 50 + int(len(words) * _LETTER)
    for kind, words in (("bar", "runs"), ("bar again", "runs again")):
        yield f'<rect class="{kind}" x="{x + 6}" y="{y - 6}" width="10" height="12" rx="2"/>'
        yield f'<text class="kind" x="{x + 22}" y="{y + 3.5}">{words}</text>'
        x += 40 + int(len(words) * _LETTER)
