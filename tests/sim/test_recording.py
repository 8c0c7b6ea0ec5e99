"""A recorded run says who did what and why, and is the run that it would have been unrecorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import miniray
from miniray.testing.choices import RecordedChoices, SeededChoices
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.faults import Crash, CrashMode, Faults
from miniray.testing.recorder import Recorder
from miniray.testing.recording import FORMAT, Recording, RecordingError, Step, fault_of, plain, read, write

CRASH = Faults((Crash(9, CrashMode.AT_STEP),), one_long_in=20)


@miniray.remote
def inner(number: int) -> int:
    return number + 1


@miniray.remote(max_retries=-1)
def outer(number: int) -> Any:
    return miniray.get(inner.remote(number))


def program() -> None:
    assert miniray.get(outer.remote(1)) == 2


def run(faults: Faults, recorder: Recorder | None, seed: int = 3) -> str:
    cluster = SimulatedCluster(SeededChoices(seed), faults=faults, recorder=recorder)
    try:
        cluster.run(program)
        cluster.settle()
        return cluster.trace_hash
    finally:
        cluster.close()


def recorded(faults: Faults) -> Recorder:
    recorder = Recorder()
    run(faults, recorder)
    return recorder


def test_to_record_a_run_changes_nothing() -> None:
    assert run(CRASH, Recorder()) == run(CRASH, None)


def test_each_process_has_its_kind() -> None:
    recorder = Recorder()
    cluster = SimulatedCluster(SeededChoices(3), nodes=2, recorder=recorder)
    try:
        cluster.run(program)
    finally:
        cluster.close()
    kinds = {"p0": "node", "n1.p0": "node", "control.p0": "control", "p1": "driver", "p2": "worker"}
    assert {name: recorder.processes[name] for name in kinds} == kinds


def test_every_task_goes_back_to_its_parent_by_its_causes() -> None:
    recorder = recorded(Faults())
    steps = {step.number: step for step in recorder.steps}
    begins = [step for step in recorder.steps if step.event["kind"] == "TaskStarted"]
    assert [recorder.tasks[step.event["task"]]["name"] for step in begins] == ["outer", "inner"]
    step: Step | None = begins[-1]
    way = []
    while step is not None:
        way.append(step.event["kind"])
        step = steps[step.cause] if step.cause else None
    assert way[:5] == ["TaskStarted", "Received", "Received", "Received", "Submitted"], way
    assert way.count("TaskStarted") == 2, "its parent, too, is among its causes"


def test_a_crash_is_a_step_and_the_cause_of_what_others_hear() -> None:
    recorder = recorded(CRASH)
    crash = next(step for step in recorder.steps if step.event["kind"] == "Crashed")
    assert crash.event["why"] == "fault" and recorder.processes[crash.process] == "worker"
    heard = [step for step in recorder.steps if step.cause == crash.number]
    assert {step.event["kind"] for step in heard} >= {"ProcessEnded"}, heard


def test_what_is_written_is_read(tmp_path: Path) -> None:
    recorder = recorded(CRASH)
    recording = Recording(
        program={"file": __file__, "module": __name__, "name": "program"},
        cluster={"num_cpus": 2},
        faults=plain(CRASH),
        seed=3,
        choices=[1, 2],
        error=None,
        trace_hash="",
        matters=["nothing"],
        processes=recorder.processes,
        tasks=recorder.tasks,
        steps=recorder.steps,
    )
    file = tmp_path / "new" / "run.json"
    write(recording, file)
    assert read(file) == recording
    assert fault_of(read(file).faults) == CRASH


@pytest.mark.parametrize("text", ["", "[]", "{}", f'{{"format": "{FORMAT}"}}'])
def test_another_file_is_refused_with_its_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(RecordingError, match="other.json"):
        read(file)
    with pytest.raises(RecordingError, match="missing.json"):
        read(tmp_path / "missing.json")


def test_payloads_are_named_by_length_and_hash() -> None:
    recorder = recorded(Faults())
    pushed = [effect for step in recorder.steps for effect in step.effects if effect["kind"] == "Send"]
    assert any(message["message"]["kind"] == "PushTasks" for message in pushed)
    for task in (task for one in pushed for task in one["message"].get("tasks", ()) if isinstance(task, dict)):
        assert set(task["payload"]) == {"bytes", "hash"}


def test_recorded_choices_are_the_run() -> None:
    choices = SeededChoices(5)
    first = SimulatedCluster(choices, faults=CRASH)
    first.run(program)
    first.settle()
    first.close()
    again = SimulatedCluster(RecordedChoices(choices.taken), faults=CRASH)
    again.run(program)
    again.settle()
    again.close()
    assert again.trace_hash == first.trace_hash
