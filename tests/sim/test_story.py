"""A recorded failure is told on a screen, by its causes, and drawn; `miniray replay` does both."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import pytest

from miniray.cli import main
from miniray.core.record import replace
from miniray.testing.faults import Faults
from miniray.testing.moments import MomentKind, Run, task_of
from miniray.testing.page import to_html
from miniray.testing.recording import Recording, write
from miniray.testing.sequence import MAX_ARROWS, to_svg
from miniray.testing.story import story, tell
from tests.sim.double_count import failing as find_failing
from tests.sim.double_count import recorded

SCREEN_LINES, SCREEN_COLUMNS = 55, 120

failing = cache(find_failing)


def test_the_story_of_a_failure_fits_on_a_screen_and_names_its_two_steps() -> None:
    text = tell(failing())
    lines = text.splitlines()
    assert len(lines) <= SCREEN_LINES and max(map(len, lines)) <= SCREEN_COLUMNS, text
    death = next(place for place, line in enumerate(lines) if "is killed by a fault" in line)
    again = next(place for place, line in enumerate(lines) if "record" in line and "starts a second time" in line)
    assert 0 < death < again, text
    assert "Counter.add" in text and "the counter says" in text
    assert lines[again].split()[3:5] == ["worker", again_process(lines[again])]


def again_process(line: str) -> str:
    return next(word for word in line.split() if word.startswith("p"))


def test_of_a_long_story_what_is_left_out_is_what_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miniray.testing.story.MAX_LINES", 8)
    text = tell(failing())
    assert len(text.splitlines()) < 30, text
    for told in ("is killed by a fault", "hears of the death", "starts a second time", "and the program fails"):
        assert text.count(told) == 1, text


def test_each_told_step_but_the_first_and_a_fault_has_a_cause_that_is_told_above_it() -> None:
    told: list[str] = []
    for line in tell(failing()).splitlines():
        words = line.split()
        if len(words) < 5 or not words[0].replace(".", "").isdigit() or not words[1].isdigit():
            continue
        if words[2].isdigit():
            assert words[2] in told, line
        else:
            assert "begins" in line or "killed" in line or "fails" in line, line
        told.append(words[1])
    assert len(told) > 10


def test_every_message_that_arrived_is_matched_with_its_sender() -> None:
    run = Run(failing())
    received = [step for step in run.recording.steps if step.event["kind"] == "Received"]
    from_others = [step.number for step in received if step.event["peer"] != step.process]
    matched = {one.received.number: one for one in run.messages if one.received is not None}
    assert sorted(matched) == from_others
    for one in matched.values():
        assert one.received is not None and one.received.event["message"]["kind"] == one.kind
        assert one.sent.time <= one.received.time and one.sent.process == one.received.event["peer"]


def test_a_run_without_faults_is_told_whole() -> None:
    run = Run(recorded(1, Faults()))
    assert run.failing is None
    kinds = [moment.kind for moment in run.moments]
    assert kinds.count(MomentKind.STARTED) == kinds.count(MomentKind.ENDED) == 8, "an actor, three tasks, four calls"
    assert "starts a second time" not in tell(run.recording)


def test_the_story_of_one_task_has_only_steps_that_name_it() -> None:
    recording = failing()
    task = next(one.task for one in Run(recording).executions if one.attempt > 1)
    text = story(recording, task)
    assert text.startswith(f"record ({task}), called at ") and "TaskStarted(task=" in text
    steps = [line for line in text.splitlines()[1:] if not line.lstrip().startswith(("(", "->"))]
    assert steps and all(int(line.split()[1]) for line in steps)
    with pytest.raises(KeyError, match="no step of this run names p9.t9"):
        story(recording, "p9.t9")


@pytest.mark.parametrize("everything", [False, True])
def test_the_picture_is_well_formed_and_whole(everything: bool) -> None:
    recording = failing()
    svg = to_svg(recording, everything=everything)
    root = ElementTree.fromstring(svg)
    named = "{http://www.w3.org/2000/svg}"
    classes = [part.get("class", "") for part in root.iter()]
    assert classes.count("cross") >= 1 and "bar again" in classes and "failure" in classes
    arrows = [part for part in root.iter(f"{named}polygon")]
    arrived = len({id(one) for one in Run(recording).messages if one.received is not None})
    assert len(arrows) == arrived if everything else 10 < len(arrows) <= MAX_ARROWS
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for part in root.iter(f"{named}text"):
        assert 0 <= float(part.get("x", "")) <= width and 0 <= float(part.get("y", "")) <= height


def test_labels_of_a_picture_do_not_meet() -> None:
    """Each stands in the row of its receiver, beside its lifeline."""
    root = ElementTree.fromstring(to_svg(failing()))
    places = [
        (float(part.get("x", "")), float(part.get("y", "")), part.get("text-anchor"))
        for part in root.iter("{http://www.w3.org/2000/svg}text")
        if "label" in part.get("class", "")
    ]
    assert len(set(places)) == len(places)


def test_the_page_fetches_nothing() -> None:
    page = to_html(failing())
    assert "http" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "<link" not in page and "src=" not in page and "@import" not in page and "url(" not in page


@pytest.mark.parametrize(
    ("object_id", "task"),
    [("p1.t7.0", "p1.t7"), ("p1.t7", "p1.t7"), ("n2.p3.t7.0", "n2.p3.t7"), ("p3.p1.4", "p3.p1.4"), ("p2", "p2")],
)
def test_the_task_of_an_object_on_any_node(object_id: str, task: str) -> None:
    assert task_of(object_id) == task


def test_text_of_users_is_escaped() -> None:
    recording = replace(failing(), error={"type": "builtins.ValueError", "text": "<b>&</b>", "traceback": ""})
    assert "<b>" not in to_html(recording) and "&lt;b&gt;" in to_html(recording)


# ---- the command ----


def saved(recording: Recording, folder: Path) -> Path:
    file = folder / "failure.json"
    write(recording, file)
    return file


def test_replay_tells_the_story_and_names_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(failing(), tmp_path)
    assert main(["replay", str(file)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(tell(failing())) and told.splitlines()[-1] == f"picture: {tmp_path / 'failure.html'}"
    assert (tmp_path / "failure.html").read_text().startswith("<!DOCTYPE html>")


def test_replay_draws_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(failing(), tmp_path)
    assert main(["replay", str(file), "--svg", str(tmp_path / "a.svg"), "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > len(failing().steps)
    assert ElementTree.fromstring((tmp_path / "a.svg").read_text()).tag.endswith("svg")
    assert not (tmp_path / "failure.html").exists()
    assert main(["replay", str(file), "--html", str(tmp_path / "no" / "a.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["--all", "--about"])  # more than a pipe's buffer, and less
def test_who_reads_only_the_beginning_sees_no_error(how: str, tmp_path: Path) -> None:
    closed, ours = os.pipe()
    os.close(closed)
    file = saved(failing(), tmp_path)
    command = [sys.executable, "-m", "miniray", "replay", str(file), how, *(["p1.t1"] if how == "--about" else [])]
    done = subprocess.run(command, stdout=ours, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("text", ["", "{}", '{"format": "something else"}'])
def test_a_wrong_file_is_one_clear_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(text)
    assert main(["replay", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "wrong.json" in captured.err
    assert main(["replay", str(saved(failing(), tmp_path)), "--about", "p9.t9"]) == 2
    assert "no step of this run names p9.t9" in capsys.readouterr().err
