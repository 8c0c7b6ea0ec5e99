"""SIGKILL in mid-task: of a worker, the node process, the zygote. (Of the driver: `test_ends.py`.)"""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
from quiescence import assert_quiet, await_end, eventually
from waiting_tasks import started_pids, wait_for

import miniray
from miniray._runtime.context import get_current
from miniray.errors import NodeDiedError, WorkerCrashedError

GONE_SECONDS = 2.0  # the promise, after the driver's death
BOUND_SECONDS = 10.0  # who waits is told at once; on a busy machine, by then


@miniray.remote
def total(array):
    return int(array.sum())


def processes_of_session():
    """(zygote, node, all workers): the zygote is the driver's child, the node its first. Other tests leave children
    of their own here (the resource tracker of `multiprocessing`), whose interpreter may lie in a folder of any name."""
    children = psutil.Process().children()
    (zygote,) = [child for child in children if any("miniray._runtime.zygote" in word for word in child.cmdline())]
    below = sorted(zygote.children(recursive=True), key=lambda process: process.create_time())
    return zygote.pid, below[0].pid, [process.pid for process in below]


def test_a_killed_worker_is_replaced_and_its_task_retried(session, tmp_path):
    array = np.arange(500_000)
    kept = miniray.put(array)
    ref = wait_for.remote(tmp_path / "go", tmp_path / "started")
    others = [total.remote(kept) for _ in range(20)]
    (pid,) = eventually(lambda: started_pids(tmp_path / "started"), "a start")
    (tmp_path / "go").touch()
    os.kill(pid, signal.SIGKILL)
    ended = miniray.get(ref, timeout=20)
    assert miniray.get(others) == [int(array.sum())] * 20
    assert started_pids(tmp_path / "started") in ([ended], [pid, ended])  # it may have been done already
    del ref, others, kept
    assert_quiet()


def test_with_no_retries_the_error_names_task_pid_and_signal(session, tmp_path):
    ref = wait_for.options(max_retries=0).remote(tmp_path / "never", tmp_path / "started")
    (pid,) = eventually(lambda: started_pids(tmp_path / "started"), "a start")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerCrashedError) as caught:
        miniray.get(ref, timeout=20)
    text = str(caught.value)
    assert "wait_for" in text and str(pid) in text and "signal 9" in text and "max_retries=0" in text
    assert "test_kills.py:" in text
    assert started_pids(tmp_path / "started") == [pid]


def test_only_what_had_started_spends_a_retry(session, tmp_path):
    """One killer, many queued behind it, all with one retry: the killer fails, the others do not."""

    @miniray.remote(max_retries=1)
    def work(i):
        if i == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    refs = [work.remote(i) for i in range(100)]
    with pytest.raises(WorkerCrashedError, match="attempt 2 of 2"):
        miniray.get(refs[0], timeout=20)
    assert miniray.get(refs[1:], timeout=20) == list(range(1, 100))


def test_idle_workers_killed_again_and_again(session):
    pid_of = miniray.remote(os.getpid)
    for _ in range(20):
        pid = miniray.get(pid_of.remote(), timeout=20)
        os.kill(pid, signal.SIGKILL)
    assert miniray.get([total.remote(np.ones(10)) for _ in range(20)], timeout=20) == [10] * 20
    assert_quiet()


def test_an_owner_dies_with_its_objects(session):
    @miniray.remote(max_retries=0)
    def make():
        return [miniray.put(np.ones(500_000)), miniray.put("small")], os.getpid()

    refs, pid = miniray.get(make.remote())
    assert miniray.get(refs[0])[0] == 1
    os.kill(pid, signal.SIGKILL)
    await_end(pid)
    small = refs[1]
    with pytest.raises(miniray.errors.OwnerDiedError, match="process that owns"):
        eventually(lambda: miniray.get(small) and False, "the news")
    refs.clear()
    small = None
    assert_quiet()


def test_a_grandchild_ends_with_its_worker(session, tmp_path):
    @miniray.remote(max_retries=0)
    def leave_one(path):
        import subprocess

        child = subprocess.Popen(["sleep", "999"], start_new_session=True)
        path.write_text(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError):
        miniray.get(leave_one.remote(tmp_path / "pid"), timeout=20)
    await_end(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("which", ["node", "zygote"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_the_node_process_or_the_zygote_dies(which, busy, tmp_path):
    miniray.init(num_cpus=2)
    kept = miniray.put(np.arange(300_000))
    view = miniray.get(kept)
    ref = wait_for.remote(tmp_path / "never", tmp_path / "started") if busy else None
    if busy:
        eventually(lambda: started_pids(tmp_path / "started"), "a start")
    zygote, node, workers = processes_of_session()
    os.kill(node if which == "node" else zygote, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(NodeDiedError, match=r"miniray.shutdown\(\), then miniray.init\(\)"):
        if ref is not None:
            miniray.get(ref, timeout=BOUND_SECONDS)
        eventually(lambda: miniray.get(total.remote(kept), timeout=BOUND_SECONDS) and False, "the news")
    assert time.monotonic() - killed < BOUND_SECONDS
    for use in (lambda: miniray.put(1), lambda: miniray.get(kept), lambda: total.remote(1)):
        with pytest.raises(NodeDiedError):
            use()
    assert not miniray.is_initialized()
    miniray.shutdown()
    for pid in workers:
        await_end(pid, GONE_SECONDS)
    assert view[5] == 5
    miniray.init(num_cpus=1)
    assert miniray.get(total.remote(np.ones(3)), timeout=20) == 3
    miniray.shutdown()


def test_init_after_the_node_died_needs_no_shutdown():
    miniray.init(num_cpus=1)
    os.kill(processes_of_session()[1], signal.SIGKILL)
    eventually(lambda: not miniray.is_initialized(), "the news")
    miniray.init(num_cpus=1)
    assert miniray.get(total.remote(np.ones(3)), timeout=20) == 3
    miniray.shutdown()


def test_a_put_that_waits_for_the_node_ends_with_it():
    miniray.init(num_cpus=1)
    node = processes_of_session()[1]
    os.kill(node, signal.SIGSTOP)
    timer = threading.Timer(0.3, os.kill, (node, signal.SIGKILL))
    timer.start()
    started = time.monotonic()
    with pytest.raises(NodeDiedError):
        miniray.put(np.ones(1_000_000))
    assert time.monotonic() - started < BOUND_SECONDS
    timer.join()
    miniray.shutdown()


def test_the_store_of_a_dead_worker_is_used_again(session):
    """Places of results that live are kept, the rest of its extents is free again."""

    @miniray.remote
    def make(fill):
        return np.full(1_000_000, fill), os.getpid()

    @miniray.remote(max_retries=0)
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    array, pid = miniray.get(make.remote(7))
    os.kill(pid, signal.SIGKILL)
    await_end(pid)
    for i in range(20):
        other, pid = miniray.get(make.remote(i), timeout=20)
        assert other[-1] == i and array[0] == 7 and array[-1] == 7
        if i % 5 == 0:
            os.kill(pid, signal.SIGKILL)
    assert get_current() is not None
