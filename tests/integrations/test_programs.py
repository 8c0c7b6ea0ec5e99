"""Five well-known programs, of pools and of executors, as they are and with one import changed: the output is the same.

They are ordinary scripts in `programs/`, of which nothing but the import is touched.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
CHANGES = {
    "import multiprocessing\n": "import miniray.multiprocessing as multiprocessing\n",
    "from concurrent.futures import ProcessPoolExecutor\n": "from miniray import Executor as ProcessPoolExecutor\n",
}


def run(path: Path) -> str:
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", sorted(path.stem for path in PROGRAMS.glob("*.py")))
def test_one_import_is_changed(program: str, tmp_path: Path) -> None:
    path = PROGRAMS / f"{program}.py"
    source = path.read_text()
    standard, ours = next((here, there) for here, there in CHANGES.items() if here in source)
    changed = tmp_path / path.name
    changed.write_text(source.replace(standard, ours))
    expected = run(path)
    assert expected.strip()
    assert run(changed) == expected
