"""Ends of pipes among arguments and results of tasks and actors: each is received once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

import pytest

import miniray
from miniray.errors import ResultSerializationError, SerializationError, TaskError

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture
def ends() -> Iterator[tuple]:
    here, there = multiprocessing.Pipe()
    with here, there:
        yield here, there


@miniray.remote
def send(end, x):
    end.send(x)
    return end


@miniray.remote
def crash_once(end, path):
    if path.exists():
        return end.fileno()
    path.touch()
    os._exit(1)


@miniray.remote
class Keeper:
    def __init__(self, end):
        self.end = end

    def send(self, x):
        self.end.send(x)
        return [self.end]


def test_they_reach_tasks_and_actors_and_come_back(ends):
    here, there = ends
    keeper = Keeper.remote(there)
    with miniray.get(send.remote(there, 1)) as one, miniray.get(keeper.send.remote(2))[0] as other:
        one.send(3)
        other.send(4)
    assert sorted(here.recv() for _ in range(4)) == [1, 2, 3, 4]
    del keeper


def test_a_result_that_was_received_says_so(ends, capfd):
    ref = send.remote(ends[1], 1)
    miniray.get(ref).close()
    with pytest.raises(ResultSerializationError, match="cannot be received: either it was already"):
        miniray.get(ref)


def test_a_task_that_is_run_again_says_so(ends, tmp_path, capfd):
    with pytest.raises(TaskError, match="cannot be received: either it was already"):
        miniray.get(crash_once.options(max_retries=3).remote(ends[1], tmp_path / "crashed"))


def test_what_may_be_read_more_often_refuses_them(ends):
    with pytest.raises(SerializationError, match=r"put: value -> \[0\]: a pipe's end"):
        miniray.put([ends[1]])
    with pytest.raises(SerializationError, match=r"function .* -> the closure's ends -> \[0\]: a pipe's end"):
        miniray.remote(lambda: ends).remote()
