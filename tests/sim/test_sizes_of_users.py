"""A simulated node has what is said in the words of `init`; advice of errors can be followed there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

import miniray
from miniray.errors import InfeasibleError, ObjectStoreFullError, SessionError
from miniray.testing import SimulationFailed, explore, simulate
from miniray.testing.recording import read
from miniray.testing.rerun import compare, rerun

LARGE = 2_000_000  # of eight bytes


@miniray.remote(num_gpus=1, resources={"db": 1})
def works() -> str:
    return "done"


@miniray.remote(memory=32 << 30)
def remembers() -> str:
    return "done"


@miniray.remote(num_gpus=1)
class Trainer:
    def step(self) -> int:
        return 1


def test_a_few_large_values_have_room() -> None:
    def program() -> float:
        refs = [miniray.put(numpy.ones(LARGE)) for _ in range(4)]
        return sum(float(miniray.get(ref).sum()) for ref in refs)

    assert simulate(program).value == 4 * LARGE


def test_the_store_is_as_large_as_is_said() -> None:
    def program() -> Any:
        return miniray.put(numpy.ones(LARGE))

    with pytest.raises(SimulationFailed, match=r"simulate\(object_store_memory=\.\.\.\)") as caught:
        simulate(program, object_store_memory=8 << 20)
    assert isinstance(caught.value.__cause__, ObjectStoreFullError)
    assert "object_store_memory=8388608" in str(caught.value) and "init" not in str(caught.value)
    assert simulate(program, object_store_memory=64 << 20).value.sum() == LARGE


def test_gpus_and_resources_are_as_said() -> None:
    def program() -> Any:
        trainer: Any = Trainer.remote()
        return miniray.get([works.remote(), works.remote()]), miniray.get(trainer.step.remote())

    words: Any = {"num_gpus": 2, "resources": {"db": 1}}
    assert simulate(program, **words).value == (["done", "done"], 1)
    assert simulate(program, **words, nodes=2, faults="delays").value == (["done", "done"], 1)
    explore(seeds=2, **words)(program)()


def test_memory_is_there() -> None:
    assert simulate(lambda: [remembers.remote(), remembers.remote()]).value == ["done", "done"]


def test_what_no_node_has_is_told_with_the_words_of_a_simulation() -> None:
    with pytest.raises(SimulationFailed, match=r"or have more; see .*simulate\(.*resources=") as one:
        simulate(lambda: works.remote(), num_gpus=1)
    assert isinstance(one.value.__cause__, InfeasibleError) and "init" not in str(one.value)


def test_a_wait_for_what_is_taken_says_of_what_there_is_too_little() -> None:
    def program() -> Any:
        one: Any = Trainer.remote()
        other: Any = Trainer.remote()
        return miniray.get([one.step.remote(), other.step.remote()])

    with pytest.raises(SimulationFailed, match="on 1 node of 2 CPUs, 1 GPU: no room is free for 1 that waits for it"):
        simulate(program, num_gpus=1)


WRONG = [
    ({"num_gpus": "one"}, TypeError, "num_gpus must be a number"),
    ({"num_gpus": -1}, ValueError, "num_gpus must be zero or more"),
    ({"resources": ["db"]}, TypeError, "resources must be a dict"),
    ({"resources": {"CPU": 1}}, ValueError, "say num_cpus="),
    ({"object_store_memory": 1 << 20}, ValueError, "object_store_memory must be at least 4,194,304 bytes"),
    ({"object_store_memory": 1e9}, TypeError, "object_store_memory must be an int"),
]


@pytest.mark.parametrize(("words", "kind", "text"), WRONG)
def test_they_are_checked_as_by_init(words: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        simulate(int, **words)
    with pytest.raises(kind, match=text):
        explore(**words)
    with pytest.raises(kind, match=text):
        miniray.init(num_cpus=1, **words)


def fails_with_one() -> None:
    assert miniray.get(works.remote()) != "done"


def test_a_recorded_run_has_them(tmp_path: Path) -> None:
    words: Any = {"num_gpus": 1, "resources": {"db": 2}, "object_store_memory": 8 << 20}
    with pytest.raises(SimulationFailed):
        explore(seeds=1, folder=tmp_path, **words)(fails_with_one)()
    (file,) = tmp_path.glob("*.json")
    recording = read(file)
    assert recording.cluster == {"num_cpus": 2, "nodes": 1, **words}
    assert "the same run" in compare(recording, rerun(recording))


def test_init_in_a_simulated_program_says_where_its_words_go() -> None:
    def program() -> None:
        miniray.init(ignore_reinit_error=True)
        with pytest.raises(SessionError, match=r"simulated program, which has its session already.* give simulate"):
            miniray.init(num_gpus=1)

    simulate(program)


def test_a_large_value_may_be_returned() -> None:
    assert simulate(lambda: miniray.put(numpy.ones(LARGE))).value.sum() == LARGE
