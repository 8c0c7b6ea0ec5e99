"""`put(owner=)` and `transfer` under any delay, and any crash of the creator, the new owner and those who read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import miniray
from miniray.errors import ActorDiedError, ObjectLostError, TaskError, WorkerCrashedError
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import running
from miniray.testing.faults import Faults, draw
from miniray.testing.remote_code import sleep
from miniray.testing.seeds import run_checked

SIZE = 20_000
TOTAL = SIZE * (SIZE - 1) // 2
LEGAL = (ActorDiedError, WorkerCrashedError, ObjectLostError)


class Keeper:
    def read(self, box: list[Any]) -> int:
        return total(box[0])


def total(ref: Any) -> int:
    return int(np.sum(miniray.get(ref)))


def give(keeper: Any, dies: bool) -> list[Any]:
    """A large value, and one with two refs inside: of a value that is the creator's, and of one that was given."""
    large = miniray.put(np.arange(SIZE), owner=keeper)
    mine = miniray.put(np.arange(SIZE))
    nested = miniray.put([mine, miniray.transfer(mine, owner=keeper)], owner=keeper)
    if dies:
        sleep(0.001)
        running[-1].die()
    return [large, nested]


def read(box: list[Any]) -> int:
    return total(box[0])


def may_fail(what: Any) -> Any:
    """The value, or None when somebody's death explains that there is none."""
    try:
        return what()
    except LEGAL:
        assert running[-1].disturbed
        return None
    except TaskError as error:
        assert running[-1].disturbed and isinstance(error.cause, (*LEGAL, TaskError))
        return None


def program() -> None:
    keeper = miniray.remote(num_cpus=0)(Keeper).remote()
    boxes = [miniray.remote(give).remote(keeper, dies) for dies in (False, False, True)]
    for box in boxes:
        found = may_fail(lambda box=box: miniray.get(box))
        if found is None:
            continue
        large, nested = found
        readers = [keeper.read.remote([large]), miniray.remote(read).remote([large])]
        assert may_fail(lambda large=large: total(large)) in (TOTAL, None)
        inner = may_fail(lambda nested=nested: miniray.get(nested))
        if inner is not None:
            assert may_fail(lambda ref=inner[1]: total(ref)) in (TOTAL, None)
        del found, large, nested, inner
        for reader in readers:
            assert may_fail(lambda reader=reader: miniray.get(reader)) in (TOTAL, None)


def kills_the_owner() -> None:
    keeper = miniray.remote(num_cpus=0)(Keeper).remote()
    boxes = [miniray.remote(give).remote(keeper, False) for _ in range(2)]
    miniray.wait(boxes)
    miniray.kill(keeper)
    running[-1].disturbed = True
    for box in boxes:
        found = may_fail(lambda box=box: miniray.get(box))
        if found is not None:
            assert may_fail(lambda found=found: total(found[0])) in (TOTAL, None)


@pytest.mark.parametrize("what", [program, kills_the_owner], ids=lambda what: what.__name__)
@pytest.mark.parametrize("faulty", [False, True], ids=["delays", "crashes"])
def test_given_values(what: Any, faulty: bool) -> None:
    for seed in range(40):
        faults = draw(SeededChoices(seed)) if faulty else Faults(one_long_in=5, one_slow_link_in=4)
        run_checked(what, seed, num_cpus=1 + seed % 3, faults=faults)
