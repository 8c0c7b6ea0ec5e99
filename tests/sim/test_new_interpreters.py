"""A failure that a new interpreter does not have: named are the order of a set of strings, and what ran before."""

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
from miniray.testing import NotDeterministic, SimulationFailed, exploration, explore, new_interpreters
from miniray.testing.levels import Level

NAMES = {"anna", "berta", "carla", "dora", "emma", "frieda", "gerda", "hanna"}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.delenv(new_interpreters.INSIDE)
    monkeypatch.setattr(new_interpreters, "PATIENCE_SECONDS", 100.0)


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


def failure_of(
    program: Callable[..., None], tmp_path: Path, *args: Any, faults: Level = "none"
) -> SimulationFailed:
    with pytest.raises(SimulationFailed) as failed:
        explore(faults=faults, folder=tmp_path)(program)(*args)
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
    assert "is not known: it cannot be pickled (TypeError: cannot pickle '_thread.lock' object)." in text


def test_a_fixed_order_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    started: list[int] = []

    class Seen(new_interpreters.NewInterpreters):
        def _start(self, number: int, hash_seed: int) -> None:
            started.append(hash_seed)
            super()._start(number, hash_seed)

    monkeypatch.setattr(exploration, "NewInterpreters", Seen)
    assert "hash order" not in str(failure_of(first_of_all, tmp_path, tmp_path))
    assert started == [7]


SIDES = {"left", "right"}


def goes_elsewhere(here: str) -> None:
    assert miniray.get(Roll.remote().call.remote(next(iter(SIDES)))) != here


def first_side(hash_seed: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-c", "print(next(iter({'left', 'right'})))"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_an_order_that_the_first_interpreters_have_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = next(iter(SIDES))
    seeds = range(4, 34)  # an interpreter of the second three has its hash seed as its number
    other = [seed for seed in seeds if first_side(seed) != here]
    same = [seed for seed in seeds if seed not in other]
    monkeypatch.setattr(new_interpreters, "HASH_SEEDS", other[:3])
    monkeypatch.setattr(new_interpreters, "MORE_HASH_SEEDS", (other[3], same[0]))
    error = failure_of(goes_elsewhere, tmp_path, here)
    assert isinstance(error, NotDeterministic) and "depends on hash order: the program did" in str(error)


def test_an_empty_order_is_none_that_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "")
    assert new_interpreters.NewInterpreters("not packed", {})._hash_seeds == new_interpreters.HASH_SEEDS


cache: dict[int, int] = {}


@miniray.remote
class Total:
    def __init__(self) -> None:
        self.calls = 0

    def add(self) -> int:
        self.calls += 1
        return self.calls


@miniray.remote
def load(total: Any, key: int) -> int:
    if key not in cache:
        cache[key] = miniray.get(total.add.remote())
    return cache[key]


def loads_all(total: Any) -> None:
    miniray.get([load.remote(total, key) for key in range(3)])


def fills_a_cache() -> None:
    total = Total.remote()
    loads_all(total)
    assert miniray.get(total.add.remote()) == 4


@pytest.mark.parametrize("hash_seed", ["random", "7"])
def test_what_an_earlier_run_left_behind_is_no_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_seed: str
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
    cache.clear()
    error = failure_of(fills_a_cache, tmp_path)
    text = str(error)
    assert isinstance(error, NotDeterministic) and not list(tmp_path.iterdir())
    assert text.startswith("fills_a_cache fails in run 2 of 200, and only in this process") and __file__ in text
    assert "in a new interpreter it ended with no error, and task load (called at" in text
    assert "no delay is needed" not in text


def finds_a_cache() -> None:
    assert not cache


def test_no_earlier_run_is_named_in_the_first(tmp_path: Path) -> None:
    cache[0] = 1
    text = str(failure_of(finds_a_cache, tmp_path))
    assert "fails in run 1 of 200, and only in this process" in text and "on what other tests or a fixture" in text


def fills_an_argument(seen: list[int]) -> None:
    seen.append(miniray.get(load.remote(Total.remote(), 0)))
    assert len(seen) < 3


def test_an_object_of_a_fixture_is_as_it_was_before_the_first_run(tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(NotDeterministic, match="fails in run 3 of 200"):
        explore(faults="none", folder=tmp_path)(fills_an_argument)(seen)




@miniray.remote
def adds(total: Any) -> int:
    return miniray.get(total.add.remote())


def counts_when_something_is_cached() -> None:
    total = Total.remote()
    miniray.get([adds.remote(total) for _ in range(5)])
    assert miniray.get(total.add.remote()) == 6 or not cache


def test_the_story_is_told_where_a_fault_matters_as_well(tmp_path: Path) -> None:
    cache[0] = 1
    error = failure_of(counts_when_something_is_cached, tmp_path, faults="all")
    text = str(error)
    assert not isinstance(error, NotDeterministic) and list(tmp_path.iterdir())
    assert "adds had called Total.add" in text and "in a new interpreter it ended with no error" in text


def test_ctrl_c_leaves_no_interpreter_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[new_interpreters.NewInterpreters] = []
    children: list[subprocess.Popen[bytes]] = []

    class Seen(new_interpreters.NewInterpreters):
        def _begin(self) -> None:
            super()._begin()
            seen.append(self)
            children.extend(self._children.values())

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exploration, "NewInterpreters", Seen)
    monkeypatch.setattr(exploration, "_smallest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explore(faults="none", folder=tmp_path)(first_of_all)(tmp_path)
    assert len(children) == len(new_interpreters.HASH_SEEDS)
    assert all(child.returncode is not None for child in children) and not Path(seen[0]._folder.name).exists()


SCRIPT = """
import miniray
from miniray.testing import NotDeterministic, explore, new_interpreters

new_interpreters.PATIENCE_SECONDS = 100.0

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
