"""One import is changed, and nothing else: what some forty snippets say is the same.

Two scripts have them. Each runs under the standard library, under `miniray.multiprocessing`, and under `miniray.Pool`,
whose workers are forked only where they need to be; so it is not asked for what only a fork brings along.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = ("one_import_calls", "one_import_state")
NAMES = [
    name
    for script in SCRIPTS
    for name in re.findall(r"^@(?:snippet|setting)\ndef (\w+)", (HERE / f"{script}.py").read_text(), re.MULTILINE)
]
RAISES = ("a_pool_in_an_object_that_travels",)


def _run(way: str) -> dict[str, str]:
    told: dict[str, str] = {}
    for script in SCRIPTS:
        command = [sys.executable, str(HERE / f"{script}.py"), way]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0 and not done.stderr, done.stderr
        told |= json.loads(done.stdout)
    return {name: re.sub(r" at 0x\w+", "", text) for name, text in told.items()}


CELLS = """
import miniray, miniray.multiprocessing
pools = miniray.Pool(1), miniray.multiprocessing.Pool(1)
for pool in pools:
    def work(made): return "old", made.tell(), level
    class Made:
        def tell(self): return "one"
    level = 1
    print(pool.map(work, [Made()]))
    def work(made): return "new", made.tell(), level
    class Made:
        def tell(self): return "two"
    level = 2
    print(pool.map(work, [Made()]))
"""


def test_cells_are_run_again() -> None:
    """What a notebook does: functions, classes and globals are bound anew, and the pool is there already."""
    done = subprocess.run([sys.executable, "-c", CELLS], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["[('old', 'one', 1)]", "[('new', 'two', 2)]"] * 2, done.stderr


@pytest.fixture(scope="module")
def standard() -> dict[str, str]:
    told = _run("standard")
    assert sorted(told) == sorted(NAMES)
    assert all(text.startswith("returned ") != (name in RAISES) for name, text in told.items()), told
    return told


@pytest.mark.parametrize("way", ["module", "names"])
def test_one_import_is_enough(way: str, standard: dict[str, str]) -> None:
    ours = _run(way)
    assert len(standard) - len(ours) == (0 if way == "module" else 2)
    assert ours == {name: standard[name] for name in ours}
