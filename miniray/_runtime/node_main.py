"""The node process: starts and reaps this host's workers through the zygote, grants leases, keeps the arena.

It is off the path of tasks, and single-threaded. It ends, with everything that it started, when the driver ends.
"""

from __future__ import annotations

import os
import signal
import socket
from time import monotonic
from typing import Any

from miniray._runtime.config import from_bytes
from miniray._runtime.loop import Loop
from miniray._runtime.perform import rows_for
from miniray._runtime.spawn import Endowment, Exited, StartFailed, Started
from miniray._store.arena import Arena
from miniray.core.failures import DeathCause
from miniray.core.ids import ProcessId, process_id, process_number
from miniray.core.node.allocator import Allocator
from miniray.core.node.events import FetchBytes, ProcessEnded, WorkerFailed
from miniray.core.node.node_manager import NodeManager
from miniray.core.record import Event
from miniray.transport import load

_DRIVER = "driver"
_ZYGOTE = "zygote"


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
    host.watch_zygote()
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
        assert endowment.zygote is not None
        self.arena = arena
        self.ended = False
        self.loop: Loop
        self._session = endowment.session
        self._driver = endowment.driver
        self._zygote = endowment.zygote
        self._transport = transport
        self._pidfds: dict[ProcessId, tuple[int, int]] = {}  # of living workers: pid, pidfd
        self._doomed: dict[ProcessId, None] = {}  # to be killed as soon as they exist

    # ---- effects ----

    def start(self, process: ProcessId) -> None:
        here, there = socket.socketpair()
        self._transport.adopt(process, here)
        self._zygote.fork(process_number(process), there)

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
        """The zygote ends everything else when this process ends."""
        self.ended = True

    # ---- events ----

    def watch_zygote(self) -> None:
        self._transport.watch(self._zygote.fileno(), _ZYGOTE)

    def on_readable(self, token: Any) -> Event | None:
        if token == _DRIVER:
            return ProcessEnded(self._driver, DeathCause(0, 0), 0, 0)  # type: ignore[arg-type]
        for report in self._zygote.read_reports():
            event = self._on_report(report)
            if event is not None:
                self.loop.turn(event)
            if isinstance(event, ProcessEnded):
                self.loop.disconnect(event.process)  # somebody may hold its end open: nobody is led there any more
        if self._zygote.ended:
            os._exit(1)  # nobody could start or reap a worker any more
        self.watch_zygote()
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
            return WorkerFailed(process, report.reason)
        elif isinstance(report, Exited):
            found = self._pidfds.pop(process, None)
            if found is not None:
                os.close(found[1])
            lease, started = self.arena.read_status(report.number)
            return ProcessEnded(process, DeathCause(report.pid, report.status), lease, started)  # type: ignore[arg-type]
        return None
