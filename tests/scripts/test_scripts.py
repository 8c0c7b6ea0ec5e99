"""Every conversation comes out as it is written; and README.md names every race of the protocol, with its file."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

import pytest

from tests.scripts.interpreter import ScriptError, run

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("*.txt"))
REWRITE = bool(os.environ.get("MINIRAY_REWRITE"))


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_script(file: Path) -> None:
    expected = file.read_text()
    assert expected.startswith("# "), "the first line says why"
    came = run(expected)
    if came != expected and REWRITE:
        file.write_text(came)
    difference = difflib.unified_diff(expected.splitlines(), came.splitlines(), "expected", "came", lineterm="", n=6)
    assert REWRITE or came == expected, "\n".join(difference)


def test_the_table_and_the_folder_agree() -> None:
    races = (HERE / "README.md").read_text().partition("## The races")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", races, re.MULTILINE)
    table = dict(rows)
    assert len(table) == len(rows), "a race has two rows"
    written = {race for race, where in table.items() if not where.startswith("later: ")}
    assert written == {file.stem for file in SCRIPTS}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('# why\np1: put x "1"\nend\n', "left over"),
        ('# why\np1: put x "1"\np1: drop x\n', "no `end`"),
        ("# why\np1: drop y\nend\n", "line 2"),
        ("# why\ndeliver p1 -> p2\nend\n", "line 2"),
    ],
)
def test_a_script_that_cannot_be_obeyed_says_where(text: str, what: str) -> None:
    with pytest.raises(ScriptError, match=what):
        run(text)


def test_what_came_replaces_what_was_expected() -> None:
    text = '# why\np1: put x "1"\n  p1 -> p2: Nonsense\np1: drop x\nend\n'
    came = '# why\np1: put x "1"\np1: drop x\nend\n  nothing is left\n'
    assert run(text) == came
