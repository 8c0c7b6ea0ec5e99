"""A worker process: its main thread drives the loop and runs tasks; it ends with its node."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from importlib import import_module
from time import monotonic
from typing import Any, NoReturn

from miniray._runtime import context
from miniray._runtime.config import SWITCH_SECONDS, from_bytes
from miniray._runtime.driving import Driving
from miniray._runtime.execute import Executor
from miniray._runtime.loop import Loop
from miniray._runtime.output import Speaker, speak_through
from miniray._runtime.perform import rows_for
from miniray._runtime.process import Process
from miniray._runtime.spawn import Endowment
from miniray._runtime.surroundings import Surroundings
from miniray._runtime.tracker import share
from miniray._store.arena import Arena
from miniray._store.client import StoreClient
from miniray.core.ids import ProcessId, local_number
from miniray.core.owner.events import ProcessStarted
from miniray.core.owner.owner import Owner
from miniray.core.record import Event
from miniray.core.worker.worker import Worker
from miniray.transport import load

_NODE_ENDED = "node"
_LocalTransport = load("local")  # now: the zygote has it then, and no worker imports it again


def main(endowment: Endowment) -> None:
    """Called in the forked process; returns when nobody needs it any more."""
    sys.setswitchinterval(SWITCH_SECONDS)
    if endowment.tracker >= 0:
        share(endowment.tracker)
    arena = Arena.attach(endowment.arena_descriptor, endowment.arena_bytes)
    owner = Owner(endowment.me, endowment.node, from_bytes(endowment.config).max_lineage_bytes)
    process = Process(endowment.me, owner, StoreClient(arena, endowment.me), Surroundings())
    process.tells_waits = True
    process.inheritance = endowment.inheritance
    status = arena.status_word(local_number(endowment.me))
    executor = Executor(process, status.write)
    transport = _LocalTransport(endowment.me, endowment.node, endowment.link)
    worker = Worker(endowment.me, endowment.node)

    def on_readable(token: Any) -> Event | None:
        _end_group()  # the node process is gone, and with it the session

    def on_lost(peer: ProcessId, reason: str) -> None:
        if peer == endowment.node:
            _end_group()

    loop = Loop(
        endowment.me,
        (worker, owner),
        transport,
        monotonic,
        rows_for(process=process, runs=executor),
        on_readable,
        on_lost,
    )
    driving = Driving(
        loop, transport, monotonic, process.collect, process.left_behind, worker.had_one_task, _on_broken
    )
    process.run_by(driving, loop)
    context.set_current(process)
    for name in from_bytes(endowment.config).imports:
        import_module(name)
    speak_through(executor.speaker)
    executor.install_handler()
    driving.signals.install()
    transport.watch(endowment.node_pidfd, _NODE_ENDED)
    driving.start()
    gc.callbacks.append(process.while_collecting)
    process.post(ProcessStarted(os.getpid(), False))
    executor.serve()
    _flush_queues()  # first: the node kills whoever it has lost the link to
    driving.stop()
    _end(transport, executor.speaker)


def _on_broken(error: Exception) -> None:
    """A crash like any other: what it ran is run again elsewhere, if it may be."""
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def _end_group() -> NoReturn:
    """With all that this worker's tasks have started."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _flush_queues() -> None:
    """As the processes of `multiprocessing` do: what was put into a queue of its gets there."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._run_finalizers()


def _end(transport: Any, speaker: Speaker) -> None:
    """Other threads of the user's code do not keep a worker alive."""
    transport.close()
    speaker.finish()
    if threading.active_count() > 1:
        os._exit(0)

