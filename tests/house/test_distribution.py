"""With `-n 2`, tests that start processes run one after another: two at once would see what the other has started."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.house.sources import ROOT

FILES = ("tests/transports/test_simulated.py", "tests/store/test_layout.py", "tests/core/test_ids.py")
ALONE = ("tests/transports/", "tests/store/")


def test_what_starts_processes_stays_in_one_process() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    line = [sys.executable, "-m", "pytest", "-v", "-n", "2", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    ran = re.findall(r"^\[(gw\d)\] .* PASSED (\S+)::", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and {file for _, file in ran} == set(FILES), done.stdout + done.stderr
    assert len({worker for worker, file in ran if file.startswith(ALONE)}) == 1
