"""The main thread of a worker, beside its background thread."""

from __future__ import annotations

from typing import Any

import pytest

from miniray._runtime.execute import Executor
from miniray.core.ids import ObjectId
from miniray.core.worker.events import RunTask, TaskFinished
from tests.runtime.scripted_cluster import ScriptedCluster


def test_what_a_task_has_dropped_is_collected_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both threads collect: outside of the lock, one of them found the deque emptied by the other, and died of it."""
    cluster = ScriptedCluster()
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
    cluster.close()
