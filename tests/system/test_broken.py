"""A machine that breaks one of its own rules: the session says so and ends; nothing waits for ever."""

from __future__ import annotations

import threading
import time

import pytest

import miniray
from miniray._runtime.context import current, get_current
from miniray.core.messages import PushTasks, TasksDone
from miniray.errors import InternalError


@pytest.fixture(autouse=True)
def session():
    miniray.init(num_cpus=1)
    yield
    miniray.shutdown()


@miniray.remote
def add(one, two):
    return one + two


def break_rule(*_):
    raise KeyError("a row that must be there")


def break_handler(kind):
    get_current().owner._on[kind] = break_rule


def submit_and_break():
    """Under the driver's lock: no thread receives an answer before all are submitted."""
    refs = [add.remote(1, 2) for _ in range(3)]
    break_handler(TasksDone)
    return refs


@pytest.mark.parametrize("who", ["the waiting thread", "the background thread"])
def test_every_wait_of_the_driver_ends_with_the_story(who):
    assert miniray.get(add.remote(1, 2)) == 3
    refs = get_current().drives.locked(submit_and_break)
    ended = []

    def wait():
        with pytest.raises(InternalError, match="(?s)please report this.*break_rule.*a row that must be there"):
            miniray.get(refs)
        ended.append(True)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    if who == "the waiting thread":
        for thread in threads:
            thread.start()
        wait()
    else:
        deadline = time.monotonic() + 20
        future = refs[0].future()
        with pytest.raises(InternalError):
            future.result(timeout=20)
        assert time.monotonic() < deadline
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert all(ended)
    with pytest.raises(InternalError):
        add.remote(1, 2)
    miniray.shutdown()
    miniray.init(num_cpus=1)
    assert miniray.get(add.remote(1, 2)) == 3


def test_a_worker_that_breaks_crashes_and_its_tasks_run_elsewhere(capfd):
    @miniray.remote
    def break_me():
        for machine in current().loop._machines:
            if PushTasks in machine.handles():
                machine._on[PushTasks] = break_rule

    miniray.shutdown()
    miniray.init(num_cpus=1)  # its workers write where this test reads
    miniray.get(break_me.remote())
    assert miniray.get([add.remote(i, i) for i in range(50)]) == [2 * i for i in range(50)]
    assert "a row that must be there" in capfd.readouterr().err
