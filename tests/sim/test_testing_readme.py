"""The examples of `miniray/testing/README.md` run, and do what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import miniray
from miniray.testing import SimulationFailed

README = Path(miniray.__file__).parent / "testing" / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "test_counter.py"
    file.write_text("\n\n".join(EXAMPLES))
    module = ModuleType("readme_of_testing")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(file.read_text(), str(file), "exec"), vars(module))
    with pytest.raises(SimulationFailed, match=r"(?s)1\. worker p\d was killed .* 2\. work .* ran again") as failed:
        module.test_nothing_is_counted_twice()
    told = re.search(r"miniray replay (\S+)", str(failed.value))
    assert told is not None and Path(told[1]).exists()
    module.test_double()
    module.test_graph()
    module.test_actors()
    module.TestSumming("runTest").runTest()


def test_the_example_of_the_fixture(tmp_path: Path) -> None:
    blocks = [block for block in EXAMPLES if "class Counter" in block or "simulated_cluster" in block]
    (tmp_path / "test_calls.py").write_text("\n\n".join(blocks))
    command = [sys.executable, "-m", "pytest", "-p", "miniray.testing.plugin", "-k", "every_call_counts"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert len(blocks) == 2 and "2 passed" in ran.stdout, ran.stdout
