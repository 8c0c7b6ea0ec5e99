"""`wait`, `get(timeout=)` and `cancel`."""

from __future__ import annotations

import os
import threading
import time

import pytest
from quiescence import await_end, eventually

import miniray
from miniray.errors import GetTimeoutError, TaskCancelledError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("session")


@miniray.remote
def value(x):
    return x


@miniray.remote(num_cpus=0)
def when_exists(path, result=None):
    while not path.exists():
        time.sleep(0.002)
    return result


@miniray.remote
def nap(seconds, started=None):
    if started is not None:
        started.write_text(str(os.getpid()))
    time.sleep(seconds)
    return seconds


def test_get_with_a_timeout(tmp_path):
    ref, other = when_exists.remote(tmp_path / "go", "done"), when_exists.remote(tmp_path / "go")
    done = value.remote(1)
    assert miniray.get(done, timeout=20) == 1
    for timeout in (0, 0.05):
        started = time.monotonic()
        with pytest.raises(GetTimeoutError, match=rf"not ready after {timeout} s: ObjectRef\(.*pending\)"):
            miniray.get(ref, timeout=timeout)
        assert timeout <= time.monotonic() - started
    with pytest.raises(TimeoutError, match="and 1 more"):
        miniray.get([done, ref, other], timeout=0.1)
    (tmp_path / "go").touch()
    assert miniray.get(ref, timeout=20) == "done"
    assert miniray.get(ref, timeout=0) == "done"


def test_wait_keeps_the_order_and_the_number(tmp_path):
    paths = [tmp_path / str(i) for i in range(4)]
    refs = [when_exists.remote(path, i) for i, path in enumerate(paths)]
    assert miniray.wait(refs, timeout=0) == ([], refs)
    paths[2].touch()
    assert miniray.wait(refs) == ([refs[2]], [refs[0], refs[1], refs[3]])
    paths[0].touch()
    assert miniray.wait(refs, num_returns=2) == ([refs[0], refs[2]], [refs[1], refs[3]])
    assert miniray.wait(refs, num_returns=1) == ([refs[0]], refs[1:])
    assert miniray.wait(refs, num_returns=4, timeout=0.05) == ([refs[0], refs[2]], [refs[1], refs[3]])
    for path in paths:
        path.touch()
    assert miniray.wait(tuple(refs), num_returns=4) == (refs, [])


def test_a_failed_task_is_ready():
    bad = miniray.remote(lambda: 1 / 0).remote()
    assert miniray.wait([bad], timeout=20) == ([bad], [])


def test_wait_within_tasks_and_on_borrowed_refs(tmp_path):
    @miniray.remote
    def waiter(box):
        done, rest = miniray.wait(box, num_returns=2, timeout=20)
        return len(done), len(rest)

    refs = [value.remote(1), when_exists.remote(tmp_path / "never"), value.remote(2)]
    assert miniray.get(waiter.remote(refs)) == (2, 1)
    (tmp_path / "never").touch()


def test_wait_and_get_from_many_threads():
    results = {}

    def work(name):
        for i in range(50):
            assert miniray.get(value.remote((name, i))) == (name, i)
        refs = [value.remote(i) for i in range(100)]
        while refs:
            _, refs = miniray.wait(refs)
        results[name] = True

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    work("main")
    for thread in threads:
        thread.join(60)
    assert len(results) == 7


def test_bad_arguments_of_wait_and_get():
    ref = value.remote(1)
    with pytest.raises(TypeError, match=r"wait takes a list of ObjectRefs, not a single one: wait\(\[ref\]\)"):
        miniray.wait(ref)
    with pytest.raises(TypeError, match="entry 1 is not an ObjectRef but int 3"):
        miniray.wait([ref, 3])
    with pytest.raises(ValueError, match="same ref twice"):
        miniray.wait([ref, ref])
    with pytest.raises(ValueError, match="wait was given no refs"):
        miniray.wait([])
    for number in (0, 2, True, 1.0):
        with pytest.raises(ValueError, match="num_returns must be within 1..1"):
            miniray.wait([ref], num_returns=number)
    for timeout in (-1, "1", True, float("nan")):
        with pytest.raises(ValueError, match="timeout must be"):
            miniray.wait([ref], timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be"):
            miniray.get(ref, timeout=timeout)
    with pytest.raises(TypeError, match="get takes an ObjectRef or a list of them, not int 3"):
        miniray.get(3)
    with pytest.raises(TypeError, match="get: entry 0 is not an ObjectRef but str 'x'"):
        miniray.get(["x"])
    with pytest.raises(TypeError, match="get takes"):
        miniray.get({ref: 1})
    assert miniray.get(ref) == 1


def test_cancel_of_a_waiting_and_of_a_queued_task(tmp_path):
    go = tmp_path / "go"
    gate = when_exists.remote(go, 1)
    waiting = value.remote(gate)
    busy = [when_exists.options(num_cpus=1).remote(go) for _ in range(2)]
    queued = [nap.remote(0, tmp_path / f"ran{i}") for i in range(20)]
    for ref in (waiting, *queued[::2]):
        miniray.cancel(ref)
        with pytest.raises(TaskCancelledError, match="was cancelled"):
            miniray.get(ref, timeout=20)
    go.touch()
    miniray.get([gate, *busy, *queued[1::2]])
    assert sorted(path.name for path in tmp_path.glob("ran*")) == sorted(f"ran{i}" for i in range(1, 20, 2))


def test_cancel_of_a_running_task(tmp_path):
    started = tmp_path / "started"
    ref = nap.remote(60, started)
    pid = int(eventually(lambda: started.exists() and started.read_text(), "a start"))
    miniray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        miniray.get(ref, timeout=20)
    get_pid = miniray.remote(os.getpid)
    eventually(lambda: pid in miniray.get([get_pid.remote() for _ in range(20)]), "it was only interrupted")


class SlowToRead:
    """Whoever unpickles it says so, and is not done before it may go on."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return read_slowly, (self.folder,)


def read_slowly(folder):
    (folder / "begun").touch()
    eventually((folder / "go").exists, "the test goes on", 30)


def test_cancel_while_the_arguments_are_read(tmp_path):
    """Whatever that is, a module that it imports is not left torn: the task does not begin."""
    refs = [nap.remote(60, SlowToRead(tmp_path)), value.remote(1)]
    eventually((tmp_path / "begun").exists, "a start")
    miniray.cancel(refs[0])
    miniray.get(value.remote(2))
    (tmp_path / "go").touch()
    with pytest.raises(TaskCancelledError):
        miniray.get(refs[0], timeout=20)
    assert miniray.get([refs[1], value.remote(3)], timeout=20) == [1, 3]


def test_cancel_with_force_ends_the_process(tmp_path):
    @miniray.remote
    def stubborn(path):
        path.write_text(str(os.getpid()))
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass

    ref = stubborn.remote(tmp_path / "pid")
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "a start"))
    miniray.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        miniray.get(ref, timeout=20)
    await_end(pid)
    assert miniray.get(value.remote(1)) == 1


def test_cancel_reaches_the_children(tmp_path):
    @miniray.remote
    def parent(path, depth):
        if depth:
            return miniray.get(parent.remote(path, depth - 1))
        try:
            path.write_text("started")
            while not path.with_name("stop").exists():
                time.sleep(0.002)
        finally:
            path.with_name("ended").touch()

    ref = parent.remote(tmp_path / "child", 2)
    eventually((tmp_path / "child").exists, "the innermost task")
    miniray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        miniray.get(ref, timeout=20)
    eventually((tmp_path / "ended").exists, "the end of the innermost task")

    other = tmp_path / "other"
    other.mkdir()
    ref = parent.remote(other / "child", 1)
    eventually((other / "child").exists, "the child")
    miniray.cancel(ref, recursive=False)
    with pytest.raises(TaskCancelledError):
        miniray.get(ref, timeout=20)
    assert not (other / "ended").exists()
    (other / "stop").touch()
    eventually((other / "ended").exists, "its end as it wanted")


def test_cancel_by_a_borrower_and_of_what_has_ended(tmp_path):
    ref = nap.remote(60, tmp_path / "started")
    eventually((tmp_path / "started").exists, "a start")
    miniray.get(miniray.remote(lambda box: miniray.cancel(box[0])).remote([ref]))
    with pytest.raises(TaskCancelledError):
        miniray.get(ref, timeout=20)
    done = value.remote(5)
    assert miniray.get(done) == 5
    miniray.cancel(done)
    miniray.cancel(done, force=True)
    assert miniray.get(done) == 5
    miniray.cancel(miniray.put(1))
    with pytest.raises(TypeError, match=r"cancel takes an ObjectRef, not int 3; an actor is ended by kill\(handle\)"):
        miniray.cancel(3)


def test_cancel_at_any_moment_leaves_workers_in_order():
    @miniray.remote
    def parent():
        for _ in range(50):
            miniray.get([value.remote(1), miniray.put(2)])

    for i in range(60):
        ref = parent.remote()
        time.sleep(i * 0.0004)
        miniray.cancel(ref)
        try:
            miniray.get(ref, timeout=20)
        except TaskCancelledError:
            pass
    del ref
    assert miniray.get([parent.remote() for _ in range(4)], timeout=30) == [None] * 4


def test_cancelled_tasks_are_not_retried(tmp_path):
    ref = nap.options(max_retries=5, retry_exceptions=True).remote(60, tmp_path / "started")
    eventually((tmp_path / "started").exists, "a start")
    miniray.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)) as caught:
        miniray.get(ref, timeout=20)
    assert caught.type is TaskCancelledError
