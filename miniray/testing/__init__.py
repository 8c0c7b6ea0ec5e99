"""miniray.testing: test your own programs of tasks and actors in a simulated cluster (README.md beside this file).

    from miniray.testing import explore

    @explore
    def test_my_program():
        assert miniray.get(work.remote(1)) == 2

Names are resolved at first use, as those of `miniray`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniray.testing.choices import DrawnChoices, RecordedChoices, SeededChoices
    from miniray.testing.exploration import NotDeterministic, explore
    from miniray.testing.faults import (
        Break,
        ControlCrash,
        Crash,
        CrashMode,
        Faults,
        Lasting,
        NodeStrike,
        StrikeMoment,
        Unhealed,
    )
    from miniray.testing.machine import SimulatedMachine
    from miniray.testing.simulation import Simulated, SimulationFailed, Statistics, simulate
    from miniray.testing.strategies import actor_programs, fault_schedules, schedules, task_graphs

__all__ = [
    "Break",
    "ControlCrash",
    "Crash",
    "CrashMode",
    "DrawnChoices",
    "Faults",
    "Lasting",
    "NodeStrike",
    "NotDeterministic",
    "RecordedChoices",
    "SeededChoices",
    "Simulated",
    "SimulatedMachine",
    "SimulationFailed",
    "Statistics",
    "StrikeMoment",
    "Unhealed",
    "actor_programs",
    "explore",
    "fault_schedules",
    "schedules",
    "simulate",
    "task_graphs",
]

_HOME = {
    "choices": ("DrawnChoices", "RecordedChoices", "SeededChoices"),
    "exploration": ("NotDeterministic", "explore"),
    "faults": (
        "Break", "ControlCrash", "Crash", "CrashMode", "Faults", "Lasting", "NodeStrike", "StrikeMoment", "Unhealed"
    ),
    "machine": ("SimulatedMachine",),
    "strategies": ("actor_programs", "fault_schedules", "schedules", "task_graphs"),
    "simulation": ("Simulated", "SimulationFailed", "Statistics", "simulate"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _MODULES.get(name)
    if home is None:
        raise AttributeError(f"module 'miniray.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"miniray.testing.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
