"""Snapshots: a pickle each, which share nothing, and are read in the order in which they were made."""

from __future__ import annotations

import __main__
import pickle
from typing import Any

import numpy as np
import pytest

import miniray


class Point:
    def __init__(self, x: Any) -> None:
        self.x = x


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class of the program itself, as scripts have them."""
    made: Any = type("Spot", (Point,), {"__module__": "__main__", "__qualname__": "Spot"})
    monkeypatch.setattr(__main__, "Spot", made, raising=False)
    return made


def test_each_is_what_its_value_was_then() -> None:
    take = miniray.Snapshots().take
    value: list[int] = []
    taken = []
    for x in range(3):
        value.append(x)
        taken.append(take(value))
    assert [pickle.loads(data or b"") for data in taken] == [[0], [0, 1], [0, 1, 2]]


def test_definitions_of_classes_are_in_the_first(point: Any) -> None:
    take = miniray.Snapshots().take
    first, second = take([point(1)]), take([point(2)])
    assert first is not None and second is not None and len(second) < len(first) / 2
    assert [pickle.loads(data)[0].x for data in (first, second)] == [1, 2]


def test_what_was_not_taken_has_told_nothing(point: Any) -> None:
    take = miniray.Snapshots().take
    assert take([point(np.zeros(100_000))]) is None
    data = take([point(1)])
    assert data is not None and len(data) > 2 * len(take([point(2)]) or b"")


@pytest.mark.parametrize("size", [3, 1000, 7000])
def test_arrays_are_writable_in_the_copy(size: int) -> None:
    array = np.arange(size)
    array.flags.writeable = False
    data = miniray.Snapshots().take({"a": array, "b": np.arange(size)})
    found = pickle.loads(data or b"")
    found["a"] += 1
    found["b"] += 1
    assert found["a"][-1] == found["b"][-1] == size and array[-1] == size - 1


def test_large_buffers_are_not_copied_unless_the_whole_is_asked_for() -> None:
    array = np.zeros(100_000)
    assert miniray.Snapshots().take([array]) is None
    data = miniray.Snapshots(whole=True).take([array])
    assert len(pickle.loads(data or b"")[0]) == 100_000


def test_what_cannot_be_pickled_is_none() -> None:
    take = miniray.Snapshots().take
    assert take(x for x in range(3)) is None
    assert take([1]) is not None
