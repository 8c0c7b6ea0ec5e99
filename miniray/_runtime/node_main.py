"""The node process: starts and reaps this host's workers through the zygote, grants leases, keeps the arena.

It is off the path of tasks, and single-threaded. It ends, with everything that it started, when the driver ends.
"""

from __future__ import annotations

import os
import signal
import socket
from time import monotonic
from typing import Any

from miniray._runtime import lifelines
from miniray._runtime.config import from_bytes
from miniray._runtime.loop import Loop
from miniray._runtime.perform import rows_for
from miniray._runtime.spawn import WORKER_VARIABLE, Endowment, Exited, StartFailed, Started, mark_of
from miniray._store.arena import Arena
from miniray.core.failures import DeathCause
from miniray.core.ids import ProcessId, TaskId, process_id, process_number
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import FetchBytes, ProcessEnded, WorkerFailed
from miniray.core.node.node_manager import NodeManager
from miniray.core.record import Event
from miniray.transport import load

_DRIVER = "driver"
_ZYGOTE = "zygote"
_DRIVER_FORKS = "driver's forks"


def main(endowment: Endowment) -> None:
    config = from_bytes(endowment.config)
    arena = Arena.attach(endowment.arena_descriptor, endowment.arena_bytes)
    transport: Any = load("local")(endowment.me)
    allocator = Allocator(arena.capacity_bytes, arena.first_offset)
    node = NodeManager(endowment.me, config.resources, allocator, config.max_workers)
    host = _Host(endowment, arena, transport)
    loop = Loop(
        endowment.me, (node,), transport, monotonic, rows_for(hosts=host), host.on_readable, lambda peer, reason: None
    )
    host.loop = loop
    transport.adopt(endowment.driver, endowment.link)
    transport.watch(endowment.driver_pidfd, _DRIVER)
    host.watch_forkers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while not host.ended:
        deadline = loop.deadline()
        arrivals = transport.poll(None if deadline is None else max(0.0, deadline - monotonic()))
        loop.receive(arrivals)
        loop.tick()
        loop.flush()
    transport.close()


class _Host:
    """The processes of this host, as effects and events of the node role."""

    def __init__(self, endowment: Endowment, arena: Arena, transport: Any) -> None:
        assert endowment.zygote is not None and endowment.driver_forks is not None
        self.arena = arena
        self.ended = False
        self.loop: Loop
        self._session = endowment.session
        self._driver = endowment.driver
        self._zygote = endowment.zygote
        self._driver_forks = endowment.driver_forks
        self._forks_elsewhere = False
        self._forked: dict[ProcessId, None] = {}  # the driver's children
        self._transport = transport
        self._pidfds: dict[ProcessId, tuple[int, int]] = {}  # of living workers: pid, pidfd
        self._doomed: dict[ProcessId, None] = {}  # to be killed as soon as they exist

    # ---- effects ----

    def start(self, process: ProcessId, fork: TaskId | None) -> None:
        here, there = socket.socketpair()
        self._transport.adopt(process, here)
        if fork is None:
            self._zygote.fork(process_number(process), there)
        else:
            if not self._forks_elsewhere:
                self._forks_elsewhere = True
                self._zygote.tell_forks_elsewhere()
            self._forked[process] = None
            self._driver_forks.fork(process_number(process), there, fork)

    def kill(self, process: ProcessId) -> None:
        found = self._pidfds.get(process)
        if found is None:
            self._doomed[process] = None
            return
        try:
            signal.pidfd_send_signal(found[1], signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended, and its reaper will say so

    def fetch(self, effect: FetchBytes) -> None:
        raise AssertionError("a session has one node, so nothing can lie on another")

    def end(self) -> None:
        """The zygote ends everything of its own when this process ends; the driver may be dead."""
        for process in self._forked:
            if process in self._pidfds:
                lifelines.kill_group(self._pidfds[process][0])  # it may be dead itself, and so reaped, for a moment
        self.ended = True

    # ---- events ----

    def watch_forkers(self) -> None:
        self._transport.watch(self._zygote.fileno(), _ZYGOTE)
        self._transport.watch(self._driver_forks.fileno(), _DRIVER_FORKS)

    def on_readable(self, token: Any) -> Event | None:
        if token == _DRIVER:
            return ProcessEnded(self._driver, DeathCause(0, 0), 0, 0)  # type: ignore[arg-type]
        forker = self._zygote if token == _ZYGOTE else self._driver_forks
        for report in forker.read_reports():
            event = self._on_report(report)
            if event is not None:
                self.loop.turn(event)
            if isinstance(event, ProcessEnded):
                self.loop.disconnect(event.process)  # somebody may hold its end open: nobody is led there any more
        if self._zygote.ended:
            self.end()
            os._exit(1)  # nobody could start or reap a worker any more
        if not forker.ended:  # the driver's pidfd says the rest
            self._transport.watch(forker.fileno(), token)
        return None

    def _on_report(self, report: Any) -> Event | None:
        process = process_id(self._session, report.number) if hasattr(report, "number") else ProcessId(b"")
        if isinstance(report, Started):
            try:
                self._pidfds[process] = report.pid, os.pidfd_open(report.pid)
            except ProcessLookupError:
                return None
            if self._doomed.pop(process, 0) is None:
                self.kill(process)
        elif isinstance(report, StartFailed):
            self._forked.pop(process, None)
            return WorkerFailed(process, report.reason)
        elif isinstance(report, Exited):
            if self._forked.pop(process, 0) is None:
                lifelines.kill_executed_with(WORKER_VARIABLE.encode(), mark_of(process).encode())
            found = self._pidfds.pop(process, None)
            if found is not None:
                os.close(found[1])
            lease, started = self.arena.read_status(report.number)
            return ProcessEnded(process, DeathCause(report.pid, report.status), lease, started)  # type: ignore[arg-type]
        return None
