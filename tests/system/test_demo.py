"""What a stranger runs first: the demo, which ends with equal results; the command line; the README's lines of use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import miniray

DEMO_SECONDS = 90
FILES = 600  # so many that tables are too large for messages; the set-up command of README.md runs it with all
README = Path(__file__).parents[2] / "README.md"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "miniray", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False)


def test_demo_says_that_all_results_are_equal() -> None:
    done = command("demo", "--megabytes", "8", "--files", str(FILES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all results are equal; 1 recovery" in done.stdout
    assert "DIFFERS" not in done.stdout
    ways = [line for line in done.stdout.splitlines() if line.endswith("equal")]
    assert len(ways) == 7 and f"of the {FILES} files" in done.stdout, done.stdout
    assert not done.stderr, "no bar where nobody looks, and no warning"


def test_a_wrong_result_is_told_and_is_the_exit_status() -> None:
    code = (
        "from miniray.demo import Demo, Step, run\n"
        "Demo.with_a_death = lambda self, folder: self.steps.append(Step('words, wrong', right=False))\n"
        "raise SystemExit(run(2, 1, 100))"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "RESULTS DIFFER" in done.stdout and "DIFFERS" in done.stdout


def test_version() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout.strip()) == (0, miniray.__version__)


def test_without_a_command_help_is_shown() -> None:
    done = command()
    assert done.returncode == 2
    assert "usage: miniray" in done.stderr and "demo" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("dance",), ("demo", "--workers", "0"), ("demo", "--files", "0"), ("demo", "--megabytes", "much")],
)
def test_a_bad_command_is_one_clear_error(arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert arguments[-1] in done.stderr or "at least 1" in done.stderr


def test_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    line = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["10000000.0", *["[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]"] * 2]
