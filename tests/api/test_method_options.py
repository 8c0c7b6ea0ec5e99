"""Options of actor methods that Pool stands on: a function sent once, writable arguments; and a gentle `cancel`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quiescence import eventually

import miniray

factor = 2


@miniray.remote
class Actor:
    def call(self, function: Any, values: list[int]) -> list[int]:
        return [function(value) for value in values]

    def write(self, array: Any) -> Any:
        array[0] = 7
        return array

    def nap(self, folder: Path) -> str:
        (folder / "started").touch()
        while not (folder / "go").exists():
            time.sleep(0.005)
        return "went on"


@pytest.fixture(scope="module")
def actor() -> Iterator[Any]:
    miniray.init(num_cpus=1)
    yield Actor.remote()
    miniray.shutdown()


def test_a_function_is_sent_once_and_again_when_it_changes(actor: Any) -> None:
    number = [3]
    method = actor.call.options(function=lambda value: value * number[0])
    assert miniray.get([method.remote([1]), method.remote([2])]) == [[3], [6]]
    number = [4]
    assert miniray.get(method.remote([1])) == [4]
    assert miniray.get(method.options(name="other").remote([2])) == [8]
    with pytest.raises(TypeError, match="function must be callable"):
        actor.call.options(function=3)


@pytest.mark.parametrize("size", [4, 500_000])
def test_writable_arguments(actor: Any, size: int) -> None:
    array = np.zeros(size)
    if size > 1000:
        with pytest.raises(ValueError, match="read-only"):
            miniray.get(actor.write.remote(array))
    assert miniray.get(actor.write.options(writable_arguments=True).remote(array))[0] == 7
    ref = miniray.put(array)
    assert miniray.get(actor.write.options(writable_arguments=True).remote(ref))[0] == 7
    assert array[0] == 0 and miniray.get(ref)[0] == 0
    with pytest.raises(TypeError, match="must be True or False"):
        actor.write.options(writable_arguments=1)


def test_cancel_of_what_has_not_started(actor: Any, tmp_path: Path) -> None:
    running, waiting = actor.nap.remote(tmp_path), actor.nap.remote(tmp_path)
    eventually((tmp_path / "started").exists, "the first one runs")
    miniray.cancel(running, running=False)
    miniray.cancel(waiting, running=False)
    with pytest.raises(miniray.errors.TaskCancelledError):
        miniray.get(waiting, timeout=10)
    (tmp_path / "go").touch()
    assert miniray.get(running, timeout=20) == "went on"
