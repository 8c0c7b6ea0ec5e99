"""Without faults a simulated run gives what real processes give; and the session that is there does not notice it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import miniray
from miniray.errors import TaskError
from miniray.testing import simulate

pytestmark = pytest.mark.usefixtures("session")


@miniray.remote
def fibonacci(number: int) -> Any:
    if number < 2:
        return number
    return sum(miniray.get([fibonacci.remote(number - 1), fibonacci.remote(number - 2)]))


@miniray.remote
def total(array: Any) -> int:
    return int(array.sum())


@miniray.remote
def fails(number: int) -> int:
    raise ValueError(number)


@miniray.remote
class Register:
    def __init__(self, value: int) -> None:
        self.value = value

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value


def nested() -> Any:
    return miniray.get(fibonacci.remote(5))


def an_actor() -> Any:
    register = Register.remote(10)
    return miniray.get([register.add.remote(number) for number in range(5)])


def large_values() -> Any:
    ref = miniray.put(np.arange(100_000))
    return miniray.get([total.remote(ref), total.remote(miniray.get(ref)[:1000])])


def errors() -> Any:
    with pytest.raises(TaskError) as failed:
        miniray.get(fails.remote(3))
    return isinstance(failed.value, ValueError), repr(failed.value.cause)


def waiting() -> Any:
    refs = [fibonacci.remote(number) for number in range(4)]
    ready, rest = miniray.wait(refs, num_returns=4)
    return len(ready), len(rest), miniray.get(refs)


@pytest.mark.parametrize("program", [nested, an_actor, large_values, errors, waiting], ids=lambda one: one.__name__)
def test_the_same_comes_out(program: Callable[[], Any]) -> None:
    real = program()
    assert simulate(program).value == real
    assert program() == real, "and the session goes on"
