"""Users' callbacks: one thread, made at the first need, under neither the lock nor the token."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from miniray._runtime.process import Process
from miniray._runtime.signals import unbroken
from miniray.core.ids import ObjectId
from miniray.core.machine import Awaited, AwaitEnded

_jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def _after_fork() -> None:
    """What waits is the parent's, and so is the thread that may hold the lock."""
    global _jobs, _lock, _thread
    _jobs, _lock, _thread = queue.SimpleQueue(), threading.Lock(), None


os.register_at_fork(after_in_child=_after_fork)


def run(job: Callable[[], None]) -> None:
    """Have `job` run by the callback thread; what it raises is shown by `threading.excepthook`."""
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_serve, name="miniray-callbacks", daemon=True)
            _thread.start()
    _jobs.put(job)


def _serve() -> None:
    while True:
        job = _jobs.get()
        try:
            job()
        except BaseException:
            threading.excepthook(threading.ExceptHookArgs((*_info(), threading.current_thread())))
        del job  # it holds a ref; the next may be long in coming


def _info() -> Any:
    import sys

    return sys.exc_info()


@unbroken
def fulfil(process: Process, object_id: ObjectId, get: Callable[[], Any], future: Future[Any]) -> None:
    """Set the future to what `get` gives or raises, when the object is ready.

    Until then the running task counts as one that waits: somebody awaits the future, and were its CPU not lent
    meanwhile, tasks that await their children could take all there are. (They did, and hung.)
    """
    task, told = process.running, object_id not in process.values
    if told:
        process.post(Awaited([object_id]))

    def when_ready(_: Any) -> None:
        if told and process.tells_waits and process.running == task:  # else its end has ended its waits
            process.post(AwaitEnded())
        (process.calls_back or run)(lambda: _set(get, future))

    process.drives.locked(lambda: process.waiters.call(object_id, when_ready))


def _set(get: Callable[[], Any], future: Future[Any]) -> None:
    try:
        value = get()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)
