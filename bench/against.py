"""`python -m bench --against COMMIT [ROW ...]`: the same rows of an old commit and of this tree, interleaved.

Both are copied to a temporary folder and compiled there, so that neither meets caches, and measured with the rows of
*this* tree. Each block runs each row once with the one and once with the other, in processes of their own, in an order
that turns. What counts is the median of the blocks' ratios; a row that has lost more than ALLOWED_LOSS is named.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import MINIRAY, ROOT, Goal, Row

ALLOWED_LOSS = 0.10
RUN_TIMEOUT_SECONDS = 900
FOLDERS = {"miniray": "miniray", "transports": "miniray_transports"}  # in the repository; under its import name
OLD = "old"


class ComparisonError(Exception):
    """The old commit cannot be had, or a row cannot be run; the message says why."""


def compare(commit: str, rows: list[str], blocks: int) -> list[Row]:
    """One `Row` for each that both can run: `samples` of the old commit and of this tree, block by block.

    Raises:
        ComparisonError: no such commit, or a run that failed.
    """
    with TemporaryDirectory(prefix="miniray-bench-") as folder:
        trees = {OLD: Path(folder, OLD), MINIRAY: Path(folder, MINIRAY)}
        _copy_commit(commit, trees[OLD])
        for source, name in FOLDERS.items():
            shutil.copytree(ROOT / source, trees[MINIRAY] / name, ignore=shutil.ignore_patterns("__pycache__"))
        for tree in trees.values():
            shutil.copytree(ROOT / "bench", tree / "bench", ignore=shutil.ignore_patterns("__pycache__"))
            subprocess.run([sys.executable, "-m", "compileall", "-q", str(tree)], check=True)
        found: dict[str, Row] = {}
        for block in range(blocks):
            order = list(trees) if block % 2 else list(reversed(trees))
            for name in rows:
                for side in order:
                    for row in _run(trees[side], name, Path(folder, "found.json")):
                        kept = found.setdefault(row["name"], Row(row["name"], row["unit"], {OLD: [], MINIRAY: []}))
                        kept.goals = [_goal(row["unit"])]
                        kept.samples[side] += row["samples"].get(MINIRAY, [])
                        kept.notes += [f"{side}: {note}" for note in row["notes"]]
        return list(found.values())


def lost(row: Row) -> bool:
    """Whether this tree is slower, or larger, than it may be."""
    verdict = row.verdict(row.goals[0])
    return verdict is not None and not verdict[3]


def _goal(unit: str) -> Goal:
    """Rates (`tasks/s`) are to be high, all else is to be low."""
    if "/" in unit:
        return Goal(OLD, at_least=1 - ALLOWED_LOSS)
    return Goal(OLD, at_most=1 + ALLOWED_LOSS)


def _copy_commit(commit: str, tree: Path) -> None:
    done = subprocess.run(["git", "archive", commit, *FOLDERS], cwd=ROOT, capture_output=True)
    if done.returncode:
        raise ComparisonError(f"commit {commit}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tree, filter="data")
    for source, name in FOLDERS.items():
        (tree / source).rename(tree / name)


def _run(tree: Path, row: str, into: Path) -> list[dict]:
    """What one row says with the packages of `tree`, which come before any that are installed."""
    command = [sys.executable, "-m", "bench", row, "--blocks", "1", "--alone", "--json", str(into)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ComparisonError(f"{row} of {tree.name}: no result after {RUN_TIMEOUT_SECONDS} s") from None
    if done.returncode:
        raise ComparisonError(f"{row} of {tree.name}: {done.stderr.strip()[-500:]}")
    return json.loads(into.read_text())["rows"]
