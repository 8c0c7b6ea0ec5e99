"""`init`, `shutdown`, and what one can ask about the session: it begins and ends here."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping

from miniray._api.options import check_bools, demand_of
from miniray._runtime import context
from miniray._runtime.driver import Driver
from miniray._runtime.process import Process
from miniray._runtime.signals import held
from miniray.core.resources import UNIT
from miniray.errors import SessionError

MIN_STORE_BYTES = 4 << 20
# A program that has the first loaded will want the second in its workers: they have it from the zygote, and share its
# pages. It takes a worker 100 ms of CPU to import.
_WANTED_IN_WORKERS = {"miniray.pool": "miniray.pool_worker.worker"}

_driver: Driver | None = None
_lock = threading.RLock()


def init(
    *,
    num_cpus: int | None = None,
    num_gpus: int = 0,
    object_store_memory: int | None = None,
    max_lineage_bytes: int | None = None,
    resources: Mapping[str, float] | None = None,
    ignore_reinit_error: bool = False,
) -> None:
    """Begin a session: start its processes on this host. The first `remote` call or `put` does it by itself.

    Args:
        num_cpus: how many tasks of one CPU run at once; the CPUs of this process by default.
        num_gpus: how many are counted for tasks that ask for some.
        object_store_memory: bytes of shared memory for large values; 30 % of what is available by default.
        max_lineage_bytes: of what each process remembers of the tasks whose values lie in shared memory, so as to run
            them again when a value is lost; 1 GiB by default. The oldest are forgotten beyond it.
        resources: custom resources that tasks may ask for.
        ignore_reinit_error: leave a session that there is as it is.

    Raises:
        SessionError: there is a session already, or its processes could not be started, or not its object store.
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """
    check_bools("init", ignore_reinit_error=ignore_reinit_error)
    with _lock:
        if is_initialized():
            if ignore_reinit_error:
                return
            if is_simulated():
                raise SessionError(
                    "miniray.init() was called in a simulated program, which has its session already: leave it out, or"
                    " pass ignore_reinit_error=True, and give simulate (or explore) what init would be given"
                )
            if _driver is None or _driver.process.pid != os.getpid():
                raise SessionError("miniray.init() was called inside of a task: a task is in its driver's session")
            raise SessionError("miniray.init() was called twice: call miniray.shutdown() first, or init once only")
        _begin(num_cpus, num_gpus, object_store_memory, max_lineage_bytes, resources)


def _begin(
    num_cpus: int | None = None,
    num_gpus: int = 0,
    object_store_memory: int | None = None,
    max_lineage_bytes: int | None = None,
    resources: Mapping[str, float] | None = None,
) -> Process:
    global _driver
    cpus = len(os.sched_getaffinity(0)) if num_cpus is None else num_cpus
    if isinstance(cpus, bool) or not isinstance(cpus, int) or cpus < 0:
        raise ValueError(f"num_cpus must be a whole number, zero or more, not {num_cpus!r}")
    check_bytes("object_store_memory", object_store_memory, MIN_STORE_BYTES)
    check_bytes("max_lineage_bytes", max_lineage_bytes, 0)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    asked = {"num_cpus": cpus, "num_gpus": num_gpus, "memory": memory, "resources": resources}
    total = {name: quantity / UNIT for name, quantity in demand_of("init", asked)}
    shutdown()  # of one that has ended by itself (its node died), or of the process that we were forked from
    with held():  # from the first process on there is somebody who can end it
        imports = ("miniray._api", *(ours for theirs, ours in _WANTED_IN_WORKERS.items() if theirs in sys.modules))
        try:
            driver = _driver = Driver(total, object_store_memory, imports, max_lineage_bytes)
        except MemoryError as error:
            hint = "begin with miniray.init(object_store_memory=...), of fewer bytes"
            raise SessionError(f"no room for the object store: {error}; {hint}") from error
    try:
        driver.begin()
        context.set_current(driver.process)
    except BaseException:  # Ctrl-C among them
        shutdown()
        raise
    return driver.process


def check_bytes(name: str, given: int | None, least: int) -> None:
    """Raises:
    TypeError, ValueError: it is no such number; `name` is what it was given as.
    """
    if given is None:
        return
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name} must be an int (bytes), not {given!r}")
    if given < least:
        raise ValueError(f"{name} must be at least {least:,} bytes")


def shutdown() -> None:
    """End the session and all its processes; refs of it are worth nothing then, views stay valid. Idempotent."""
    global _driver
    with _lock:
        if _driver is not None and _driver.process.pid == os.getpid():
            _driver.stop()  # while it is still known: an interrupted end can be ended again
        _driver = None


def is_initialized() -> bool:
    """Whether there is a session that works. Inside of tasks: True."""
    process = context.get_current()
    return process is not None and process.ended is None and process.pid == os.getpid()


def is_simulated() -> bool:
    """Whether this is a process of a simulated cluster (`miniray.testing`), where there are no threads but its own."""
    return context.is_simulated()


def _start_implicitly() -> Process:
    with _lock:
        process = context.get_current()
        if process is not None:
            return process
        return _begin()


context.set_implicit_start(_start_implicitly)


def end_with_interpreter() -> None:
    """For `atexit`; `import miniray` registers it, so that what a program registers after that may use the session."""
    driver = _driver
    if driver is not None and driver.process.pid == os.getpid():
        driver.process.exiting = True
        why = "functions for atexit that use miniray are to be registered after miniray was imported"
        driver.process.end(SessionError, f"the miniray session has ended, since the interpreter ends: {why}")
    shutdown()
    by_value = sys.modules.get("miniray._serialization.by_value")
    if by_value is not None:
        by_value.forget_program()
