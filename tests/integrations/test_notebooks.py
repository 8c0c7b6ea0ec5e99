"""The notebooks run, and say again what they say in the repository."""

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
SECONDS = 60


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
    assert said(notebook) == before


def test_there_are_notebooks_and_no_place_of_a_machine_is_in_them() -> None:
    assert NOTEBOOKS
    for file in NOTEBOOKS:
        assert not re.search(r'"[^"]*/(tmp|var|usr|opt)/', file.read_text()), file
