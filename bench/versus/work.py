"""What the workers do: next to nothing, so that only the system is measured."""

from __future__ import annotations

from typing import Any

from bench.measure import pin_threads


def nothing(value: int) -> int:
    return value


def ends(array: Any) -> float:
    return float(array[0] + array[-1])


def pin(core: int) -> None:
    pin_threads(core)


def make_array(nbytes: int) -> Any:
    import numpy

    return numpy.ones(nbytes // 8)
