"""Sizes and first lines: no file grows into a monster, and each says why it exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.sources import ROOT, modules, show, tree

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

# "path" or "path:function" -> lines. Born empty; it may only shrink.
EXCEPTIONS: dict[str, int] = {}
MOST_EXCEPTIONS_EVER_LEFT = 0

FILES = sorted(file for folder in ("miniray", "transports", "tests", "bench") for file in (ROOT / folder).rglob("*.py"))


def sizes(file: Path) -> dict[str, int]:
    """The file and each function in it -> lines, docstring and all."""
    found = {show(file): len(file.read_text().splitlines())}
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{show(file)}:{node.name}"
            found[name] = max(found.get(name, 0), (node.end_lineno or node.lineno) - node.lineno + 1)
    return found


def cap(name: str) -> int:
    return MAX_FUNCTION_LINES if ":" in name else MAX_FILE_LINES


@pytest.mark.parametrize("file", FILES, ids=show)
def test_sizes(file: Path) -> None:
    too_long = {name: lines for name, lines in sizes(file).items() if lines > EXCEPTIONS.get(name, cap(name))}
    assert not too_long, f"{too_long}: move a noun out into a file of its own; never 'part 2', never a mixin"


def test_exceptions_only_shrink() -> None:
    assert len(EXCEPTIONS) <= MOST_EXCEPTIONS_EVER_LEFT
    now = {name: lines for file in FILES for name, lines in sizes(file).items()}
    stale = {name for name, lines in EXCEPTIONS.items() if now.get(name, 0) < lines}
    assert not stale, f"{stale}: shorter by now; lower or remove the exception"


@pytest.mark.parametrize("file", FILES, ids=show)
def test_every_file_says_why_it_exists(file: Path) -> None:
    module = tree(file)
    assert not module.body or ast.get_docstring(module), f"{show(file)} has no docstring"


@pytest.mark.parametrize("module", modules())
def test_names_have_a_noun(module: str) -> None:
    empty = {"helper", "helpers", "util", "utils", "base", "common", "misc", "manager"}
    assert module.split(".")[-1].lstrip("_") not in empty, f"{module}: what is it about? (DESIGN.md section 2)"
