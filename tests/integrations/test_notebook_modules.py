"""A notebook finds its modules as it goes: `sys.path` grows long after the session has begun, and tasks follow."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

SECONDS = 200
MODULE = """
class Circle:
    def area(self):
        return 3

def doubled(x):
    return 2 * x
"""
CELLS = (
    "import sys, miniray\nminiray.init(num_cpus=1)",
    "@miniray.remote\ndef area(shape):\n    return shape.area()",
    "@miniray.remote\ndef late():\n    from shapes import doubled\n    return doubled(4)",
    "try:\n    miniray.get(late.remote())\nexcept ModuleNotFoundError as error:\n    print(error.name)",
    "sys.path.append('lib')",
    "print(miniray.get(late.remote()))",  # run once more, not defined anew
    "from shapes import Circle, doubled\nprint(miniray.get(area.remote(Circle())))",
    "with miniray.Pool(1) as pool:\n    print(pool.map(doubled, [5]))\nminiray.shutdown()",
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_tasks_find_what_the_notebook_finds(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "shapes.py").write_text(MODULE)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = "".join(output["text"] for cell in notebook.cells for output in cell["outputs"])  # in pieces, as it likes
    assert said == "shapes\n8\n3\n[10]\n"
