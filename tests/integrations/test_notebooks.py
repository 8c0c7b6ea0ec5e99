"""The notebooks run, and say again what they say in the repository.

What a simulated run says follows the protocol: its seed, times and steps are others when a message is added. So of that
notebook only what it wants to show is compared; and of the first one, which has real times. After such a change:
`jupyter execute --inplace notebooks/2-*.ipynb`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 200
SHOWS = {
    "1-from-multiprocessing.ipynb": (
        "the same counts: True",
        "with multiprocessing.Pool, 0 with miniray.Pool",
        "the standard pool: no answer",
        "the new function is the one that runs: True",
        "a lambda that uses a global: True",
        "interrupted at once: True",
        "the same pool: True",
        "picture 3: WorkerCrashedError",
        "all others are there: True",
        "as if nothing had happened: True",
    ),
    "2-find-a-bug-by-seed.ipynb": (
        "AssertionError: the bank began with 200 and has ",
        "  1. worker p",
        "  2. transfer (bank.py:24 in no_money_is_lost) ran again",
        "starts a second time",
        "is killed by a fault",
        "the same run: True",
        "100 seeds, and no money is lost",
    ),
}
IN_TIME = {  # and what of it is there on the busiest machine
    "with multiprocessing.Pool, 0 with miniray.Pool": "with miniray.Pool",
    "interrupted at once: True": "interrupted at once: ",
}


def said(notebook: Any) -> dict[str, str]:
    """What each cell prints or shows as text, by the cell's id; a stream may come in several pieces."""
    found: dict[str, str] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            found[cell["id"]] = found.get(cell["id"], "") + text
    return found


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_notebook(file: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    before = said(notebook)
    assert before, "its outputs are kept, so that a reader sees them"
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where).execute()
    after = said(notebook)
    shows = SHOWS.get(file.name)
    if shows is None:
        assert after == before
        return
    assert list(after) == list(before)
    for text in shows:
        assert any(text in told for told in before.values()), f"kept outputs do not show: {text}"
        assert any(IN_TIME.get(text, text) in told for told in after.values()), f"it does not show: {text}\n{after}"


def test_there_are_notebooks_and_no_place_of_a_machine_is_in_them() -> None:
    assert NOTEBOOKS
    for file in NOTEBOOKS:
        assert not re.search(r'"[^"]*/(tmp|var|usr|opt)/', file.read_text()), file
