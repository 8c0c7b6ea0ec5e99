"""Who waits for what: told of a simulated run that has come to no end. It is asked once, then, and looks everywhere.

A line for each thing that somebody waits for, the program first:

    the program waits for A.ask (p1.t5), called at bank.py:40 in test: it runs in p2
    A.ask (p1.t5) in p2 waits for A.tell (p2.t1), called at bank.py:36 in ask: it has not begun in p3
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from miniray.core.ids import ObjectId, TaskId, show, task_of
from miniray.core.resources import UNIT, Demand
from miniray.core.task_spec import ActorAt, TaskSpec
from miniray.testing import fibers

if TYPE_CHECKING:
    from miniray._runtime.process import Process
    from miniray.core.owner.owner import Owner
    from miniray.testing.host import SimulatedHost
    from miniray.testing.simulated import SimulatedProcess

MAX_LINES = 8


class SimulationError(AssertionError):
    """The run is not what it should be: a wait without an end, too many steps, a machine's own assertion.

    `waits` says who waits for what, where that is what is wrong."""

    def __init__(self, text: str, waits: Sequence[str] = (), tables: str = "") -> None:
        super().__init__("\n".join([text, *(f"  {line}" for line in waits), *([tables] if tables else [])]))
        self.waits = waits


class NotSimulated(SimulationError):
    """The run has met what is real, a thread or a wait: nobody decides when, so to run it again tells nothing more."""


def told_waits(homes: Iterable[SimulatedProcess], driver: SimulatedProcess) -> list[str]:
    living = [home for home in homes if home.alive and home.process is not None]
    processes = {home.name: home.process for home in living if home.process is not None}
    lines = []
    for home in living:
        who = "the program" if home is driver else _of(processes, home.name)
        wanted = dict.fromkeys(object_id for _, waiter in home.waiting for object_id in waiter.pending)
        lines += [f"{who} waits for {_what(processes, object_id)}" for object_id in wanted]
        in_get = {fiber for fiber, _ in home.waiting}
        for fiber in home.fibers:
            line = fiber.line() if fiber not in in_get else ""
            if line:  # it waits in the standard library
                lines.append(f"{f'thread {fiber.thread.name} of ' if fiber.is_guest else ''}{who} waits at {line}")
    left = len(lines) - MAX_LINES
    return lines[:MAX_LINES] + ([f"... and {left} more waits"] if left > 0 else [])


def told_stuck(who: str, line: str, others: Iterable[tuple[str, str]]) -> SimulationError:
    """One fiber blocks on something real. `others`: who is parked meanwhile, and at which line of the user's."""
    parked = [f"meanwhile {other} is parked at {place}" for other, place in others if place]
    text = f"{who} waits for what is outside of the simulation, for {fibers.STUCK_SECONDS:g} real seconds, at {line}"
    if not parked:
        return NotSimulated(text)
    text += ". While it waits nothing else goes on: if it waits for a lock, one of those below may hold it"
    advice = "all of them share the globals of modules, as processes do not: release a lock before you sleep or get"
    return NotSimulated(text, [*parked[:MAX_LINES], advice])


def told_room(hosts: Iterable[SimulatedHost], nodes: int, total: Demand) -> str:
    """What somebody who waits for a CPU, knowingly or not, wants to know first. `hosts`: those that are left; each has
    `total`."""
    left = [host for host in hosts if host.node.may_act]
    waiting = sum(host.node.loop.statistics()["requests"] for host in left)
    if not waiting:
        return ""
    each = {name: quantity / UNIT for name, quantity in total if name != "memory"}  # of which there is enough
    num_cpus = each.pop("CPU", 0)
    size = f"{nodes} node{'s' * (nodes > 1)} of {num_cpus:g} CPU{'s' * (num_cpus != 1)}"
    size += "".join(f", {quantity:g} {name}" for name, quantity in each.items())
    gone = f", {nodes - len(left)} of them gone" if len(left) < nodes else ""
    wanted = "room is free for {} for it" if each else "CPU is free for {} for one"
    return f", on {size}{gone}: no " + wanted.format(f"{waiting} that wait{'s' * (waiting == 1)}")


def _of(processes: Mapping[str, Process], home: str) -> str:
    running = processes[home].running
    return f"{_named(processes, running)} in {home}" if running is not None else f"worker {home}"


def _what(processes: Mapping[str, Process], object_id: ObjectId) -> str:
    task = task_of(object_id)
    where = next((home for home, process in processes.items() if process.running == task), None)
    how = f"it runs in {where}" if where is not None else "it has not begun"
    owner, spec = _submitted(processes, task)
    if owner is None or spec is None:
        return f"{show(object_id)}: {how}" if where is not None else show(object_id)
    actor = owner.values.get(spec.actor) if spec.actor is not None else None
    if where is None and isinstance(actor, ActorAt):
        how += f" in {show(actor.process)}"
    return f"{spec.options.name} ({show(task)}), called at {spec.site}: {how}"


def _named(processes: Mapping[str, Process], task: TaskId) -> str:
    _, spec = _submitted(processes, task)
    return f"{spec.options.name} ({show(task)})" if spec is not None else show(task)


def _submitted(processes: Mapping[str, Process], task: TaskId) -> tuple[Owner, TaskSpec] | tuple[None, None]:
    """Who has submitted it, and what, as far as that one lives and still knows."""
    for process in processes.values():
        spec = process.owner.submitted(task)
        if spec is not None:
            return process.owner, spec
    return None, None
