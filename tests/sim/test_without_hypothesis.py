"""Without Hypothesis, what needs it says what to install, and the rest of miniray.testing works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import pytest

import miniray.testing


@contextmanager
def no_hypothesis() -> Iterator[None]:
    """As if it were not installed; what an earlier test has imported is set aside.

    No fixture: Hypothesis has a plugin of pytest, which imports of it around fixtures and calls.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "hypothesis", None)
        for name in ("strategies", "machine"):
            patch.delitem(sys.modules, f"miniray.testing.{name}", raising=False)
        for name in ("strategies", "schedules", "fault_schedules", "task_graphs", "machine", "SimulatedMachine"):
            patch.delitem(vars(miniray.testing), name, raising=False)
        yield


@pytest.mark.parametrize("name", ["schedules", "fault_schedules", "task_graphs", "SimulatedMachine"])
def test_a_strategy_says_what_to_install(name: str) -> None:
    with no_hypothesis(), pytest.raises(ModuleNotFoundError, match="pip install hypothesis"):
        getattr(miniray.testing, name)


def test_their_module_says_it() -> None:
    with no_hypothesis(), pytest.raises(ModuleNotFoundError, match="pip install hypothesis"):
        import_module("miniray.testing.strategies")


def test_the_rest_works() -> None:
    with no_hypothesis():
        assert miniray.testing.simulate(lambda: 1).value == 1
