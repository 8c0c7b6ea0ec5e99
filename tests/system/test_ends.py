"""The end of a driver, by a signal or in any ordinary way: soon there is no process and no file of its session."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
from quiescence import await_end, is_alive

GONE_SECONDS = 2.0  # the promise, after the driver's death


DRIVER = """
    import os, subprocess, sys, time
    import numpy as np
    import miniray

    @miniray.remote
    def work(path):
        child = subprocess.Popen(["sleep", "999"], start_new_session=True)
        print(os.getpid(), child.pid, flush=True)
        time.sleep(60)

    @miniray.remote
    class Actor:
        def pid(self):
            return os.getpid()

    miniray.init(num_cpus=2)
    large = miniray.put(np.ones(1_000_000))
    actor = Actor.remote()
    print(miniray.get(actor.pid.remote()), flush=True)
    ref = work.remote(large)
    miniray.get(ref)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_of_a_killed_driver(script, number, tmp_path, monkeypatch):
    """Nor a file, in a place for temporary things that is this session's alone (of /dev/shm `conftest.py` knows)."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    driver = script(DRIVER)
    pids = [int(driver.line()), *map(int, driver.line().split())]
    pids += [process.pid for process in psutil.Process(driver.pid).children(recursive=True)]
    assert all(map(is_alive, pids)) and len(set(pids)) >= 5
    driver.send(number)
    driver.process.wait()
    deadline = time.monotonic() + GONE_SECONDS
    for pid in pids:
        await_end(pid, max(0.01, deadline - time.monotonic()))
    assert not list(temporary.iterdir())


def test_nothing_is_left_when_all_of_a_session_is_killed_at_once(script):
    driver = script(DRIVER)
    pids = [int(driver.line()), *map(int, driver.line().split())]
    everyone = psutil.Process(driver.pid).children(recursive=True)
    for victim in (driver.pid, *[process.pid for process in everyone if "sleep" not in process.name()]):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for pid in pids[:-1]:
        await_end(pid, GONE_SECONDS)
    os.kill(pids[-1], signal.SIGKILL)  # the grandchild: nobody was left who could have known of it


ENDS = {
    "end of the script": "pass",
    "with work under way": "refs = [slow.remote() for _ in range(10)]",
    "sys.exit": "sys.exit(0)",
    "in a daemon thread": "threading.Thread(target=lambda: miniray.get(slow.remote()), daemon=True).start()",
    "with futures and callbacks": "slow.remote().future().add_done_callback(print); f.remote(1).future().result()",
    "with an actor": "actor = Actor.remote(); miniray.get(actor.f.remote())",
    "with views": "kept = miniray.get([miniray.put(np.ones(100_000)) for _ in range(10)])",
    "with a cycle of refs": "cycle = [f.remote(1)]; cycle.append(cycle)",
    "with a global that submits at its end": "keep = Finalised()",
    "after a shutdown": "miniray.shutdown()",
    "os._exit": "os._exit(0)",
    "from atexit": "import atexit; atexit.register(lambda: f.remote(1))",
}

ORDINARY = """
    import os, sys, threading, time
    import numpy as np
    import miniray

    @miniray.remote
    def f(x):
        return x

    @miniray.remote
    def slow():
        time.sleep(60)

    @miniray.remote
    class Actor:
        def f(self):
            return 1

    class Finalised:
        def __del__(self):
            try:
                f.remote(1)
            except Exception:
                pass

    assert miniray.get([f.remote(i) for i in range(10)]) == list(range(10))
    print("ready", flush=True)
    exec(sys.argv[1])
"""


@pytest.mark.parametrize("how", ENDS)
def test_interpreters_end_in_every_ordinary_way(script, how):
    driver = script(ORDINARY, ENDS[how])
    assert driver.line() == "ready"
    pids = [process.pid for process in psutil.Process(driver.pid).children(recursive=True)]
    driver.end(10)
    for pid in pids:
        await_end(pid, GONE_SECONDS)


INTERRUPTED = """
    import random, os, signal, sys, threading, time
    import psutil
    import miniray

    dice = random.Random(int(sys.argv[1]))

    def send(delay):
        time.sleep(delay)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def interrupted(word, most):
        thread = threading.Thread(target=send, args=(dice.random() * most,))
        try:
            thread.start()  # which may take longer than its delay
            word()
            thread.join()
        except KeyboardInterrupt:
            pass
        thread.join()

    miniray.init(num_cpus=1)
    miniray.shutdown()
    for _ in range(5):
        interrupted(lambda: miniray.init(num_cpus=1), 0.2)
        miniray.shutdown()
        assert not psutil.Process().children(), "init"
        miniray.init(num_cpus=1)
        interrupted(miniray.shutdown, 0.02)
        miniray.shutdown()
        assert not psutil.Process().children(), "shutdown"
    print("nothing left")
"""


@pytest.mark.parametrize("seed", range(3))
def test_ctrl_c_in_init_and_in_shutdown_leaves_nothing(script, seed):
    assert script(INTERRUPTED, seed).end(60) == "nothing left\n"
