"""What `simulate` and `explore` say, and see, when a program is used in an unusual way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import sleep as nap
from typing import Any

import pytest

import miniray
from miniray.testing import SimulationFailed, explore, simulate
from miniray.testing.recording import read
from miniray.testing.story import tell


@miniray.remote
class Store:
    def __init__(self) -> None:
        self.value = 0

    def get(self) -> int:
        return self.value

    def put(self, value: int) -> None:
        self.value = value


@miniray.remote
def increment(store: Any) -> None:
    value = miniray.get(store.get.remote())
    miniray.get(store.put.remote(value + 1))


def test_a_bound_of_lineage_is_that_of_init() -> None:
    def program() -> None:
        raise KeyError("planned")

    assert simulate(lambda: 1, max_lineage_bytes=0).value == 1
    with pytest.raises(SimulationFailed, match="max_lineage_bytes=7"):
        simulate(program, max_lineage_bytes=7)


def test_a_module_that_is_being_imported_is_told_at_once(tmp_path: Path) -> None:
    lines = "from miniray.testing import simulate\ndef program():\n    return 1\nprint(simulate(program).value)\n"
    (tmp_path / "too_early.py").write_text(lines)
    command = [sys.executable, "-c", "import too_early"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "RuntimeError: a simulation cannot run while the module of its program, too_early, is still" in done.stderr
    script = subprocess.run([sys.executable, "too_early.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert script.stdout == "1\n", script.stderr


def test_names_of_the_module_are_virtual_with_arguments_too() -> None:
    @explore(seeds=1, faults="none")
    def sleeps(seconds: float) -> None:
        nap(seconds)  # a real one would be stuck

    sleeps(1_000.0)


def test_a_lost_update_is_told_by_the_order_of_its_calls(tmp_path: Path) -> None:
    @explore(folder=tmp_path)
    def program() -> None:
        store = Store.remote()
        miniray.get([increment.remote(store) for _ in range(2)])
        assert miniray.get(store.get.remote()) == 2

    with pytest.raises(SimulationFailed, match="deaths: 0") as failed:
        program()
    text = str(failed.value)
    assert "no fault" in text and "Store (p1.t1" in text, text
    order = "get (for increment (p1.t2)), get (for increment (p1.t3)), put (for increment (p1.t2)), put (for "
    assert f"ran, in this order: {order}increment (p1.t3)), get (for the program)." in text, text
    (file,) = tmp_path.iterdir()
    assert tell(read(file)).count("Store.put") >= 4, "both are told, from the call to the end"


def test_an_order_that_was_relied_upon_is_told(tmp_path: Path) -> None:
    @explore(folder=tmp_path, faults="delays")
    def program() -> None:
        refs = [miniray.remote(nap).remote(0.01) for _ in range(4)]
        found, pending = [], refs
        while pending:
            ready, pending = miniray.wait(pending, num_returns=1)
            found += ready
        assert found == refs

    with pytest.raises(SimulationFailed, match=r"1\. Tasks ended in this order: sleep \(p1\.t\d\), sleep \(p1\.t"):
        program()
