"""Doing: one row for each effect, no decisions (DESIGN.md, law 1).

A row is called under the state lock, in the order in which the machines decided; what it returns is an event of the
same turn. What takes longer comes back later as another event (a worker that was started registers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from miniray._store import layout
from miniray.core.control.events import Log
from miniray.core.ids import FunctionId, ProcessId, TaskId, local_number, task_of
from miniray.core.node.events import (
    EndNode,
    ExtentReserved,
    FetchBytes,
    FreeRange,
    KillProcess,
    LedgerRead,
    ReadLedger,
    ReserveExtent,
    StartWorker,
)
from miniray.core.owner.events import (
    AddExtent,
    DenyExtent,
    Disconnect,
    DisconnectNode,
    ExtentsGivenBack,
    FreeStored,
    FreeStoredOf,
    GiveBackExtents,
    PlacesToldOf,
    Ready,
    TellPlacesOf,
)
from miniray.core.record import Effect, Event
from miniray.core.worker.events import (
    DropFunction,
    ExitProcess,
    ForgetInstance,
    InstallFunction,
    InterruptTask,
    RunTask,
)

if TYPE_CHECKING:
    from miniray._runtime.process import Process
    from miniray._store.arena import Arena


class Runs(Protocol):
    """What the worker role's effects need: its main thread and its functions (`execute.py`)."""

    def run(self, effect: RunTask) -> None: ...
    def install(self, effect: InstallFunction) -> None: ...
    def drop(self, owner: ProcessId, function: FunctionId) -> None: ...
    def interrupt(self, effect: InterruptTask) -> None: ...
    def forget_instance(self) -> None: ...
    def exit(self) -> None: ...


class Hosts(Protocol):
    """What the node role's effects need: the host's processes and its arena (`node_main.py`)."""

    arena: Arena

    def start(self, process: ProcessId, fork: TaskId | None) -> None: ...
    def kill(self, process: ProcessId) -> None: ...
    def fetch(self, effect: FetchBytes) -> None: ...
    def end(self) -> None: ...


class Disk(Protocol):
    """What the control store's effects need. Only a simulated one is built yet (`testing/control.py`)."""

    def append(self, effect: Log) -> None: ...


# ---- every process: the owner role ----


def ready(process: Process, effect: Ready) -> None:
    process.waiters.ready(effect.object_ids)


def free_stored(process: Process, effect: FreeStored) -> None:
    if process.store is not None:
        for object_id, place in effect.objects:
            process.store.free(object_id, place)


def free_stored_of(process: Process, effect: FreeStoredOf) -> None:
    if process.store is not None:
        for object_id, place in process.store.places_owned_by(effect.owner):
            process.store.free(object_id, place)


def tell_places_of(process: Process, effect: TellPlacesOf) -> Event:
    places = process.store.places_owned_by(effect.owner) if process.store is not None else []
    untold = process.being_given
    told = [one for one in places if one[0] not in untold and task_of(one[0]) != process.running]
    return PlacesToldOf(effect.owner, told)


def add_extent(process: Process, effect: AddExtent) -> None:
    assert process.store is not None
    process.store.add_extent(effect.offset, effect.size_bytes)
    process.extent_answered(None)


def deny_extent(process: Process, effect: DenyExtent) -> None:
    process.extent_answered((effect.wanted_bytes, effect.free_bytes, effect.capacity_bytes))


def give_back_extents(process: Process, effect: GiveBackExtents) -> Event:
    return ExtentsGivenBack(process.store.give_back() if process.store is not None else [])


def disconnect(process: Process, effect: Disconnect) -> None:
    process.loop.disconnect(effect.peer)


def disconnect_node(process: Process, effect: DisconnectNode) -> None:
    process.loop.disconnect_node(effect.node)


# ---- workers ----


def run_task(runs: Runs, effect: RunTask) -> None:
    runs.run(effect)


def install_function(runs: Runs, effect: InstallFunction) -> None:
    runs.install(effect)


def drop_function(runs: Runs, effect: DropFunction) -> None:
    runs.drop(effect.owner, effect.function)


def interrupt_task(runs: Runs, effect: InterruptTask) -> None:
    runs.interrupt(effect)


def forget_instance(runs: Runs, effect: ForgetInstance) -> None:
    runs.forget_instance()


def exit_process(runs: Runs, effect: ExitProcess) -> None:
    runs.exit()


# ---- nodes ----


def start_worker(hosts: Hosts, effect: StartWorker) -> None:
    hosts.arena.clear_status(local_number(effect.process))
    hosts.start(effect.process, effect.fork)


def kill_process(hosts: Hosts, effect: KillProcess) -> None:
    hosts.kill(effect.process)


def reserve_extent(hosts: Hosts, effect: ReserveExtent) -> Event:
    done = hosts.arena.reserve(effect.offset, effect.size_bytes)
    if done:
        layout.clear_ledger(hosts.arena.view, effect.offset, effect.size_bytes, effect.holder)
    return ExtentReserved(effect.holder, effect.offset, effect.size_bytes, done)


def read_ledger(hosts: Hosts, effect: ReadLedger) -> Event | None:
    try:
        return LedgerRead(effect.extent_offset, layout.read_ledger(hosts.arena.view, effect.extent_offset))
    except layout.LedgerError:
        return None  # overwritten: what lies there is never used again, which is safe


def fetch_bytes(hosts: Hosts, effect: FetchBytes) -> None:
    hosts.fetch(effect)


def free_range(hosts: Hosts, effect: FreeRange) -> None:
    hosts.arena.punch(effect.offset, effect.size_bytes)


def end_node(hosts: Hosts, effect: EndNode) -> None:
    hosts.end()


# ---- the control store ----


def log(disk: Disk, effect: Log) -> None:
    disk.append(effect)


#: What does each effect, and to which part of the process.
PERFORM: dict[type[Effect], tuple[str, Callable[[Any, Any], Event | None]]] = {
    Ready: ("process", ready),
    FreeStored: ("process", free_stored),
    FreeStoredOf: ("process", free_stored_of),
    TellPlacesOf: ("process", tell_places_of),
    AddExtent: ("process", add_extent),
    DenyExtent: ("process", deny_extent),
    GiveBackExtents: ("process", give_back_extents),
    Disconnect: ("process", disconnect),
    DisconnectNode: ("process", disconnect_node),
    RunTask: ("runs", run_task),
    InstallFunction: ("runs", install_function),
    DropFunction: ("runs", drop_function),
    InterruptTask: ("runs", interrupt_task),
    ForgetInstance: ("runs", forget_instance),
    ExitProcess: ("runs", exit_process),
    StartWorker: ("hosts", start_worker),
    KillProcess: ("hosts", kill_process),
    ReserveExtent: ("hosts", reserve_extent),
    ReadLedger: ("hosts", read_ledger),
    FetchBytes: ("hosts", fetch_bytes),
    FreeRange: ("hosts", free_range),
    EndNode: ("hosts", end_node),
    Log: ("disk", log),
}


def rows_for(**parts: Any) -> Mapping[type[Effect], Callable[[Any], Event | None]]:
    """The rows that a process with these parts (`process`, `runs`, `hosts`, `disk`) can perform."""
    return {
        effect: partial(perform, parts[part]) for effect, (part, perform) in PERFORM.items() if part in parts
    }
