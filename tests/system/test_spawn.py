"""Starting and, above all, ending the processes of a session: real processes, real kills, nothing left."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from miniray._runtime import spawn
from miniray._runtime.spawn import Plan, Session, StartError, start_session

BOUND_SECONDS = 2.0  # RELIABILITY.md: what must be gone is gone within this


def plan(**changes: object) -> Plan:
    fields: dict[str, object] = {
        "session": b"spwn",
        "arena_descriptor": -1,
        "arena_bytes": 0,
        "config": b"opaque",
        "node_main": "stand_in_mains:node",
        "worker_main": "stand_in_mains:worker",
    }
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]


class Talk:
    """A session whose node obeys lines."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pids: list[int] = []
        self._buffer = b""

    def tell(self, line: str) -> None:
        self.session.link.sendall(line.encode() + b"\n")

    def hear(self, *beginnings: str) -> str:
        """The next line that begins so; others before it are dropped."""
        deadline = time.monotonic() + 20
        self.session.link.settimeout(20)
        while time.monotonic() < deadline:
            while b"\n" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\n")
                if line.decode().startswith(beginnings):
                    return line.decode()
            data = self.session.link.recv(65_536)
            assert data, "the node has gone"
            self._buffer += data
        raise AssertionError(f"nothing like {beginnings}")

    def worker(self, number: int) -> int:
        self.tell(f"fork {number}")
        pid = int(self.hear(f"said {number} ").split()[2])
        self.pids.append(pid)
        return pid

    def ask(self, number: int, expression: str) -> str:
        self.tell(f"tell {number} {expression}")
        return self.hear(f"said {number} ").split(" ", 2)[2]

    def ask_node(self, expression: str) -> str:
        self.tell(f"here {expression}")
        return self.hear("here ").split(" ", 1)[1]

    def daemon_of(self, number: int) -> int:
        pid = int(self.ask(number, "daemon()"))
        self.pids.append(pid)
        return pid

    def all_pids(self) -> list[int]:
        return [self.session.zygote_pid, self.session.node_pid, *self.pids]


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float = BOUND_SECONDS) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    """With what the zygote imports as the parameter, if there is one."""
    gc.collect()  # else what earlier tests have left closes its descriptors in the middle
    before = sorted(os.listdir("/proc/self/fd"))
    session = start_session(plan(imports=getattr(request, "param", plan().imports)))
    made = Talk(session)
    try:
        session.wait_until_started()
        yield made
    finally:
        session.stop(0)
        session.link.close()
        left = [pid for pid in made.all_pids() if not eventually(lambda pid=pid: not runs(pid))]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left
    assert sorted(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


def test_a_worker_is_born_with_what_it_was_promised(talk: Talk) -> None:
    pid = talk.worker(7)
    assert talk.ask(7, "os.getpgrp() == os.getpid() and os.getsid(0)") == str(talk.session.zygote_pid)
    assert talk.ask(7, "os.getppid()") == str(talk.session.zygote_pid)
    assert talk.ask(7, "(endowment.role, endowment.session, endowment.config)") == "('worker', b'spwn', b'opaque')"
    assert talk.ask(7, "(endowment.me, endowment.node)") == repr((b"spwn\0\0\0\7", b"spwn\0\0\0\0"))
    assert talk.ask(7, "endowment.zygote") == "None"
    assert talk.ask(7, "os.getcwd()") == repr(os.getcwd())
    assert talk.ask(7, "sys.argv") == repr(sys.argv)
    # stdin, stdout, stderr, the link, two pidfds, the tracker's pipe, and the directory that is being listed
    assert talk.ask(7, "len(os.listdir('/proc/self/fd'))") == "8"
    assert talk.ask(7, "signal.pthread_sigmask(signal.SIG_BLOCK, [])") == "set()"
    ignored = "[int(s) for s in signal.valid_signals() if signal.getsignal(s) not in (signal.SIG_DFL, None)]"
    assert eval(talk.ask(7, ignored)) == sorted([signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ])
    assert talk.ask_node("(endowment.role, endowment.node_pidfd)") == "('node', -1)"
    assert talk.ask_node("os.getpgrp() == os.getpid()") == "True"
    assert eval(talk.ask_node("os.getpid()")) == talk.session.node_pid != pid


def test_workers_that_are_asked_for_together_have_nothing_of_each_other(talk: Talk) -> None:
    """One kept the other's link open after that had died: who had dialled it meanwhile waited for ever."""
    numbers = range(2, 8)
    os.kill(talk.session.zygote_pid, signal.SIGSTOP)
    for number in numbers:
        talk.tell(f"fork {number}")
    assert talk.ask_node("1") == "1"
    os.kill(talk.session.zygote_pid, signal.SIGCONT)
    talk.pids += [int(talk.hear("said ").split()[2]) for _ in numbers]
    assert [talk.ask(number, "len(os.listdir('/proc/self/fd'))") for number in numbers] == ["8"] * len(numbers)


def test_the_zygote_is_light(talk: Talk) -> None:
    talk.worker(2)
    heavy = "{'asyncio', 'numpy', 'pyarrow', 'multiprocessing', 'pandas'} & set(sys.modules)"
    assert talk.ask(2, heavy) == "set()"


@pytest.mark.parametrize("talk", [("random",)], indirect=True)
def test_random_numbers_differ_between_workers(talk: Talk) -> None:
    talk.worker(2)
    talk.worker(3)
    draw = "__import__('random').random()"
    assert talk.ask(2, draw) != talk.ask(3, draw)


@pytest.mark.parametrize("talk", [("numpy", "pyarrow")], indirect=True)
def test_numpy_and_pyarrow_start_no_thread_in_the_zygote(talk: Talk) -> None:
    talk.worker(2)
    draw = "__import__('numpy').random.random()"
    talk.worker(3)
    assert talk.ask(2, draw) != talk.ask(3, draw)


def test_a_zygote_with_threads_refuses_to_fork(capfd: pytest.CaptureFixture[str]) -> None:
    session = start_session(plan(imports=("stand_in_threads",)))
    with pytest.raises(StartError, match="it ended with status 1"):
        session.wait_until_started()
    session.link.close()
    assert "the zygote has 2 threads: a module that it imported has started them" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("last_words", "status"),
    [
        ("sys.exit(7)", 7),
        ("sys.exit()", 0),
        ("os._exit(9)", 9),
        ("1 / 0", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("os.abort()", -6),
    ],
)
def test_how_a_worker_ended_is_told(talk: Talk, last_words: str, status: int) -> None:
    pid = talk.worker(2)
    talk.tell(f"tell 2 {last_words}")
    assert talk.hear("report Exited") == f"report Exited(number=2, pid={pid}, status={status})"
    assert not runs(pid)


def test_a_dead_worker_takes_its_descendants_along_and_no_others(talk: Talk) -> None:
    first, second = talk.worker(2), talk.worker(3)
    doomed = [talk.daemon_of(2)]
    doomed.append(int(talk.ask(2, "subprocess.Popen(['sleep', '999']).pid")))
    nested = "import os, subprocess; print(subprocess.Popen(['sleep', '999'], stdout=-3, start_new_session=True).pid)"
    doomed.append(int(eval(talk.ask(2, f"subprocess.run([sys.executable, '-c', {nested!r}], stdout=-1).stdout"))))
    spared = int(eval(talk.ask(3, f"subprocess.run([sys.executable, '-c', {nested!r}], stdout=-1).stdout")))
    talk.pids += [*doomed, spared]
    os.kill(first, signal.SIGKILL)
    assert "status=-9" in talk.hear("report Exited")
    for pid in doomed:
        assert eventually(lambda pid=pid: not runs(pid))
    time.sleep(0.3)
    assert runs(second)
    assert runs(spared), "an orphan of a living worker"


def test_a_hundred_workers_come_and_go(talk: Talk) -> None:
    for number in range(100, 200):
        talk.tell(f"fork {number}")
    started = [talk.hear("report Started") for _ in range(100)]
    assert len(set(started)) == 100
    for number in range(100, 200):
        talk.tell(f"tell {number} sys.exit(0)")
    for _ in range(100):
        assert talk.hear("report Exited").endswith("status=0)")


def test_the_end_of_the_node_ends_all(talk: Talk) -> None:
    talk.worker(2)
    talk.daemon_of(2)
    talk.tell("exit 0")
    assert talk.session.stop(BOUND_SECONDS)
    assert not [pid for pid in talk.all_pids() if runs(pid)]
    assert talk.session.stop(0), "a second time does nothing"


def test_a_killed_node_ends_all(talk: Talk) -> None:
    talk.worker(2)
    talk.daemon_of(2)
    os.kill(talk.session.node_pid, signal.SIGKILL)
    assert talk.session.stop(BOUND_SECONDS)
    assert not [pid for pid in talk.all_pids() if runs(pid)]


def test_a_node_that_does_not_end_is_ended(talk: Talk) -> None:
    talk.worker(2)
    talk.daemon_of(2)
    began = time.monotonic()
    assert not talk.session.stop(0.05)
    assert time.monotonic() - began < BOUND_SECONDS
    assert not [pid for pid in talk.all_pids() if runs(pid)]


def test_a_frozen_zygote_is_ended(talk: Talk) -> None:
    talk.worker(2)
    talk.daemon_of(2)
    os.kill(talk.session.zygote_pid, signal.SIGSTOP)
    assert not talk.session.stop(0)
    assert not [pid for pid in talk.all_pids() if runs(pid)]


def test_a_killed_zygote_is_noticed_by_the_node_and_its_workers_die(talk: Talk) -> None:
    worker = talk.worker(2)
    os.kill(talk.session.zygote_pid, signal.SIGKILL)
    assert talk.hear("zygote ended")
    assert eventually(lambda: not runs(worker))
    assert runs(talk.session.node_pid), "the node lives to tell"


def test_a_terminated_zygote_cleans_up(talk: Talk) -> None:
    talk.worker(2)
    talk.daemon_of(2)
    os.kill(talk.session.zygote_pid, signal.SIGTERM)
    assert talk.session.stop(BOUND_SECONDS)
    assert not [pid for pid in talk.all_pids() if runs(pid)]


DRIVER = """
    import os, sys, time
    sys.path.insert(0, {here!r})
    from test_spawn import Talk, plan
    from miniray._runtime.spawn import start_session
    talk = Talk(start_session(plan()))
    talk.session.wait_until_started()
    talk.worker(2), talk.daemon_of(2), talk.worker(3)
    if {stop_first!r}:
        os.kill(talk.session.node_pid, 19)
    print(*talk.all_pids(), flush=True)
    {ending}
"""


@pytest.mark.parametrize("stop_first", [False, True], ids=["node runs", "node is frozen"])
@pytest.mark.parametrize("ending", ["time.sleep(60)", "os._exit(0)"])
def test_the_death_of_the_driver_leaves_nothing(ending: str, stop_first: bool) -> None:
    script = textwrap.dedent(DRIVER).format(here=str(Path(__file__).parent), ending=ending, stop_first=stop_first)
    pids: list[int] = []
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        try:
            pids = [int(word) for word in driver.stdout.readline().split()]
            assert len(pids) == 5
            if "sleep" in ending:
                driver.kill()
            driver.wait(10)
            assert eventually(lambda: not any(map(runs, pids)))
            assert driver.stdout.read() == "", "nobody holds the pipe"
        finally:
            driver.kill()
            for pid in filter(runs, pids):
                os.kill(pid, signal.SIGKILL)


def test_a_terminal_reaches_the_driver_alone(talk: Talk) -> None:
    talk.worker(2)
    groups = {os.getpgid(pid) for pid in talk.all_pids()}
    assert len(groups) == 3
    assert os.getpgrp() not in groups
    assert all(os.getsid(pid) == talk.session.zygote_pid for pid in talk.all_pids())


@pytest.mark.parametrize("main", ["no_such_module:main", "stand_in_mains:no_such_name"])
def test_a_zygote_that_cannot_start_is_an_error(main: str, capfd: pytest.CaptureFixture[str]) -> None:
    session = start_session(plan(node_main=main))
    with pytest.raises(StartError, match="status 1"):
        session.wait_until_started()
    session.link.close()
    session.stop(0)
    assert "Error" in capfd.readouterr().err


def test_a_node_that_fails_at_once_ends_the_session(capfd: pytest.CaptureFixture[str]) -> None:
    session = start_session(plan(node_main="stand_in_mains:failing_node"))
    session.wait_until_started()
    assert session.stop(BOUND_SECONDS)
    session.link.close()
    assert "this node fails" in capfd.readouterr().err


def test_handlers_masks_and_descriptors_of_the_driver_stay_as_they_are() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        session = start_session(plan())
        session.wait_until_started()
        talk = Talk(session)
        talk.worker(2)
        assert talk.ask(2, "signal.pthread_sigmask(signal.SIG_BLOCK, [])") == "set()"
        assert talk.ask(2, "int(signal.getsignal(signal.SIGHUP))") == "0"
        session.stop(0)
        session.link.close()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR1}
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


def test_the_line_to_the_zygote_never_blocks() -> None:
    """A thousand requests to a zygote that does not read: they wait, and all arrive."""
    import socket

    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near, far = spawn.Channel(here), spawn.Channel(there)
    for number in range(1_000):
        near.send(spawn.Fork(number))
    assert near.has_waiting
    found: list[bytes] = []
    while len(found) < 1_000:
        select.select([far], [], [], 5)
        found += [data for data, _ in far.receive()]
        near.flush()
    assert [spawn.decode_request(data).number for data in found] == list(range(1_000))
    near.close()
    assert list(far.receive()) == []
    assert far.ended
    far.close()
