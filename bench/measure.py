"""How a row is measured: systems interleaved in blocks, medians, and the median of the blocks' ratios.

Only ratios within one block mean anything on a shared machine: two runs of one ping-pong may differ threefold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_TIMEOUT_SECONDS = 300
MINIRAY = "miniray"
_CORES = sorted(os.sched_getaffinity(0))  # those that there are; what pins itself later has fewer


@dataclass
class Goal:
    """What the row must show: miniray against another system, or against a figure when `against` is empty.

    `at_most`/`at_least` bound miniray's value divided by the other's, or miniray's own value.
    """

    against: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def bounded(self) -> bool:
        return self.at_most is not None or self.at_least is not None

    def holds(self, value: float) -> bool:
        return not (self.at_most is not None and value > self.at_most) and not (
            self.at_least is not None and value < self.at_least
        )

    def text(self) -> str:
        bound = f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"
        return f"{bound} x {self.against}" if self.against else bound


@dataclass
class Row:
    name: str
    unit: str
    samples: dict[str, list[float]]  # system -> one figure a block
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def median(self, system: str) -> float | None:
        return _median(self.samples[system]) if self.samples.get(system) else None

    def verdict(self, goal: Goal) -> tuple[float, float, float, bool] | None:
        """(median, least, greatest of the blocks' ratios, whether the goal holds); None if not measured."""
        mine = self.samples.get(MINIRAY) or []
        theirs = (self.samples.get(goal.against) or []) if goal.against else [1.0] * len(mine)
        found = ratios(mine, theirs)
        return None if found is None else (*found, goal.holds(found[0]))


def ratios(mine: list[float], theirs: list[float]) -> tuple[float, float, float] | None:
    """(median, least, greatest) of the blocks' ratios; None if one of them was not measured."""
    found = [ours / other for ours, other in zip(mine, theirs, strict=False)]
    return (_median(found), min(found), max(found)) if found else None


Measurement = Callable[..., float]


def interleave(systems: Mapping[str, Measurement], blocks: int) -> dict[str, list[float]]:
    """Each block asks every system once; the order turns, so that nobody always follows the same neighbour."""
    samples: dict[str, list[float]] = {name: [] for name in systems}
    names = list(systems)
    for block in range(blocks):
        turn = block % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(systems[name]())
    return samples


def interleave_processes(
    systems: Mapping[str, tuple[Any, ...]], blocks: int, value: Callable[[Any], Any] = float
) -> tuple[dict[str, list[Any]], list[str]]:
    """As `interleave`, each sample from a fresh process, so that no system meets another's threads or memory.

    A system is (target, arguments...); one that cannot be measured is left out, with a note.
    """
    samples: dict[str, list[Any]] = {name: [] for name in systems}
    notes: list[str] = []
    names = list(systems)
    for block in range(blocks):
        turn = block % len(systems)
        for name in [n for n in list(systems)[turn:] + list(systems)[:turn] if n in names]:
            try:
                samples[name].append(value(in_process(*systems[name])))
            except MeasurementError as error:
                names.remove(name)
                samples[name].clear()
                notes.append(f"{name}: {error}")
    return samples, notes


class MeasurementError(Exception):
    """This system could not be measured here; the message says why in one line."""


def in_process(target: str, *arguments: Any, timeout_seconds: float = SAMPLE_TIMEOUT_SECONDS) -> Any:
    """`target` ("module:function") called in a fresh interpreter; its result comes back as JSON."""
    command = [sys.executable, "-m", "bench.sample", target, json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=timeout_seconds
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"no result after {timeout_seconds:g} s") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise MeasurementError(said[-1].removeprefix("bench.versus.Unavailable: ")[:160])
    return json.loads(lines[-1])


def cores() -> tuple[int, int]:
    """The driver's core and the worker's (the same one where there is only one)."""
    return _CORES[0], _CORES[1 % len(_CORES)]


def pin_threads(core: int, pid: int | None = None) -> None:
    """Pin every thread of this process, or of another (affinity belongs to threads; new ones inherit it)."""
    for thread in os.listdir(f"/proc/{pid or 'self'}/task"):
        os.sched_setaffinity(int(thread), {core})


def descendants(root: int) -> list[int]:
    """This process and all that it has started, and those that these have."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue += parents.get(found[-1], [])
    return found


def machine() -> dict[str, str]:
    import platform
    from importlib import metadata

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = [line.split(":")[1].strip() for line in lines if "model name" in line]
    versions = []
    for package in ("miniray", "msgspec", "numpy", "pyarrow", "loky", "mpire", "ray", "distributed"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{cpu[0] if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(versions),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _median(numbers: list[float]) -> float:
    """`statistics.median`, without the 4 MB that its imports add to the samples of idle memory."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
