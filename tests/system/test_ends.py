"""The end of a driver, by a signal or in any ordinary way: soon there is no process and no file of its session."""

from __future__ import annotations

import os
import signal
import textwrap
import time

import psutil
import pytest
from quiescence import await_end, eventually, is_alive

GONE_SECONDS = 2.0  # the promise, after the driver's death


LOADED = """
    import atexit, os, signal, subprocess, sys, threading, time
    atexit.register(lambda: at_exit("before the import"))
    import numpy as np
    import miniray
    atexit.register(lambda: at_exit("before init"))

    def stubborn(_=None):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        command = "trap '' INT TERM HUP; setsid sleep 999 & sleep 999"
        subprocess.Popen(["sh", "-c", command], start_new_session=True)
        while True:
            try:
                time.sleep(1)
            except BaseException:
                pass

    @miniray.remote(num_cpus=0)
    def double(x):
        return 2 * x

    @miniray.remote
    class Actor:
        def double(self, x):
            return 2 * x

    def at_exit(when):
        try:
            print(when, miniray.get([double.remote(2), actor.double.remote(3)]), flush=True)
        except miniray.errors.SessionError as error:
            print(when, error, flush=True)

    miniray.init(num_cpus=2)
    atexit.register(lambda: at_exit("after init"))
    large = miniray.put(np.ones(1_000_000))
    view = miniray.get(large)
    actor = Actor.remote()
    ref = miniray.remote(stubborn).remote(large)
    pool = miniray.Pool(1)
    pool.apply_async(stubborn)
    if sys.argv[2] == "executor":
        executor = miniray.Executor(1)
        executor.submit(stubborn)
    print(miniray.get([double.remote(1), actor.double.remote(2)]), flush=True)
    sys.stdin.readline()
    exec(sys.argv[1])
"""
SLEEPERS = 2  # below the task and each call of pool and executor: a child and a grandchild, in sessions of their own
AT_EXIT = (
    "after init [4, 6]",
    "before init [4, 6]",
    "before the import the miniray session has ended, since the interpreter ends: functions for atexit that use "
    "miniray are to be registered after miniray was imported",
)
WAITS = "print('waits', flush=True); miniray.get(ref)"

DAEMONS = """
    def forever(use):
        while True:
            use()

    uses = (
        lambda: miniray.get(double.remote(1)),
        lambda: miniray.get(actor.double.remote(1)),
        lambda: miniray.get(miniray.put(np.ones(20_000))),
        lambda: double.remote(1),
        lambda: miniray.wait([ref], timeout=0.001),
        lambda: pool.apply_async(len, ("",)),
        lambda: miniray.get(ref),
        lambda: pool.map(len, ["a"] * 10),
    )
    for use in uses:
        threading.Thread(target=forever, args=(use,), daemon=True).start()
    time.sleep(0.1)
"""

LATE_THREAD = """
    def late():
        threading.main_thread().join()
        print("late", miniray.get(double.remote(4)), flush=True)

    threading.Thread(target=late).start()
"""

HANDLER = """
    def handler(number, frame):
        print("handled", miniray.get(double.remote(5)), flush=True)
        sys.exit(7)

    signal.signal(signal.SIGTERM, handler)
    print("waits", flush=True)
    while True:
        time.sleep(0.01)
"""

#: How it ends: the program's last lines, the signal that is sent then, its status, what it prints.
WAYS: dict[str, tuple[str, int, int, tuple[str, ...]]] = {
    "end of the script": ("pass", 0, 0, AT_EXIT),
    "exception": ("raise LookupError('its own')", 0, 1, AT_EXIT),
    "sys.exit": ("sys.exit(3)", 0, 3, AT_EXIT),
    "os._exit": ("os._exit(4)", 0, 4, ()),
    "os.abort": ("os.abort()", 0, -signal.SIGABRT, ()),
    "shutdown before": ("miniray.shutdown(); atexit._clear()", 0, 0, ()),
    "SIGINT": (WAITS, signal.SIGINT, -signal.SIGINT, AT_EXIT),
    "SIGTERM": (WAITS, signal.SIGTERM, -signal.SIGTERM, ()),
    "SIGHUP": (WAITS, signal.SIGHUP, -signal.SIGHUP, ()),
    "SIGKILL": (WAITS, signal.SIGKILL, -signal.SIGKILL, ()),
    "SIGTERM and a handler that exits": (HANDLER, signal.SIGTERM, 7, ("handled 10", *AT_EXIT)),
    "daemon threads that use miniray": (DAEMONS, 0, 0, AT_EXIT),
    "a thread that outlives the main one": (LATE_THREAD, 0, 0, ("late 8", *AT_EXIT)),
    "sys.exit in a thread": ("threading.Thread(target=lambda: sys.exit(9)).start()", 0, 0, AT_EXIT),
}


class Loaded:
    """A driver with everything under way that could outlive it: `WAYS` are ways to end it."""

    def __init__(self, script, tmp_path, monkeypatch, last, more=""):
        self.sleepers = SLEEPERS * (2 + bool(more))
        self.temporary = tmp_path / "temporary"
        self.temporary.mkdir()
        monkeypatch.setenv("TMPDIR", str(self.temporary))
        self.script = script(LOADED, textwrap.dedent(last), more)
        assert self.script.line() == "[2, 4]"
        self.brood = eventually(self._all, "everything runs")

    def _all(self):
        found = psutil.Process(self.script.pid).children(recursive=True)
        names = [name_of(process) for process in found]
        return found if names.count("sleep") == self.sleepers and len(found) >= self.sleepers + 6 else None

    def go(self):
        self.script.process.stdin.write("go\n")
        self.script.process.stdin.flush()

    def assert_nothing_is_left(self):
        """No process, and no file in a place for temporary things that is this session's alone. (`conftest.py` looks
        at /dev/shm.)"""
        deadline = time.monotonic() + GONE_SECONDS
        try:
            for process in self.brood:
                await_end(process.pid, max(0.01, deadline - time.monotonic()))
        finally:
            for process in self.brood:
                if process.is_running():  # still the same one
                    process.kill()
        assert not list(self.temporary.iterdir())


def age(process):
    """Of two of one tick the one with the lower number is the elder; other numbers may have begun anew meanwhile."""
    return process.create_time(), process.pid


def name_of(process):
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_whichever_way_it_ends(script, tmp_path, monkeypatch, way):
    """Whatever runs: it ignores signals, and has children in sessions of their own, and those too."""
    last, number, status, printed = WAYS[way]
    more = "" if printed else "executor"  # whose calls are done to the end where the interpreter ends by itself
    loaded = Loaded(script, tmp_path, monkeypatch, last, more if way != "shutdown before" else "")
    loaded.go()
    if number:
        assert loaded.script.line() == "waits"
        loaded.script.send(number)
    output, _ = loaded.script.process.communicate(timeout=20)
    loaded.assert_nothing_is_left()
    assert loaded.script.process.returncode == status
    assert tuple(output.splitlines()) == printed


@pytest.mark.parametrize("victim", ["zygote", "node"])
def test_nothing_is_left_when_one_of_its_own_processes_is_killed(script, tmp_path, monkeypatch, victim):
    """Not even what has made sessions of its own, though the zygote was the one that would have got it as an orphan."""
    waits = "print('waits', flush=True)\ntry: miniray.get(ref)\nexcept miniray.errors.NodeDiedError: print('told')\n"
    loaded = Loaded(script, tmp_path, monkeypatch, waits + "sys.stdin.read()")
    loaded.go()
    assert loaded.script.line() == "waits"
    (zygote,) = psutil.Process(loaded.script.pid).children()
    (zygote if victim == "zygote" else min(zygote.children(), key=age)).kill()
    loaded.assert_nothing_is_left()
    output, _ = loaded.script.process.communicate(timeout=20)
    assert output.startswith("told\n")


def test_nothing_is_left_of_a_program_that_becomes_another_one(script, tmp_path, monkeypatch):
    """`exec`: its process lives on, and the next program knows nothing of a session."""
    loaded = Loaded(script, tmp_path, monkeypatch, "os.execv('/bin/sleep', ['sleep', '60'])")
    loaded.go()
    loaded.assert_nothing_is_left()
    assert is_alive(loaded.script.pid)


FORKS = """
    def child(body):
        pid = os.fork()
        if pid == 0:
            body()
            exec(sys.argv[2])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5

    def uses():
        try:
            f.remote(1)
        except miniray.errors.ForkedDriverError:
            return
        os._exit(1)

    def begins():
        miniray.init(num_cpus=1)
        assert miniray.get(f.remote(2)) == 2
        slow.remote()
        print(*[process.pid for process in psutil.Process().children(recursive=True)], flush=True)

    import psutil
    ref, actor = slow.remote(), Actor.remote()
    for body in (lambda: None, uses, begins, miniray.shutdown):
        child(body)
        assert miniray.get([f.remote(3), actor.f.remote()]) == [3, 1]
    print("lives on")
"""


@pytest.mark.parametrize("way", ["os._exit(5)", "sys.exit(5)"])
def test_a_forked_child_ends_nothing_of_its_parents_session(script, way):
    """And a session of its own ends with it."""
    driver = script(ORDINARY, textwrap.dedent(FORKS), way)
    assert driver.line() == "ready"
    pids = [int(word) for word in driver.line().split()]
    assert len(pids) >= 3
    for pid in pids:
        await_end(pid, GONE_SECONDS)
    assert driver.end() == "lives on\n"


FORKED = """
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    print(pid, flush=True)
    slow.remote()
    os._exit(0)
"""


def test_a_forked_child_that_lives_on_keeps_nothing_of_the_session(script):
    driver = script(ORDINARY, textwrap.dedent(FORKED))
    assert driver.line() == "ready"
    brood = psutil.Process(driver.pid).children(recursive=True)
    child = int(driver.line())
    driver.process.wait()
    try:
        for process in brood:
            if process.pid != child:  # it may have been there when they were counted
                await_end(process.pid, GONE_SECONDS)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_nothing_is_left_when_all_of_a_session_is_killed_at_once(script, tmp_path, monkeypatch):
    """But for what has made sessions of their own: nobody is left who knows of them. What could end them all the same
    is the kernel, with a PID namespace or a cgroup, for which an ordinary user has no right everywhere."""
    loaded = Loaded(script, tmp_path, monkeypatch, WAITS)
    sleepers = [process for process in loaded.brood if name_of(process) in ("sh", "sleep")]
    for victim in (loaded.script.pid, *[process.pid for process in loaded.brood if process not in sleepers]):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
    loaded.script.process.wait()
    for process in sleepers:
        if is_alive(process.pid):
            process.kill()
    loaded.assert_nothing_is_left()


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
    driver.end()
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
    assert script(INTERRUPTED, seed).end() == "nothing left\n"
