"""The zygote: a process with one thread that forks the node and the workers, reaps them, and ends them all.

- Before each fork it asserts that it has one thread. It imports what workers need and nothing that starts threads.
- It is the subreaper of everything below it. When a worker ends, its process group is killed, and so is every orphan
  that is not known to come from a living worker (by the variable MINIRAY_WORKER in the environment it was executed
  with): also one that made a session of its own.
- It ends when the node ends, when the driver ends (a pidfd says so), on SIGTERM, or when the node closes the line;
  before that it kills and reaps until it has no child left.
- Signals are at their defaults here and in its children; of the driver's handlers and masks nothing is left.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from time import monotonic
from typing import NoReturn

from miniray.core.ids import NODE_NUMBER, ProcessId, process_id

from . import lifelines
from .newborn import flush, live
from .spawn import (
    WORKER_VARIABLE,
    Channel,
    Endowment,
    Exited,
    Fork,
    Forker,
    ForksElsewhere,
    Report,
    Started,
    StartFailed,
    ZygotePlan,
    decode_plan,
    decode_request,
    mark_of,
)
from .tracker import become_tracker

CLEANUP_SECONDS = 5.0  # what has not died of SIGKILL by then hangs in the kernel
CLEANUP_PAUSE_SECONDS = 0.005
RESCAN_SECONDS = 0.1  # /proc/.../children may miss one while others end: look again
RESCANS = 2


def main(plan_descriptor: int) -> NoReturn:
    """The whole life of the zygote process; called by the command line that `spawn.start_session` makes."""
    with open(plan_descriptor, "rb") as file:
        file.seek(0)
        plan: ZygotePlan = decode_plan(file.read())
    sys.argv[:] = plan.argv
    _reset_signals()
    lifelines.adopt_orphans()
    status = 1
    server: _Server | None = None
    me = os.getpid()
    try:
        server = _Server(plan)
        server.start_node()
        server.serve()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        if os.getpid() == me:
            if server is not None:
                server.end_all()
            flush()
            os._exit(status)
    raise AssertionError("unreachable")


class _Server:
    def __init__(self, plan: ZygotePlan) -> None:
        given = (plan.arena_descriptor, plan.link_descriptor, plan.driver_pidfd, plan.birth_descriptor)
        for descriptor in (*given, plan.forks_descriptor, plan.tracker_reader, plan.tracker_writer):
            if descriptor >= 0:
                os.set_inheritable(descriptor, False)
        for module in plan.imports:
            importlib.import_module(module)
        self._plan = plan
        self._node_main = _resolve(plan.node_main)
        self._worker_main = _resolve(plan.worker_main)
        self._node_pid = 0
        self._node_pidfd = -1
        self._workers: dict[int, int] = {}  # pid -> process number
        self._tracker_reader = plan.tracker_reader  # until somebody writes to it
        self._tracker_pid = 0
        self._ending = False
        self._forks_elsewhere = False
        self._rescans = 0
        self._birth = socket.socket(fileno=plan.birth_descriptor)
        here, self._node_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = Channel(here)
        self._signal_reader, self._signal_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._signal_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._poller = select.poll()
        for watched in (self._signal_reader, plan.driver_pidfd, self._tracker_reader):
            if watched >= 0:
                self._poller.register(watched, select.POLLIN)

    # ---- the two kinds of child

    def start_node(self) -> None:
        plan = self._plan
        link = socket.socket(fileno=plan.link_descriptor)
        pid = self._fork()
        if pid == 0:
            self._channel.close()

            def node() -> object:
                lines = Forker(self._node_end), Forker(socket.socket(fileno=plan.forks_descriptor))
                return self._node_main(self._endowment(NODE_NUMBER, "node", link, -1, *lines))

            self._live(node)
        os.setpgid(pid, pid)
        link.close()
        os.close(plan.forks_descriptor)
        self._node_end.close()
        self._node_pid, self._node_pidfd = pid, os.pidfd_open(pid)
        with self._birth:
            try:
                socket.send_fds(self._birth, [b"%d" % pid], [self._node_pidfd])
            except OSError:
                pass  # the driver has gone; its pidfd will say so

    def _on_fork(self, request: Fork, descriptor: int) -> Report:
        if descriptor < 0:
            return StartFailed(request.number, "the zygote had no descriptor left for its link")
        parent = os.getpid()
        link = socket.socket(fileno=descriptor)
        try:
            pid = self._fork()
        except (OSError, RuntimeError) as error:
            link.close()
            return StartFailed(request.number, str(error))
        if pid == 0:

            def worker() -> object:
                os.environ[WORKER_VARIABLE] = mark_of(process_id(self._plan.session, request.number))
                return self._worker_main(self._endowment(request.number, "worker", link, self._node_pidfd))

            self._channel.close()
            lifelines.die_with_parent(parent)
            self._live(worker)
        try:
            os.setpgid(pid, pid)  # here and in the child: whoever comes first, it is done before anybody kills it
        except (ProcessLookupError, PermissionError):
            pass
        self._workers[pid] = request.number
        link.close()
        return Started(request.number, pid)

    def _fork(self) -> int:
        """Fork with one thread, so that no lock can be held by a thread that the child does not have."""
        threads = lifelines.thread_count()
        if threads != 1:
            raise RuntimeError(f"the zygote has {threads} threads: a module that it imported has started them")
        flush()
        gc.freeze()  # the child's collector would touch, and so copy, every page
        return os.fork()

    def _live(self, body: Callable[[], object]) -> NoReturn:
        """In the child: leave the zygote's things behind, and run."""

        def alone() -> None:
            os.close(self._signal_reader)
            os.close(self._signal_writer)
            self._birth.close()
            if self._tracker_reader >= 0:
                os.close(self._tracker_reader)
            body()

        live(alone)

    def _endowment(
        self,
        number: int,
        role: str,
        link: socket.socket,
        node_pidfd: int,
        zygote: Forker | None = None,
        driver: Forker | None = None,
    ) -> Endowment:
        plan = self._plan
        me: ProcessId = process_id(plan.session, number)
        return Endowment(
            me, plan.session, role, link, plan.arena_descriptor, plan.arena_bytes, plan.driver_pidfd, node_pidfd,
            zygote, driver, plan.config, plan.tracker_writer,
        )  # fmt: skip

    # ---- serving

    def serve(self) -> None:
        plan, channel = self._plan, self._channel
        while not self._ending:
            self._poller.register(channel, select.POLLIN | (select.POLLOUT if channel.has_waiting else 0))
            ready = self._poller.poll(RESCAN_SECONDS * 1000 if self._rescans else None)
            if self._rescans and not ready:
                self._rescans -= 1
                self._kill_orphans()
            for descriptor, _ in ready:
                if descriptor == self._signal_reader:
                    os.read(self._signal_reader, 4096)
                    self._reap()
                elif descriptor == plan.driver_pidfd:
                    return
                elif descriptor == channel.fileno():
                    self._serve_requests()
                elif descriptor == self._tracker_reader:
                    self._start_tracker()

    def _start_tracker(self) -> None:
        """If that fails, nobody is at the end of the pipe, and `multiprocessing` says so."""
        reader, self._tracker_reader = self._tracker_reader, -1
        self._poller.unregister(reader)
        try:
            self._tracker_pid = self._fork()
            if self._tracker_pid == 0:
                become_tracker(reader)
        except (OSError, RuntimeError):
            traceback.print_exc()
        finally:
            os.close(reader)

    def _serve_requests(self) -> None:
        for data, descriptor in self._channel.receive():
            request = decode_request(data)
            if isinstance(request, Fork):
                self._channel.send(self._on_fork(request, descriptor))
            elif isinstance(request, ForksElsewhere):
                self._forks_elsewhere = True
        if self._channel.ended:
            self._ending = True

    def _reap(self) -> None:
        """Reap and report; while a dead worker's pid is still its own, kill its group."""
        reaped = False
        while (pid := _ended_child()) is not None:
            reaped = True
            if pid in self._workers:
                lifelines.kill_group(pid)
            _, status = os.waitpid(pid, 0)
            if pid == self._node_pid:
                self._ending = True
            elif pid == self._tracker_pid:
                self._tracker_pid = 0
            elif (number := self._workers.pop(pid, None)) is not None:
                self._channel.send(Exited(number, pid, os.waitstatus_to_exitcode(status)))
        if reaped:
            self._rescans = RESCANS
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """What they leave behind becomes ours in turn, and their end brings us here again."""
        session = self._plan.session
        living = {mark_of(process_id(session, number)).encode() for number in self._workers.values()}
        for pid in lifelines.children():
            if pid not in (self._node_pid, self._tracker_pid) and pid not in self._workers:
                if lifelines.environment_value(pid, WORKER_VARIABLE.encode()) not in living:
                    lifelines.kill(pid)

    def end_all(self) -> None:
        """Kill and reap until nothing is left below this process, but for a tracker: that ends by itself when all who
        had its pipe have ended, among them the driver."""
        if self._forks_elsewhere:
            lifelines.kill_executed_with(WORKER_VARIABLE.encode(), self._plan.session.hex().encode())
        deadline = monotonic() + CLEANUP_SECONDS
        signal.set_wakeup_fd(-1)
        lone_scans = 0
        while monotonic() < deadline and lone_scans <= RESCANS:
            found = lifelines.children()
            lone_scans = lone_scans + 1 if found == [self._tracker_pid] else 0
            for pid in found:
                if pid in self._workers or pid == self._node_pid:
                    lifelines.kill_group(pid)
                if pid != self._tracker_pid:
                    lifelines.kill(pid)
            try:
                while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                    self._workers.pop(pid, None)
            except ChildProcessError:
                break
            select.select([], [], [], CLEANUP_PAUSE_SECONDS)
        if self._tracker_reader >= 0 and select.select([self._tracker_reader], [], [], 0)[0]:
            self._start_tracker()  # for what the last of them have said

    def _on_sigterm(self, *_: object) -> None:
        self._ending = True


def _ended_child() -> int | None:
    """A child that has ended and is not reaped yet."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def _resolve(dotted: str) -> Callable[[Endowment], object]:
    module, _, name = dotted.partition(":")
    found: Callable[[Endowment], object] = getattr(importlib.import_module(module), name)
    return found


def _reset_signals() -> None:
    """Dispositions and mask of a fresh Python process, whatever the driver had; SIGINT ignored."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
