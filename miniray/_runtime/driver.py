"""The driver's side of a session: everything is started here, and ends here.

Order of the beginning: arena, zygote (before any thread or link of ours exists), then the transport, the loop and its
background thread. `stop` tells the node to end, which takes the zygote and all workers along; what is left after a
grace is killed by pidfd.
"""

from __future__ import annotations

import gc
import os
import socket
import traceback
from collections.abc import Mapping
from threading import get_ident
from time import monotonic
from typing import Any

from miniray._runtime import config, lifelines
from miniray._runtime.driving import Driving
from miniray._runtime.forks import Forks
from miniray._runtime.loop import Loop
from miniray._runtime.perform import rows_for
from miniray._runtime.process import Ended, Process
from miniray._runtime.spawn import WORKER_VARIABLE, Endowment, Inheritance, Plan, Session, StartError, start_session
from miniray._runtime.surroundings import Surroundings
from miniray._store.arena import Arena, default_capacity_bytes
from miniray._store.client import StoreClient
from miniray.core.ids import DRIVER_NUMBER, NODE_NUMBER, SESSION_BYTES, ProcessId, process_id
from miniray.core.owner.events import ProcessStarted, SessionEnding
from miniray.core.owner.owner import Owner
from miniray.core.record import Event
from miniray.core.record import replace
from miniray.core.resources import demand
from miniray.errors import ForkedDriverError, InternalError, NodeDiedError, SessionError
from miniray.transport import load

_NODE = "node"
_FIRST_IMPORTS = (  # what each worker would import else, which takes it longer than to be forked
    "cloudpickle", "msgspec", "miniray._runtime.node_main", "miniray._runtime.worker_main",
    "miniray._serialization.by_value",
)  # fmt: skip


class Driver:
    """A running session, of which this process is the driver."""

    def __init__(
        self,
        resources: Mapping[str, float],
        arena_bytes: int | None,
        imports: tuple[str, ...],
        max_lineage_bytes: int | None = None,
    ) -> None:
        prefix = os.urandom(SESSION_BYTES)
        me, node = process_id(prefix, DRIVER_NUMBER), process_id(prefix, NODE_NUMBER)
        capacity = default_capacity_bytes() if arena_bytes is None else arena_bytes
        arena = Arena.create(capacity)
        settings = config.Config(demand(resources), imports)
        if max_lineage_bytes is not None:
            settings = replace(settings, max_lineage_bytes=max_lineage_bytes)
        first = (*_FIRST_IMPORTS, *imports)
        self._plan = plan = Plan(prefix, arena.fd, arena.capacity_bytes, config.to_bytes(settings), imports=first)
        surroundings = Surroundings()
        self._session: Session = start_session(plan)
        self._transport: Any = load("local")(me, node, self._session.link)
        owner = Owner(me, node, settings.max_lineage_bytes)
        self.process = Process(me, owner, StoreClient(arena, me), surroundings)
        loop = Loop(
            me,
            (owner,),
            self._transport,
            monotonic,
            rows_for(process=self.process),
            self._on_readable,
            self._on_lost,
        )
        self._node = node
        process = self.process
        self._driving = Driving(
            loop,
            self._transport,
            monotonic,
            process.collect,
            process.left_behind,
            owner.has_one_task,
            self._on_broken,
        )
        self.process.run_by(self._driving, loop)
        self.process.may_fork = True
        self.process.forks = self._forks = Forks(process, self._session.forks, self._transport.watch, self._endow)

    def begin(self) -> None:
        """Wait for its processes; whoever made it stops it if this raises.

        Raises:
            SessionError: the processes could not be started.
        """
        try:
            self.process.post(ProcessStarted(os.getpid(), True))
            self._session.wait_until_started()
        except StartError as error:
            raise SessionError(f"miniray could not start its processes: {error}") from error
        self._transport.watch(self._session.node_pidfd, _NODE)
        self._driving.signals.install()
        self._driving.start()
        gc.callbacks.append(self.process.while_collecting)
        _running[:] = [self]

    def _endow(self, number: int, link: socket.socket, inheritance: Inheritance) -> Endowment:
        plan, session = self._plan, self._session
        return Endowment(
            process_id(plan.session, number), plan.session, "worker", link, plan.arena_descriptor, plan.arena_bytes,
            -1, session.node_pidfd, None, None, plan.config, session.tracker.writer, inheritance,
        )  # fmt: skip

    def _on_readable(self, token: Any) -> Event | None:
        if token == _NODE:
            self._end_process()
        else:
            self._forks.on_readable(token)
        return None

    def _on_lost(self, peer: ProcessId, reason: str) -> None:
        if peer == self._node:
            self._end_process()

    def _on_broken(self, error: Exception) -> None:
        self.process.end(
            InternalError,
            "a rule of miniray's own was broken, and the session cannot go on; please report this:\n\n"
            + "".join(traceback.format_exception(error)).rstrip(),
        )

    def _end_process(self) -> None:
        self._forks.kill_all()
        # The zygote, which gets what workers leave behind, may be dead itself; these have died with it.
        lifelines.kill_executed_with(WORKER_VARIABLE.encode(), self._plan.session.hex().encode())
        self.process.end(
            NodeDiedError,
            "the node process of the miniray session has died, and with it all tasks and objects of the session; "
            "call miniray.shutdown(), then miniray.init() for a new one",
        )
        self._driving.wake_all()

    def after_fork(self) -> None:
        """In a forked child: the links and the arena are the parent's."""
        self._transport.forget()
        self._session.forget()
        self._forks.forget()
        self.process.ended = Ended(ForkedDriverError, "this process was forked from the driver")

    def stop(self) -> None:
        """End the session: no process and no file of it is left. Idempotent."""
        self.process.end(
            SessionError, "the miniray session was ended by shutdown(); call miniray.init() for a new one"
        )
        signals = self._driving.signals
        guarded = signals.enter(get_ident())  # Ctrl-C waits until nothing is left that it could leave behind
        try:
            self._stop_guarded()
        finally:
            signals.uninstall()
            if guarded:
                signals.leave()

    def _stop_guarded(self) -> None:
        self._driving.stop()
        self.process.post(SessionEnding())
        self._session.stop(config.SHUTDOWN_GRACE_SECONDS)
        self._transport.close()
        self._forks.end()
        if self.process.while_collecting in gc.callbacks:
            gc.callbacks.remove(self.process.while_collecting)
        if self in _running:
            _running.remove(self)


_running: list[Driver] = []  # at most one; what is given to `register_at_fork` stays for good


def _after_fork() -> None:
    for driver in _running:
        driver.after_fork()
    _running.clear()


os.register_at_fork(after_in_child=_after_fork)
