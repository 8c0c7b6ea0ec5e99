"""`miniray replay --run`: a recorded failure is run again from its file alone, and is the same run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from miniray.cli import main
from miniray.core.record import replace
from miniray.testing import SimulationFailed, explore
from miniray.testing.recording import Recording, RecordingError, read
from miniray.testing.rerun import compare, rerun
from tests.sim import double_count


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failures")
    with pytest.raises(SimulationFailed, match="counter says"):
        explore(double_count.program, seeds=300, faults="crashes", num_cpus=3, folder=folder, shrink_seconds=0.0)()
    (found,) = folder.glob("*.json")
    return found


@pytest.fixture(scope="module")
def recording(file: Path) -> Recording:
    return read(file)


def test_the_same_run(recording: Recording) -> None:
    again = rerun(recording)
    assert again.trace_hash == recording.trace_hash
    assert isinstance(again.error, AssertionError) and "counter says" in str(again.error)
    assert compare(recording, again).startswith("run again: the same run")


def test_another_run_is_told(recording: Recording) -> None:
    other = replace(recording, choices=recording.choices[:5])
    assert compare(other, rerun(other)).startswith("run again: ANOTHER run, which ended with ")


def test_from_its_file_alone(tmp_path: Path, recording: Recording) -> None:
    """Its module is none that an import finds."""
    source = Path(double_count.__file__).read_text()
    alone = tmp_path / "lonely_program.py"
    alone.write_text(source)
    program = {"file": str(alone), "module": "lonely_program", "name": "program"}
    again = rerun(replace(recording, program=program))
    assert again.statistics.tasks > 0 and "counter says" in str(again.error)


def test_the_seed_of_a_test_with_arguments_is_told(recording: Recording) -> None:
    program = {**recording.program, "name": "recorded"}
    with pytest.raises(RecordingError, match=r"first_seed=0, seeds=1"):
        rerun(replace(recording, program=program, seed=0))


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ({"name": "test_x.<locals>.program"}, "not at the top of its module"),
        ({"name": "recorded"}, "takes arguments"),
        ({"file": "gone.py", "module": "gone_module"}, "is not there any more"),
    ],
)
def test_a_program_that_cannot_be_run_again(recording: Recording, program: dict[str, str], why: str) -> None:
    with pytest.raises(RecordingError, match=why):
        rerun(replace(recording, program={**recording.program, **program}))


SCRIPT = """
import miniray
from miniray.testing import explore

class Box:
    pass

@miniray.remote
def boxed():
    return Box()

@explore(faults="none", shrink_seconds=0.0)
def test_box():
    assert type(miniray.get(boxed.remote())) is not Box
"""
CALLS = {
    "guarded": 'if __name__ == "__main__":\n    test_box()\n',
    "bare": "try:\n    test_box()\nfinally:\n    raise SystemExit(3)\n",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_script_is_loaded_without_what_it_does(tmp_path: Path, call: str) -> None:
    script = tmp_path / "boxes.py"
    script.write_text(SCRIPT + CALLS[call])
    assert subprocess.run([sys.executable, str(script)], cwd=tmp_path, stderr=subprocess.DEVNULL).returncode
    (file,) = tmp_path.glob(".miniray-failures/*.json")
    told = subprocess.run(
        [sys.executable, "-m", "miniray", "replay", "--run", str(file)], capture_output=True, text=True, check=False
    )
    assert "run again: the same run" in told.stdout, told.stdout + told.stderr


def test_a_notebook_says_how_to_run_it_again(recording: Recording) -> None:
    program = {**recording.program, "file": "/tmp/ipykernel_1/2.py", "module": "__main__"}
    with pytest.raises(RecordingError, match=rf"a notebook .* again there, .*first_seed={recording.seed}, seeds=1"):
        rerun(replace(recording, program=program))


def test_the_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(file), "--run"]) == 0
    assert "run again: the same run" in capsys.readouterr().out.splitlines()[-1]
