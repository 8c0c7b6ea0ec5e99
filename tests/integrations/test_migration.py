"""README's migration table: each of its rows names tests, and these are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS_WITHOUT_A_TEST = ("the first call",)  # a figure; bench/ has it


def test_every_row_has_its_test() -> None:
    section = (ROOT / "README.md").read_text().split("### From `multiprocessing`")[1].split("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.endswith("| test |")]
    assert len(rows) > 20
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    known = {file.stem for file in files}
    for file in files:
        known.update(re.findall(r"^ *def (test_\w+)", file.read_text(), re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named or row.split("|")[1].strip() in ROWS_WITHOUT_A_TEST, row
        assert known.issuperset(named), row


BY_TEXT = """
import multiprocessing, miniray, miniray.multiprocessing
def named(): return 3
def run(name): return globals()[name]()
for made in multiprocessing.Pool, miniray.multiprocessing.Pool, miniray.Pool:
    with made(1) as pool:
        try:
            print(pool.map(run, ["named"]))
        except KeyError as error:
            print(repr(error))
"""


def test_names_that_are_looked_up_by_text() -> None:
    done = subprocess.run([sys.executable, "-c", BY_TEXT], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["[3]", "[3]", "KeyError('named')"], done.stderr
