"""SIGKILLs of random workers under a running `imap_unordered`: nothing is lost, nothing comes twice, and it ends.

All of it, 200 kills under 100,000 items: `MINIRAY_TEST_KILLS=200 pytest tests/integrations/test_pool_kills.py`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

import miniray
import miniray.pool  # before the session begins: its workers start faster then
from miniray.errors import WorkerCrashedError
from tests.integrations import pool_functions as functions

KILLS = int(os.environ.get("MINIRAY_TEST_KILLS", "20"))
ITEMS_PER_KILL = 500
ITEMS = ITEMS_PER_KILL * KILLS
BOUND_SECONDS = 60  # for one kill

pytestmark = pytest.mark.usefixtures("session")


class Killer:
    """A thread that kills one worker whenever it is asked to; none twice."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._choose = random.Random(5).choice
        self._asked = threading.Semaphore(0)
        self._done = threading.Semaphore(1)  # one kill may be under way while more results are taken
        self.killed: list[int] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def strike(self) -> None:
        assert self._done.acquire(timeout=BOUND_SECONDS)
        self._asked.release()

    def _serve(self) -> None:
        for _ in range(KILLS):
            self._asked.acquire()
            pid = None
            while pid is None or pid in self.killed:
                pid = self._choose(self._pool._pool).pid
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)
            self._done.release()

    def end(self) -> int:
        self._thread.join(BOUND_SECONDS)
        return len(self.killed)


def outcomes_under_kills(pool: Any) -> Iterator[Any]:
    """Each item's result, or the error that names its loss."""
    killer = Killer(pool)
    results = pool.imap_unordered(functions.square_in_a_while, range(ITEMS))
    for came in count():
        try:
            yield next(results)
        except StopIteration:
            break
        except WorkerCrashedError as error:
            yield error
        if came % ITEMS_PER_KILL == 0:
            killer.strike()
    assert killer.end() == KILLS


def test_with_retries_every_result_comes_exactly_once() -> None:
    start = time.monotonic()
    with miniray.Pool(4, retries=5) as pool:
        found = Counter(outcomes_under_kills(pool))
        assert found == Counter(x * x for x in range(ITEMS))
        assert pool.map(functions.square, range(100)) == [x * x for x in range(100)]
    print(f"{KILLS} kills under {ITEMS} items in {time.monotonic() - start:.1f} s")


def test_without_retries_every_item_has_its_result_or_its_error_exactly_once() -> None:
    start = time.monotonic()
    with miniray.Pool(4) as pool:
        outcomes = list(outcomes_under_kills(pool))
        assert pool.map(functions.square, range(100)) == [x * x for x in range(100)]
    errors = [one for one in outcomes if isinstance(one, WorkerCrashedError)]
    values = Counter(one for one in outcomes if not isinstance(one, WorkerCrashedError))
    print(f"{KILLS} kills under {ITEMS} items: {len(errors)} lost, in {time.monotonic() - start:.1f} s")
    assert len(outcomes) == ITEMS and max(values.values()) == 1
    assert values.keys() <= {x * x for x in range(ITEMS)}
    assert all("square_in_a_while was lost: worker" in str(one) and "signal 9" in str(one) for one in errors)
