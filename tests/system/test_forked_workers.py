"""Actors that are made with `start="fork"`: forked from the driver, with all that it has, and ended in every way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from quiescence import assert_quiet, await_end, eventually

import miniray
from miniray.errors import ActorDiedError, InfeasibleError, SessionError, TaskCancelledError

GRACE_SECONDS = 2.0
HEAD = """
import atexit, gc, multiprocessing, os, signal, subprocess, sys, threading, time
import miniray

lock, count = multiprocessing.Lock(), multiprocessing.Value("i", 0)
opened = (n for n in range(3))   # what no pickle carries

class Held:
    def __init__(self, *given):
        self.given = given
    def evaluate(self, text):
        return eval(text, {**globals(), "given": self.given})
    def add(self, times):
        for _ in range(times):
            with lock:
                count.value += 1
    def popen(self):
        self.children = [subprocess.Popen(["sleep", "999"], start_new_session=new) for new in (False, True)]
        return [child.pid for child in self.children]

Forked = miniray.remote(Held).options(start="fork")
"""


class Plain:
    def __init__(self, *given: object) -> None:
        self.given = given

    def pid(self) -> int:
        return os.getpid()

    def nap(self, started: Path) -> None:
        started.touch()
        time.sleep(60)

    def given_is(self, number: int) -> bool:
        return [id(one) for one in self.given] == [number]

    def end(self, how: str) -> None:
        if how == "exit":
            os._exit(7)
        os.kill(os.getpid(), signal.SIGKILL)


def test_it_has_what_the_driver_has_and_its_arguments_are_not_pickled(script: Callable) -> None:
    driver = script(
        HEAD
        + """
def made_here():
    secret = threading.Lock()    # cannot be pickled either
    return Forked.remote(lock, opened, lambda: secret.locked())

actors = [made_here() for _ in range(3)]
miniray.get([actor.add.remote(1000) for actor in actors])
assert count.value == 3000
for text in ("given[0] is lock", "given[1] is opened", "given[2]() is False", "'Forked' in globals()"):
    assert miniray.get(actors[0].evaluate.remote(text)), text
print("ended", flush=True)
"""
    )
    assert driver.line() == "ended"
    driver.end()


def test_nothing_of_the_driver_goes_on_in_it(script: Callable) -> None:
    driver = script(
        HEAD
        + """
def handler(*_):
    print("handled in", "driver" if os.getpid() == driver else "worker", flush=True)

driver = os.getpid()
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, handler)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
atexit.register(lambda: print("exit of", "driver" if os.getpid() == driver else "worker"))
threading.Thread(target=time.sleep, args=(999,), daemon=True).start()
sys.stdout.write("once,")        # still in the buffer at the fork
actor = Forked.remote()
for text, is_so in {
    "[signal.getsignal(n).name for n in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)]": ["SIG_DFL"] * 3,
    "len(signal.pthread_sigmask(signal.SIG_BLOCK, []))": 0,
    "signal.pthread_sigmask(signal.SIG_BLOCK, []) == signal.pthread_sigmask(signal.SIG_SETMASK, [])": True,
    "sys.stdin.read()": "",
    "os.getpgid(0) == os.getpid() and os.getppid() == driver": True,
    "(threading.current_thread() is threading.main_thread(), threading.main_thread().name)": (True, "MainThread"),
    "[one.name for one in threading.enumerate() if one.daemon]": ["miniray-loop"],
    "len(gc.callbacks)": len(gc.callbacks),
    "multiprocessing.active_children()": [],
    "miniray.is_initialized()": True,
    "miniray.shutdown()": None,
    "miniray.get(miniray.remote(os.getppid).remote()) != driver": True,
}.items():
    found = miniray.get(actor.evaluate.remote(text))
    assert found == is_so, (text, found)
pid = miniray.get(actor.evaluate.remote("os.getpid()"))
del actor
while os.path.exists(f"/proc/{pid}"):
    time.sleep(0.01)
os.kill(driver, signal.SIGUSR1)
print("ended", flush=True)
"""
    )
    assert driver.end().split("\n") == ["once,handled in driver", "ended", "exit of driver", ""]


@pytest.mark.parametrize(("how", "told"), [("exit", "exited with code 7"), ("kill", "ended by signal 9")])
def test_its_end_is_told_with_its_status_and_no_zombie_stays(session: None, how: str, told: str) -> None:
    actor = miniray.remote(Plain).options(start="fork").remote()
    pid = miniray.get(actor.pid.remote())
    assert psutil.Process(pid).ppid() == os.getpid()
    with pytest.raises(ActorDiedError, match=told):
        miniray.get(actor.end.remote(how), timeout=20)
    await_end(pid, GRACE_SECONDS)
    del actor
    assert_quiet()


@pytest.mark.parametrize("reaper", ["kernel", "program"])
def test_what_it_has_started_ends_with_it_though_somebody_else_reaps_it(script: Callable, reaper: str) -> None:
    """The kernel, where the program ignores SIGCHLD; or the program itself."""
    driver = script(
        HEAD
        + f"""
def reap():
    try:
        os.wait()
    except ChildProcessError:  # the runtime was there first
        pass

reaper = {reaper!r}
if reaper == "kernel":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
actor = Forked.remote()
pid = miniray.get(actor.evaluate.remote("os.getpid()"))
started = miniray.get(actor.evaluate.remote(
    "(__import__('warnings').simplefilter('ignore'), os.fork() or time.sleep(999))[1]"  # what is executed dies anyhow
))
if reaper == "program":
    threading.Thread(target=reap, daemon=True).start()
    time.sleep(0.1)  # so that it is there first, mostly
os.kill(pid, signal.SIGKILL)
try:
    miniray.get(actor.evaluate.remote("1"))
except miniray.errors.ActorDiedError:
    print(started, flush=True)
sys.stdin.read(1)
"""
    )
    pid = int(driver.line())
    try:
        await_end(pid, GRACE_SECONDS)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
    driver.end()


def test_descriptors_come_back_and_a_worker_has_none_of_the_runtime_but_its_own(script: Callable) -> None:
    driver = script(
        HEAD
        + """
import psutil
def descriptors():
    return [os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")]
def until_gone():
    while {child.pid for child in psutil.Process().children()} != before:
        time.sleep(0.005)

miniray.init(num_cpus=1)
before = {child.pid for child in psutil.Process().children()}
first = Forked.remote()
miniray.get(first.evaluate.remote("os.getpid()"))
del first
until_gone()
count = len(descriptors())
actors = [Forked.remote() for _ in range(4)]
found = miniray.get([actor.evaluate.remote("descriptors()") for actor in actors])[3]
for kind in ("eventpoll", "eventfd", "pidfd"):
    assert sum(one.endswith(f"anon_inode:[{kind}]") for one in found) == 1, (kind, found)
del actors
until_gone()
while len(descriptors()) > count:
    time.sleep(0.005)
print("ended", flush=True)
"""
    )
    assert driver.end() == "ended\n"


def _children() -> list[int]:
    return sorted(child.pid for child in psutil.Process().children())


def test_twenty_forks_while_other_threads_hold_locks_and_allocate(script: Callable) -> None:
    driver = script(
        HEAD
        + """
import logging, random, tempfile
stop = threading.Event()

def busy():
    table = {}
    while not stop.is_set():
        table[random.random()] = bytearray(random.randrange(20_000))
        logging.getLogger(str(len(table))).debug("x")
        if len(table) > 500:
            table.clear()
            miniray.get(square.remote(3))
        print("", end="", file=sys.stderr)

@miniray.remote
def square(x):
    return x * x

threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
for n in range(20):
    actor = Forked.remote(n)
    assert miniray.get(actor.evaluate.remote("(given, len([bytearray(5000) for _ in range(100)]), "
        "logging.getLogger('there').level, print('', end=''))")) == ((n,), 100, 0, None)
stop.set()
for thread in threads:
    thread.join()
print("ended", flush=True)
"""
    )
    assert driver.end() == "ended\n"


@pytest.mark.parametrize("whom", ["driver", "node", "both"])
def test_after_a_kill_nothing_is_left(script: Callable, whom: str) -> None:
    driver = script(
        HEAD
        + """
actors = [Forked.remote() for _ in range(2)]
busy = actors[0].evaluate.remote("time.sleep(999)")
pids = [*miniray.get(actors[1].popen.remote()), miniray.get(actors[1].evaluate.remote("os.getpid()"))]
print(*pids, flush=True)
try:
    miniray.get(busy)
except miniray.errors.NodeDiedError:
    print("ended", flush=True)
"""
    )
    pids = [int(word) for word in driver.line().split()]
    children = psutil.Process(driver.pid).children()
    (zygote,) = [one for one in children if one.children()  and "zygote" in " ".join(one.cmdline())]
    node = min(zygote.children(), key=lambda one: (one.create_time(), one.pid)).pid
    everyone = [one.pid for one in psutil.Process(driver.pid).children(recursive=True)]
    assert {*pids} < {*everyone}
    if whom != "driver":
        os.kill(node, signal.SIGKILL)
    if whom != "node":
        os.kill(driver.pid, signal.SIGKILL)
    for pid in everyone:
        await_end(pid, GRACE_SECONDS)
    if whom == "node":
        assert driver.line() == "ended"
        driver.end()


def test_refs_views_and_handles_that_were_inherited_work_and_what_they_name_stays(script: Callable) -> None:
    driver = script(
        HEAD
        + """
import numpy as np

@miniray.remote
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count

small, large, counter = miniray.put("small"), miniray.put(np.arange(100_000)), Counter.remote()
view = miniray.get(large)
actor = Forked.remote(small, [large], counter, miniray.put("only here"))
assert miniray.get(actor.evaluate.remote(
    "miniray.get([given[0], given[3], given[2].add.remote(), counter.add.remote()])"
)) == ["small", "only here", 1, 2]
assert miniray.get(counter.add.remote()) == 3
assert miniray.get(actor.evaluate.remote("int(miniray.get(given[1][0]).sum())")) == 4999950000
stored = large
second = Forked.remote()
del large, view, stored, actor                # nothing here looks at it any more, but the second one does
gc.collect()
for _ in range(20):
    miniray.get(miniray.put(np.zeros(100_000)))
assert miniray.get(second.evaluate.remote("int(view.sum())")) == 4999950000
assert miniray.get(second.evaluate.remote("miniray.get(miniray.remote(lambda x: x + '!').remote(small))")) == "small!"
del second
sys.path.insert(0, os.environ["PYTHONPATH"].split(os.pathsep)[0])
from quiescence import assert_quiet
del small, counter
assert_quiet()
print("ended", flush=True)
"""
    )
    assert driver.end() == "ended\n"


def test_a_restarted_one_inherits_anew(script: Callable) -> None:
    driver = script(
        HEAD
        + """
word = "first"
actor = Forked.options(max_restarts=3, max_task_retries=-1).remote(lock, lambda: word)
seen = []
for following in ("second", "third", "last"):
    told = miniray.get(actor.evaluate.remote("(os.getpid(), os.getppid(), word, given[1](), given[0] is lock)"))
    seen.append(told)
    word = following  # before its end is known: the next one is forked at once
    os.kill(told[0], signal.SIGKILL)
    while os.path.exists(f"/proc/{told[0]}"):
        time.sleep(0.005)
assert [one[1:] for one in seen] == [(os.getpid(), word, word, True) for word in ("first", "second", "third")], seen
print("ended", flush=True)
"""
    )
    assert driver.end() == "ended\n"


def test_one_that_is_made_while_the_driver_pickles_does_not_go_on_with_that_pickle(script: Callable) -> None:
    """A ref in somebody else's pickle would count as one of the driver's, and so be kept by nobody."""
    driver = script(
        HEAD
        + """
import pickle, warnings

warnings.simplefilter("ignore")  # that pickle keeps its ref for good, and says so

class Refs:
    def pickled(self):
        return pickle.dumps(miniray.put("kept"))
    def read(self, data):
        return miniray.get(pickle.loads(data), timeout=10)

class Making:
    def __reduce__(self):
        actors.append(miniray.remote(Refs).options(start="fork").remote())
        return int, ()

actors = []
miniray.put(Making())
data = miniray.get(actors[0].pickled.remote())
print(miniray.get(actors[0].read.remote(data)), flush=True)
"""
    )
    assert driver.end() == "kept\n"


def test_it_runs_none_of_the_callbacks_that_wait_in_the_driver(script: Callable) -> None:
    driver = script(
        HEAD
        + """
driver, (runs, may_end, done) = os.getpid(), (threading.Event() for _ in range(3))
def wait(future):
    runs.set()
    may_end.wait()
def tell(future):
    print("called back in the", "driver" if os.getpid() == driver else "worker", flush=True)
    done.set()

ref = miniray.put(1)
ref.future().add_done_callback(wait)
runs.wait()                      # the thread of callbacks is busy
ref.future().add_done_callback(tell)
actor = Forked.remote()
assert miniray.get(actor.evaluate.remote("miniray.put(2).future().result(10)")) == 2
may_end.set()
done.wait()
"""
    )
    assert driver.end() == "called back in the driver\n"


def test_what_it_has_put_into_a_queue_gets_there(script: Callable) -> None:
    driver = script(
        HEAD
        + """
queue = multiprocessing.Queue()
actor = Forked.remote()
miniray.get(actor.evaluate.remote("[queue.put('x' * 100_000) for _ in range(50)] and None"))
del actor
assert sum(len(queue.get(timeout=10)) for _ in range(50)) == 5_000_000
print("ended", flush=True)
"""
    )
    assert driver.end() == "ended\n"


def test_only_the_driver_can_be_forked(session: None) -> None:
    @miniray.remote
    def within() -> None:
        miniray.remote(Plain).options(start="fork").remote()

    with pytest.raises(SessionError, match="start='fork' is for actors of the driver"):
        miniray.get(within.remote())
    with pytest.raises(ValueError, match="start must be 'zygote' or 'fork', not 'spawn'"):
        miniray.remote(Plain).options(start="spawn")


def test_a_call_of_it_is_cancelled_while_it_runs(session: None, tmp_path: Path) -> None:
    """The code that forked it, which lies below on its stack, puts signals off: in the driver."""
    actor, started = miniray.remote(Plain).options(start="fork").remote(), tmp_path / "started"
    pid = miniray.get(actor.pid.remote())
    nap = actor.nap.remote(started)
    eventually(started.exists, "a start")
    miniray.cancel(nap)
    with pytest.raises(TaskCancelledError):
        miniray.get(nap, timeout=20)
    assert miniray.get(actor.pid.remote(), timeout=20) == pid


def test_an_interrupted_creation_leaves_nothing(session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it waits for the node: what was forked meanwhile ends."""
    from miniray._runtime.forks import Forks

    def interrupted(self: Forks, token: object) -> None:
        monkeypatch.undo()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # whichever thread this is
        self.on_readable(token)

    children = _children()
    miniray.get(miniray.remote(os.getpid).remote())
    monkeypatch.setattr(Forks, "on_readable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        miniray.remote(Plain).options(start="fork").remote()
    eventually(lambda: _children() == children, "no worker is left")
    assert_quiet()
    actor = miniray.remote(Plain).options(start="fork").remote()
    assert miniray.get(actor.pid.remote()) != os.getpid()


def test_an_error_of_users_code_before_the_fork_is_told(session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a metaclass's `__hash__`, when it is asked which classes there are."""
    from miniray._serialization import forked

    def fail(last: object) -> None:
        raise ValueError("of a metaclass")

    monkeypatch.setattr(forked, "prepare_fork", fail)
    with pytest.raises(InfeasibleError, match="could not be forked: of a metaclass"):
        miniray.get(miniray.remote(Plain).options(start="fork").remote().pid.remote(), timeout=20)
    monkeypatch.undo()
    actor = miniray.remote(Plain).options(start="fork").remote()
    assert miniray.get(actor.pid.remote()) != os.getpid()
