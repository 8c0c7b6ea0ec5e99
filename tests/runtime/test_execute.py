"""The main thread of a worker, beside its background thread."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from miniray._runtime.execute import Executor
from miniray.core.failures import FailureKind
from miniray.core.ids import FunctionId, LeaseId, ObjectId, TaskId, task_id
from miniray.core.task_spec import Failed, Inline, PushedTask
from miniray.core.worker.events import InterruptTask, RunTask, TaskFinished
from tests.runtime.scripted_cluster import ScriptedCluster


@pytest.fixture
def cluster() -> Iterator[ScriptedCluster]:
    made = ScriptedCluster()
    yield made
    made.close()


def test_what_a_task_has_dropped_is_collected_under_the_lock(
    cluster: ScriptedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both threads collect: outside of the lock, one of them found the deque emptied by the other, and died of it."""
    process, driving = cluster.process, cluster.driving
    steps: list[Any] = []
    monkeypatch.setattr(cluster.loop, "turn", steps.append)

    def collect() -> list[Any]:
        assert driving._is_owned(), "collected outside of the lock"
        process.dropped.clear()
        return ["dropped"]

    monkeypatch.setattr(driving, "_collect", collect)
    monkeypatch.setattr(process, "collect", collect)
    executor = Executor(process, lambda lease, sequence: None)
    finished: Any = object()

    def execute(effect: RunTask) -> tuple[TaskFinished, Any]:
        process.dropped.append(ObjectId(b"x"))
        executor.exit()
        return finished, None

    monkeypatch.setattr(executor, "execute", execute)
    task: Any = None
    executor.run(task)
    executor.serve()
    assert steps == ["dropped", finished], "drops first: what a task retains is counted when it ends"


class Loading:
    """What it does is done where it is unpickled."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __reduce__(self) -> Any:
        return _act, (actions.append(self.action) or len(actions) - 1,)


actions: list[Callable[[], object]] = []


def _act(index: int) -> None:
    actions[index]()


@pytest.mark.parametrize("by", ["the machine", "the machine, and a signal of somebody else"])
def test_a_task_that_is_cancelled_while_its_arguments_are_read_does_not_run(cluster: ScriptedCluster, by: str) -> None:
    executor = Executor(cluster.process, lambda lease, sequence: None)
    owner, function, ran = cluster.process.me, FunctionId(b"f"), []
    executor._functions[owner, function] = ran.append

    def cancel() -> None:
        executor.interrupt(InterruptTask(first))
        if by != "the machine":
            executor._on_interrupt(2, None)

    def run(task: TaskId, argument: object) -> Any:
        pushed = PushedTask(task, 0, function, pickle.dumps(((argument,), {})))
        return executor.execute(RunTask(LeaseId(1), pushed))[0].values[0]

    first, second = task_id(owner, 1), task_id(owner, 2)
    struck = run(first, Loading(cancel))
    assert isinstance(struck, Failed) and struck.failure.kind is FailureKind.CANCELLED
    assert isinstance(run(second, "this"), Inline), "it was that one only"
    assert ran == ["this"]
