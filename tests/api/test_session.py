"""Sessions: init, a second init, use after shutdown, forks of the driver, finalisers and threads."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from quiescence import assert_quiet

import miniray
from miniray._runtime.driving import ReentrantWaitError
from miniray.errors import ForkedDriverError, ObjectLostError, SessionError


@pytest.fixture(autouse=True)
def ends():
    yield
    miniray.shutdown()


@miniray.remote
def double(x):
    return x * 2


def in_child(body: Callable[[], object]) -> str:
    """Run `body` in a fork of this process; what it returned, or the error's type and text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = str(body())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return text


def test_it_begins_by_itself():
    """In a process that never had a session; after a shutdown it says so instead (see below)."""
    source = """
        import miniray
        assert not miniray.is_initialized()
        assert miniray.get(miniray.remote(lambda x: 2 * x).remote(4)) == 8
        assert miniray.is_initialized()
        miniray.shutdown()
        assert not miniray.is_initialized()
        miniray.shutdown()
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_second_init_says_so():
    miniray.init(num_cpus=1)
    with pytest.raises(SessionError, match=r"init\(\) was called twice: call miniray.shutdown\(\) first"):
        miniray.init(num_cpus=1)
    miniray.init(num_cpus=3, ignore_reinit_error=True)
    assert miniray.get(double.remote(4)) == 8


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"num_cpus": "2"}, (TypeError, ValueError), "num_cpus"),
        ({"object_store_memory": 1.5}, TypeError, "object_store_memory must be an int"),
        ({"object_store_memory": 5}, ValueError, "at least"),
        ({"object_store_memory": 1 << 50}, SessionError, r"no room for the object store: .*init\(object_store_memory="),
        ({"max_lineage_bytes": True}, TypeError, "max_lineage_bytes must be an int"),
        ({"max_lineage_bytes": -1}, ValueError, "max_lineage_bytes must be at least 0 bytes"),
        ({"resources": {"CPU": 2}}, ValueError, "num_cpus"),
        ({"resources": {"a": "b"}}, TypeError, "must be a number"),
        ({"cpus": 2}, TypeError, "cpus"),
    ],
)
def test_arguments_of_init_are_checked(given, error, text):
    with pytest.raises(error, match=text):
        miniray.init(**given)
    assert not miniray.is_initialized()


def test_custom_resources_and_one_cpu():
    miniray.init(num_cpus=1, resources={"slot": 2})

    @miniray.remote(num_cpus=0, resources={"slot": 1})
    def hold():
        time.sleep(0.1)
        return time.monotonic()

    assert len(miniray.get([hold.remote() for _ in range(4)])) == 4

    @miniray.remote
    def deep(levels):
        return 0 if levels == 0 else 1 + sum(miniray.get([deep.remote(levels - 1), double.remote(0)]))

    assert miniray.get(deep.remote(10), timeout=60) == 10
    assert_quiet()


def test_use_after_shutdown():
    miniray.init(num_cpus=1)
    ref = miniray.put(np.arange(100_000))
    small = double.remote(1)
    view = miniray.get(ref)
    miniray.shutdown()
    uses = (miniray.get, ref), (miniray.wait, [ref]), (double.remote, 2), (miniray.put, 1)
    for use, argument in uses:
        with pytest.raises(SessionError, match=r"ended by shutdown\(\); call miniray.init\(\)"):
            use(argument)
    assert view[99_999] == 99_999  # views stay valid
    miniray.init(num_cpus=1)
    for use, argument in ((miniray.get, small), (miniray.wait, [small]), (double.remote, small)):
        with pytest.raises(ObjectLostError, match="session that has ended"):
            use(argument)
    del ref, small, uses, use, argument
    gc.collect()
    assert miniray.get(double.remote(1)) == 2 and view.sum() == 4999950000
    assert_quiet()


def test_waits_end_with_the_session():
    miniray.init(num_cpus=1)
    ref = miniray.remote(time.sleep).remote(60)
    caught = []

    def wait():
        try:
            miniray.get(ref)
        except BaseException as error:
            caught.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    miniray.shutdown()
    for thread in threads:
        thread.join(20)
    assert [type(error) for error in caught] == [SessionError] * 3


def test_a_fork_of_the_driver_cannot_use_its_session():
    miniray.init(num_cpus=1)
    ref = miniray.put(list(range(10)))
    large = miniray.put(np.arange(100_000))
    pending = double.remote(21)
    uses = {
        "get": lambda: miniray.get(ref),
        "get of a large one": lambda: miniray.get(large),
        "get of a pending one": lambda: miniray.get(pending),
        "wait": lambda: miniray.wait([ref]),
        "put": lambda: miniray.put(1),
        "remote": lambda: double.remote(1),
        "cancel": lambda: miniray.cancel(pending),
    }
    for name, use in uses.items():
        text = in_child(use)
        assert text.startswith("ForkedDriverError") and str(os.getpid()) in text and "miniray.init()" in text, name
    assert in_child(miniray.is_initialized) == "False"
    assert in_child(miniray.shutdown) == "None"
    assert miniray.get([pending, double.remote(2)]) == [42, 4]
    assert issubclass(ForkedDriverError, SessionError)


def test_a_child_drops_refs_and_exits_without_disturbing_its_parent():
    miniray.init(num_cpus=1)
    refs = [miniray.put(i) for i in range(100)]
    view = miniray.get(miniray.put(np.arange(100_000)))

    def drop():
        refs.clear()
        nonlocal view
        view = None
        gc.collect()

    for _ in range(3):
        in_child(drop)
    pid = os.fork()
    if pid == 0:
        import atexit

        atexit._run_exitfuncs()  # as an ordinary end would
        os._exit(0)
    os.waitpid(pid, 0)
    assert miniray.get(refs) == list(range(100)) and view[3] == 3
    assert miniray.get(double.remote(4)) == 8


def test_a_child_may_begin_a_session_of_its_own():
    miniray.init(num_cpus=1)
    assert miniray.get(double.remote(1)) == 2

    def own():
        miniray.init(num_cpus=1)
        value = miniray.get(double.remote(50))
        miniray.shutdown()
        return value

    assert in_child(own) == "100"
    assert miniray.get(double.remote(2)) == 4


class Finalised:
    def __init__(self, action):
        self.action = action

    def __del__(self):
        self.action()


def test_finalisers_submit_put_and_drop():
    miniray.init(num_cpus=1)
    kept = []
    for i in range(300):
        if i % 3 == 0:
            item = Finalised(lambda: kept.append(double.remote(1)))
        elif i % 3 == 1:
            item = Finalised(lambda: kept.append(miniray.put([1])))
        else:
            ref = miniray.put(i)
            item = Finalised(lambda ref=ref: double.remote(ref))
            del ref
        if i % 2:
            item.cycle = item
        del item
        miniray.get(double.remote(i))
    gc.collect()
    assert len(kept) == 200
    assert set(map(str, miniray.get(kept))) == {"2", "[1]"}
    kept.clear()
    assert_quiet()


def test_a_blocking_call_in_a_finaliser_within_the_runtime_raises():
    miniray.init(num_cpus=1)
    from miniray._runtime.context import get_current

    process = get_current()
    errors = []

    def block():
        try:
            miniray.get(double.remote(1))
        except BaseException as error:
            errors.append((type(error), str(error)))

    process.drives.locked(lambda: Finalised(block) and None)
    assert [kind for kind, _ in errors] == [ReentrantWaitError] and "finaliser" in errors[0][1]
    assert miniray.get(double.remote(3)) == 6
    assert_quiet()


def test_threads_may_come_and_go():
    miniray.init(num_cpus=2)

    def work():
        assert miniray.get([double.remote(i) for i in range(20)]) == [2 * i for i in range(20)]

    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert_quiet()
