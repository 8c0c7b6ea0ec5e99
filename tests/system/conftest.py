"""`script`: a driver in a process of its own, with miniray and the tests' own modules on its path; and `session`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import miniray

TESTS = Path(__file__).parent.parent


class Script:
    """A running driver; its lines of output are read one by one."""

    def __init__(self, path: Path, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
        self.errors = path.with_suffix(".errors")
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-X", "faulthandler", str(path), *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
                start_new_session=True, preexec_fn=_as_in_a_terminal,
            )  # fmt: skip
        self.pid = self.process.pid

    def line(self) -> str:
        assert self.process.stdout is not None
        found = self.process.stdout.readline().strip()
        assert found, f"it has ended: {self.errors.read_text()}"
        return found

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = 110.0) -> str:
        """Its remaining output, when it has ended by itself with status 0 and nothing on stderr."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGABRT)  # faulthandler shows where
            self.process.communicate()
            raise AssertionError(f"not in {seconds:g} s:\n{self.errors.read_text()}") from None
        errors = self.errors.read_text()
        assert self.process.returncode == 0 and not errors, f"status {self.process.returncode}: {output}\n{errors}"
        return output


def _as_in_a_terminal() -> None:
    """Below `nohup`, or in the background of a shell's script, signals are ignored, and a driver leaves it at that."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def session() -> Iterator[None]:
    miniray.init(num_cpus=2)
    yield
    miniray.shutdown()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    started: list[Script] = []

    def start(source: str, *arguments: object) -> Script:
        path = tmp_path / f"driver{len(started)}.py"
        path.write_text(textwrap.dedent(source))
        started.append(Script(path, *map(str, arguments)))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()
