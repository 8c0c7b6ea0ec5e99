"""Starting the processes of a session: the driver starts a zygote, the zygote forks the node, then workers for it.

    driver --Popen--> zygote --fork--> node process
                             --fork--> worker, one for each `Fork` that the node asks for
           --fork--> worker, where it must inherit something of the driver

- The zygote (`zygote.py`) is single-threaded: a fork of a threaded process may deadlock the child, and a fork of this
  one takes about a millisecond and shares its pages.
- What a new process may use is named in its `Endowment`; every other descriptor of the runtime is closed in it.
- Workers that must inherit something of the driver are forked from it (`forks.py`), for the node, in the same words.
- Node and zygote, node and driver talk over a SOCK_SEQPACKET pair, so that a message and its descriptor arrive whole or
  not at all. Neither ever blocks on the other: what the kernel does not take waits in the `Channel`.
- Everything below the zygote ends with it, and it ends with the node or the driver, whichever goes first. All have
  another session than the driver: a terminal's Ctrl-C reaches the driver alone.
- This file is imported by the zygote, too: `subprocess` (13 ms with what it imports) is imported where it is used.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from select import POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING, Any

from miniray.core.ids import DRIVER_NUMBER, NODE_NUMBER, ProcessId, TaskId, process_id
from miniray.core.record import Record, make_decoder, make_encoder

from .lifelines import kill_by_pidfd, wait_for_end
from .surroundings import search_path
from .tracker import TrackerPipe

if TYPE_CHECKING:
    import subprocess

NODE_MAIN = "miniray._runtime.node_main:main"
WORKER_MAIN = "miniray._runtime.worker_main:main"
WORKER_VARIABLE = "MINIRAY_WORKER"  # with which everything is executed that a worker starts; its value: `mark_of`
START_TIMEOUT_SECONDS = 60.0
KILL_TIMEOUT_SECONDS = 3.0
_MESSAGE_BYTES = 64 << 10
_BOOT = (
    "import sys; f = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; from miniray._runtime.zygote import main; main(f)"
)


def mark_of(worker: ProcessId) -> str:
    """By which what it has started is known, also when that has left its group and session. It begins as those of
    all other workers of its session do."""
    return worker.hex()


class StartError(Exception):
    """The processes of a session could not be started; says which and why."""


@dataclass
class Endowment:
    """Everything that a process of a session is born with. Descriptors are the process's own; -1 if it has none."""

    me: ProcessId
    session: bytes
    role: str  # "node" or "worker"
    link: socket.socket  # node: to the driver; worker: to the node
    arena_descriptor: int
    arena_bytes: int
    driver_pidfd: int
    node_pidfd: int  # worker only
    zygote: Forker | None  # node only
    driver_forks: Forker | None  # node only
    config: bytes
    tracker: int = -1  # worker only: the pipe to its resource tracker (`tracker.py`)
    inheritance: Inheritance | None = None  # of a worker that was forked from the driver

    @property
    def node(self) -> ProcessId:
        return process_id(self.session, NODE_NUMBER)

    @property
    def driver(self) -> ProcessId:
        return process_id(self.session, DRIVER_NUMBER)


@dataclass
class Plan:
    """What the driver wants to be started. `arena_descriptor` stays the caller's (-1: no arena)."""

    session: bytes
    arena_descriptor: int
    arena_bytes: int
    config: bytes
    node_main: str = NODE_MAIN
    worker_main: str = WORKER_MAIN
    imports: tuple[str, ...] = ("cloudpickle", "msgspec")
    environment: dict[str, str] = field(default_factory=dict)  # added to the driver's own


@dataclass
class Inheritance:
    """What a worker that was forked from the driver finds in its own memory.

    Attributes:
        parent: the driver's process, of which this is no part any more; refs that were inherited are of it.
        creations: of each actor that is to live in such a worker, the class and its arguments, by its task.
    """

    parent: Any
    creations: dict[TaskId, tuple[type[Any], tuple[Any, ...], dict[str, Any]]]


class ZygotePlan(Record, frozen=True, array_like=True, gc=False):
    """The plan as the zygote reads it from a memfd; descriptors are numbers in the zygote."""

    session: bytes
    config: bytes
    node_main: str
    worker_main: str
    imports: tuple[str, ...]
    argv: tuple[str, ...]
    arena_descriptor: int
    arena_bytes: int
    link_descriptor: int
    driver_pidfd: int
    birth_descriptor: int
    forks_descriptor: int
    tracker_reader: int
    tracker_writer: int


class Fork(Record, frozen=True, array_like=True, gc=False, tag=True):
    """Node -> zygote or driver, with the worker's end of its link to the node. The driver is told for which creation
    of an actor."""

    number: int
    task: bytes = b""


class ForksElsewhere(Record, frozen=True, array_like=True, gc=False, tag=True):
    """Node -> zygote: the driver forks workers, too. What these leave behind the zygote ends with the session."""


class Started(Record, frozen=True, array_like=True, gc=False, tag=True):
    number: int
    pid: int


class StartFailed(Record, frozen=True, array_like=True, gc=False, tag=True):
    """No process came of a `Fork`."""

    number: int
    reason: str


class Exited(Record, frozen=True, array_like=True, gc=False, tag=True):
    """A worker was reaped. `status` is its exit code, or the negative number of the signal that ended it."""

    number: int
    pid: int
    status: int


Request = Fork | ForksElsewhere
Report = Started | StartFailed | Exited

encode = make_encoder()
decode_request = make_decoder(Request)
decode_report = make_decoder(Report)
decode_plan = make_decoder(ZygotePlan)


class Channel:
    """Messages, each with at most one descriptor, over a SOCK_SEQPACKET socket; never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._waiting: deque[tuple[bytes, socket.socket | None]] = deque()
        self.ended = False

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def has_waiting(self) -> bool:
        """Whether something waits until the other end has read."""
        return bool(self._waiting)

    def send(self, message: Request | Report, attached: socket.socket | None = None) -> None:
        """Queue a message; `attached` is closed here once it is on its way."""
        self._waiting.append((encode(message), attached))
        self.flush()

    def flush(self) -> None:
        while self._waiting:
            data, attached = self._waiting[0]
            try:
                if attached is None:
                    self._connection.send(data)
                else:
                    socket.send_fds(self._connection, [data], [attached.fileno()])
            except BlockingIOError:
                return
            except OSError:
                self.ended = True
            if attached is not None:
                attached.close()
            self._waiting.popleft()

    def receive(self) -> Iterator[tuple[bytes, int]]:
        """Whatever has arrived, each with its descriptor or -1; sets `ended` at the end.

        One is read when it is asked for: a child that is forked for it has no descriptor of those behind it. (It would
        keep its sibling's link open after that had died, and what was on its way there would never be lost.)
        """
        self.flush()
        while not self.ended:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._connection, _MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            except OSError:
                data, descriptors = b"", []
            if not data:
                self.ended = True
                break
            yield data, descriptors[0] if descriptors else -1

    def close(self) -> None:
        self._connection.close()
        for _, attached in self._waiting:
            if attached is not None:
                attached.close()
        self._waiting.clear()


class Forker:
    """The node's end of the line to a process that forks workers for it and reaps them: the zygote, or the driver.

    `fileno` is readable when `read_reports` has something to say, or when the other has ended (`ended`).
    """

    def __init__(self, connection: socket.socket) -> None:
        self._channel = Channel(connection)

    def fork(self, number: int, link: socket.socket, task: bytes = b"") -> None:
        """Ask for a worker with this process number; `link`, its end of the link to the node, is closed here."""
        self._channel.send(Fork(number, task), link)

    def tell_forks_elsewhere(self) -> None:
        self._channel.send(ForksElsewhere())

    def read_reports(self) -> list[Report]:
        return [decode_report(data) for data, _ in self._channel.receive()]

    def fileno(self) -> int:
        return self._channel.fileno()

    @property
    def ended(self) -> bool:
        return self._channel.ended

    def close(self) -> None:
        self._channel.close()


class Session:
    """The driver's hold on what it has started."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        link: socket.socket,
        birth: socket.socket,
        forks: socket.socket,
        tracker: TrackerPipe,
    ) -> None:
        self._process = process
        self.tracker = tracker
        self._birth: socket.socket | None = birth
        self.link = link  # to the node process, for LocalTransport
        self.forks = Channel(forks)  # on which the node asks this process for forks of it
        self.zygote_pid = process.pid
        self.zygote_pidfd = os.pidfd_open(process.pid)
        self.node_pid = 0  # known after wait_until_started
        self.node_pidfd = -1
        self._stopped = False

    def wait_until_started(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Block until the node process exists.

        Raises:
            StartError: the zygote ended before, or the time has passed (everything is stopped then).
        """
        if self._birth is None:
            return
        end = monotonic() + timeout_seconds
        poller = poll()
        poller.register(self._birth, POLLIN)
        poller.register(self.zygote_pidfd, POLLIN)
        ready = poller.poll(max(0.0, end - monotonic()) * 1000)
        try:
            data, descriptors, _, _ = socket.recv_fds(self._birth, 64, 1) if ready else (b"", [], 0, None)
        except OSError:
            data, descriptors = b"", []
        self._birth.close()
        self._birth = None
        if not data or not descriptors:
            self.stop(0)
            why = f"it ended with status {self._process.returncode}" if ready else f"not in {timeout_seconds:g} s"
            raise StartError(f"the zygote has not started the node process: {why} (see its messages on stderr)")
        self.node_pid, self.node_pidfd = int(data), descriptors[0]
        os.set_inheritable(self.node_pidfd, False)

    def forget(self) -> None:
        """In a forked child: nothing of this is its own. It still hears the end of the node."""
        self.forks.close()
        self._process.returncode = 0  # else it would be looked for as a child of this one
        os.close(self.zygote_pidfd)
        if self._birth is not None:
            self._birth.close()

    def stop(self, grace_seconds: float) -> bool:
        """End every process of the session; True if they ended by themselves within the grace. Idempotent."""
        if self._stopped:
            return True
        self._stopped = True
        in_time = wait_for_end(self.zygote_pidfd, grace_seconds)
        if not in_time:
            self._process.send_signal(signal.SIGCONT)  # else a stopped one could clean up nothing
            if self.node_pidfd >= 0:
                kill_by_pidfd(self.node_pidfd)  # the zygote ends all others and itself
            else:
                self._process.send_signal(signal.SIGTERM)  # which ends it in the same way
            if not wait_for_end(self.zygote_pidfd, KILL_TIMEOUT_SECONDS):
                kill_by_pidfd(self.zygote_pidfd)
        self._process.wait()
        self.forks.close()
        if self.node_pidfd >= 0:
            kill_by_pidfd(self.node_pidfd)  # where the zygote was killed, the node may live
            os.close(self.node_pidfd)
            self.node_pidfd = -1
        os.close(self.zygote_pidfd)
        if self._birth is not None:
            self._birth.close()
            self._birth = None
        self.tracker.close()
        return in_time


def start_session(plan: Plan) -> Session:
    """Start a zygote and, through it, the node process. Returns at once: see `Session.wait_until_started`.

    Current directory, environment, sys.path and interpreter flags are the driver's; stdin is /dev/null.
    """
    import subprocess

    link, node_link = socket.socketpair()
    birth, zygote_birth = socket.socketpair()
    forks, node_forks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    driver_pidfd = os.pidfd_open(os.getpid())
    plan_descriptor = os.memfd_create("miniray-plan")
    tracker = TrackerPipe()
    try:
        zygote_plan = ZygotePlan(
            session=plan.session,
            config=plan.config,
            node_main=plan.node_main,
            worker_main=plan.worker_main,
            imports=plan.imports,
            argv=tuple(sys.argv) if hasattr(sys, "argv") else ("",),
            arena_descriptor=plan.arena_descriptor,
            arena_bytes=plan.arena_bytes,
            link_descriptor=node_link.fileno(),
            driver_pidfd=driver_pidfd,
            birth_descriptor=zygote_birth.fileno(),
            forks_descriptor=node_forks.fileno(),
            tracker_reader=tracker.reader,
            tracker_writer=tracker.writer,
        )
        with open(plan_descriptor, "wb", closefd=False) as file:
            file.write(encode(zygote_plan))
        passed = [plan_descriptor, node_link.fileno(), zygote_birth.fileno(), driver_pidfd, node_forks.fileno()]
        passed += [one for one in (plan.arena_descriptor, tracker.reader, tracker.writer) if one >= 0]
        # As multiprocessing does it: this is the interpreter's only account of its own flags.
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        process = subprocess.Popen(
            [sys.executable, *flags, "-X", "faulthandler", "-c", _BOOT, str(plan_descriptor), *search_path()],
            stdin=subprocess.DEVNULL,
            pass_fds=passed,
            start_new_session=True,
            env={**_environment(), **plan.environment},
        )
        tracker.given_away()
    except BaseException:
        for ours in (link, birth, forks, tracker):
            ours.close()
        raise
    finally:
        for theirs in (node_link, zygote_birth, node_forks):
            theirs.close()
        os.close(driver_pidfd)
        os.close(plan_descriptor)
    return Session(process, link, birth, forks, tracker)


def _environment() -> dict[str, str]:
    """The driver's, with what keeps pyarrow and NumPy from starting threads in the zygote (both seen)."""
    environment = dict(os.environ)
    environment.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    return environment
