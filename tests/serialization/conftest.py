"""`drive`: runs a driver script whose workers are other processes."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def drive(tmp_path):
    def run(source: str) -> None:
        script = tmp_path / "driver.py"
        prelude = (
            "from two_processes import Worker, ForkedWorker, FunctionExporter\n"
            "exporter = FunctionExporter()\nworker = Worker(exporter)\n"
        )
        script.write_text(prelude + textwrap.dedent(source) + "\nworker.close()\nprint('ran to its end')\n")
        done = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", str(script)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)])},
            capture_output=True, text=True, timeout=60, cwd=tmp_path,
        )
        assert done.returncode == 0 and "ran to its end" in done.stdout, done.stdout + done.stderr

    return run
