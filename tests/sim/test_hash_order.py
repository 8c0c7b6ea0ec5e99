"""A failure that depends on the order of a set of strings is named, and what only travels as a set is not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import miniray
from miniray.testing import NotDeterministic, SimulationFailed, exploration, explore, hash_order

NAMES = {"anna", "berta", "carla", "dora", "emma", "frieda", "gerda", "hanna"}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED")
    monkeypatch.setattr(hash_order, "PATIENCE_SECONDS", 100.0)


@miniray.remote
class Roll:
    def __init__(self) -> None:
        self.called: list[str] = []

    def call(self, *names: str) -> str:
        self.called.extend(names)
        return self.called[0]

    def count(self, names: set[str]) -> int:
        return len(names)


@miniray.remote
def calls_all(roll: Any) -> None:
    for name in NAMES:
        miniray.get(roll.call.remote(name))


def first_of_all(folder: Path) -> None:
    roll = Roll.remote()
    miniray.get(calls_all.remote(roll))
    assert miniray.get(roll.call.remote()) == "nobody"


def pid(folder: Path) -> None:
    assert miniray.get(Roll.remote().call.remote(str(os.getpid()))) == "nobody"


def failure_of(program: Callable[..., None], tmp_path: Path, *args: Any) -> SimulationFailed:
    with pytest.raises(SimulationFailed) as failed:
        explore(faults="none", folder=tmp_path)(program)(*args)
    return failed.value


def test_the_task_is_named(tmp_path: Path) -> None:
    error = failure_of(first_of_all, tmp_path, tmp_path)
    assert isinstance(error, NotDeterministic) and not list(tmp_path.iterdir())
    assert "depends on hash order: task calls_all (called at" in str(error)


def test_a_set_that_only_travels_is_none(tmp_path: Path) -> None:
    @miniray.remote
    def known(name: str) -> bool:
        return name in {"anna", "berta", "carla", "dora"}  # a frozenset, in the code of what goes by value

    def program() -> None:
        assert miniray.get([Roll.remote().count.remote(NAMES), known.remote("anna")]) == [0, False]

    error = failure_of(program, tmp_path)
    assert not isinstance(error, NotDeterministic) and list(tmp_path.iterdir())
    assert "hash order" not in str(error) and "another interpreter" not in str(error)


def test_what_another_process_changes_is_told_beside_the_story(tmp_path: Path) -> None:
    error = failure_of(pid, tmp_path, tmp_path)
    assert not isinstance(error, NotDeterministic)
    assert "In another interpreter the program did something else" in str(error)


def test_what_cannot_be_pickled_is_told_in_a_line(tmp_path: Path) -> None:
    def program(lock: Any) -> None:
        assert lock is None

    text = str(failure_of(program, tmp_path, threading.Lock()))
    assert "was not tried: it cannot be pickled (TypeError: cannot pickle '_thread.lock' object)." in text


def test_a_fixed_order_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.delattr(subprocess, "Popen")
    assert not isinstance(failure_of(first_of_all, tmp_path, tmp_path), NotDeterministic)


def test_ctrl_c_leaves_no_interpreter_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[hash_order.OtherOrders] = []
    children: list[subprocess.Popen[bytes]] = []

    class Seen(hash_order.OtherOrders):
        def _begin(self) -> None:
            super()._begin()
            seen.append(self)
            children.extend(self._children.values())

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exploration, "OtherOrders", Seen)
    monkeypatch.setattr(exploration, "_smallest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explore(faults="none", folder=tmp_path)(first_of_all)(tmp_path)
    assert len(children) == len(hash_order.HASH_SEEDS)
    assert all(child.returncode is not None for child in children) and not Path(seen[0]._folder.name).exists()


SCRIPT = """
import miniray
from miniray.testing import NotDeterministic, explore, hash_order

hash_order.PATIENCE_SECONDS = 100.0

@miniray.remote
def length(name):
    return len(name)

@explore(faults="none")
def test():
    assert miniray.get([length.remote(name) for name in {"a", "bb", "ccc", "dddd", "eeeee", "ffffff"}]) == []

try:
    test()
except NotDeterministic as error:
    print(error)
"""


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    command = [sys.executable, "script.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    assert "test fails with seed 0, but depends on hash order: the program" in ran.stdout, ran.stderr
