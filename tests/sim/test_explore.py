"""`@explore` finds what users do wrong, shrinks it, and tells it shortly; it never tells a wrong story."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import time
import unittest
from pathlib import Path
from typing import Any

import numpy
import pytest

import miniray
from miniray.errors import ActorDiedError
from miniray.testing import NotDeterministic, RecordedChoices, SimulationFailed, explore, fibers
from miniray.testing.faults import NO_FAULTS
from miniray.testing.recording import fault_of, read
from miniray.testing.simulation import run_once
from miniray.testing.size import Size

MAX_SECONDS = 60.0
PATIENT_SECONDS = 600.0  # so that a busy machine shrinks as far as an idle one
SCREEN_LINES, SCREEN_COLUMNS = 24, 160

serial = itertools.count()


@miniray.remote
class Counter:
    def __init__(self) -> None:
        self.total = 0
        self.seen: dict[int, None] = {}

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    def add_once(self, key: int, amount: int) -> int:
        if key not in self.seen:
            self.seen[key] = None
            self.total += amount
        return self.total


@miniray.remote
def work(counter: Any) -> Any:
    return miniray.get(counter.add.remote(1))


@miniray.remote
def careful_work(counter: Any, key: int) -> Any:
    return miniray.get(counter.add_once.remote(key, 1))


def counts_twice() -> None:
    counter = Counter.remote()
    miniray.get([work.remote(counter) for _ in range(5)])
    assert miniray.get(counter.add.remote(0)) == 5


def counts_once() -> None:
    counter = Counter.remote()
    miniray.get([careful_work.remote(counter, key) for key in range(5)])
    assert miniray.get(counter.add.remote(0)) == 5


@miniray.remote(max_restarts=5, max_task_retries=5)
class Forgetful:
    def __init__(self) -> None:
        self.calls = 0

    def add(self) -> int:
        self.calls += 1
        return self.calls


def counts_a_batch() -> None:
    actor: Any = Forgetful.remote()
    assert miniray.get([actor.add.remote() for _ in range(4)]) == [1, 2, 3, 4]


def failure_of(program: Any, folder: Path, **how: Any) -> SimulationFailed:
    with pytest.raises(SimulationFailed) as failed:
        explore(folder=folder, **{"shrink_seconds": PATIENT_SECONDS, **how})(program)()
    return failed.value


def test_a_newcomers_counter_is_found_and_told_on_one_screen(tmp_path: Path) -> None:
    error = failure_of(counts_twice, tmp_path)
    text = str(error)
    assert isinstance(error.__cause__, AssertionError) and __file__ in text
    assert len(text.splitlines()) <= SCREEN_LINES and max(map(len, text.splitlines())) <= SCREEN_COLUMNS
    first, second = [line for line in text.splitlines() if line.startswith(("  1. ", "  2. "))]
    assert "was killed" in first and "work had called Counter.add" in first and "before the answer of work" in first
    assert second.startswith("  2. work (") and "ran again" in second and "called Counter.add again" in second
    assert "  3. " not in text


def test_a_death_between_two_answers_of_a_batch_is_found(tmp_path: Path) -> None:
    text = str(failure_of(counts_a_batch, tmp_path))
    assert "deaths: 1)" in text and "Forgetful.add (" in text and "ran again" in text


def test_the_file_of_a_failure_is_its_run(tmp_path: Path) -> None:
    failure_of(counts_twice, tmp_path)
    (file,) = tmp_path.iterdir()
    told = read(file)
    assert told.program == {"file": __file__, "module": __name__, "name": "counts_twice"}
    assert told.error is not None and told.error["type"] == "builtins.AssertionError"
    again = run_once(counts_twice, RecordedChoices(told.choices), fault_of(told.faults), Size(**told.cluster))
    assert again.trace_hash == told.trace_hash and isinstance(again.error, AssertionError)


def test_the_same_failure_is_found_each_time(tmp_path: Path) -> None:
    assert str(failure_of(counts_twice, tmp_path)) == str(failure_of(counts_twice, tmp_path))


def test_a_program_that_repeats_safely_passes(tmp_path: Path) -> None:
    explore(folder=tmp_path, seeds=30)(counts_once)()
    assert not list(tmp_path.iterdir())


def test_deaths_are_failures_of_who_says_so(tmp_path: Path) -> None:
    error = failure_of(counts_once, tmp_path, allow=())
    assert isinstance(error.__cause__, ActorDiedError)


def test_a_fault_of_the_program_needs_no_fault_of_the_cluster(tmp_path: Path) -> None:
    error = failure_of(lambda: miniray.get(work.remote(None)), tmp_path, faults="none")
    assert isinstance(error.__cause__, AttributeError)
    assert "no fault and no delay is needed: the plainest run of all fails so" in str(error)


@pytest.mark.parametrize("equal", [unittest.TestCase().assertEqual, numpy.testing.assert_equal])
def test_the_line_is_one_of_the_users_own(tmp_path: Path, equal: Any) -> None:
    def program() -> None:
        equal(miniray.get(miniray.put(1)), 2)

    line = program.__code__.co_firstlineno + 1
    assert f"\n  at {__file__}:{line}\n" in str(failure_of(program, tmp_path, faults="none"))


@miniray.remote
class Last:
    number = 0

    def note(self, number: int) -> None:
        self.number = number

    def get(self) -> int:
        return self.number


@miniray.remote
def notes(last: Any, number: int) -> None:
    miniray.get(last.note.remote(number))


def test_what_only_the_order_brings_about_is_told_as_that(tmp_path: Path) -> None:
    def program() -> None:
        last = Last.remote()
        miniray.get([notes.remote(last, number) for number in (1, 2)])
        assert miniray.get(last.get.remote()) == 2

    text = str(failure_of(program, tmp_path, faults="delays"))
    assert "no fault is needed: the order in which things happened is enough" in text and "plainest" not in text


def test_fixtures_are_given(tmp_path: Path, request: Any) -> None:
    seen = []

    @explore(seeds=2, faults="none", folder=tmp_path)
    def body(folder: Path, *, name: str) -> None:
        seen.append((folder, name))

    body(tmp_path, name="x")
    assert seen == [(tmp_path, "x")] * 2


@miniray.remote
def forgetful() -> int:
    return next(serial)


def uneven() -> None:
    assert miniray.get(forgetful.remote()) < 0


def test_what_is_not_deterministic_is_named_and_not_shrunk(tmp_path: Path) -> None:
    error = failure_of(uneven, tmp_path, faults="none")
    assert isinstance(error, NotDeterministic)
    assert "task forgetful (called at" in str(error) and "uneven" in str(error)
    assert not list(tmp_path.iterdir())


class Remembered:
    calls = 0


def remembers() -> None:
    Remembered.calls += 1
    if Remembered.calls == 1:
        miniray.get(forgetful.remote())
    raise ValueError("planned")


def test_what_only_the_first_run_does_is_named_beside_the_story_of_the_same_end(tmp_path: Path) -> None:
    Remembered.calls = 0
    error = failure_of(remembers, tmp_path, faults="none")
    assert not isinstance(error, NotDeterministic) and "fails with seed 0 (run 1 of" in str(error)
    assert "Told is the second run" in str(error) and "left something behind" in str(error)
    assert error.simulated.trace_hash == run_once(remembers, RecordedChoices(()), NO_FAULTS, Size()).trace_hash


def imports_when_it_runs() -> None:
    import looks_when_imported

    assert miniray.get(miniray.put(looks_when_imported.BEGIN)) == "never"


def test_a_module_imported_by_the_first_run_may_look_at_a_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "looks_when_imported.py").write_text("import time\nBEGIN = time.time()\n")
    monkeypatch.syspath_prepend(tmp_path)
    error = failure_of(imports_when_it_runs, tmp_path)
    monkeypatch.delitem(sys.modules, "looks_when_imported")
    assert not isinstance(error, NotDeterministic) and "the plainest run of all fails so" in str(error)


@miniray.remote
def remembers_itself() -> bool:
    Remembered.calls += 1
    return Remembered.calls == 1


def fails_after_a_cache() -> None:
    miniray.get(miniray.put(1))
    raise ValueError(miniray.get(remembers_itself.remote()))


def test_the_task_is_named_when_only_the_first_run_is_another_one(tmp_path: Path) -> None:
    Remembered.calls = 0
    error = failure_of(fails_after_a_cache, tmp_path, faults="none")
    assert isinstance(error, NotDeterministic) and "left something behind" in str(error)
    assert "task remembers_itself (called at" in str(error)


falls: list[bool] = []


@miniray.remote
def toss() -> bool:
    return falls.pop()


def fails_with_a_coin() -> None:
    raise ValueError(miniray.get(toss.remote()))


def test_a_coin_is_not_taken_for_something_left_behind(tmp_path: Path) -> None:
    falls[:] = [False, True, False, False, True]  # the last one first
    text = str(failure_of(fails_with_a_coin, tmp_path, faults="none"))
    assert "task toss (called at" in text and "did something else the second time" in text and "behind" not in text


def test_a_program_that_somebody_always_ends_is_told() -> None:
    def always() -> None:
        miniray.get(miniray.remote(max_retries=0)(lambda: os._exit(1)).remote())

    with pytest.raises(SimulationFailed, match="never came to its end"):
        explore(seeds=3, faults="none")(always)()


def test_a_failure_that_is_no_exception_has_its_seed_and_a_skip_skips(tmp_path: Path) -> None:
    def raises_nothing() -> None:
        with pytest.raises(ValueError):
            pass

    assert "fails with seed 0" in str(failure_of(raises_nothing, tmp_path))
    with pytest.raises(pytest.skip.Exception, match="planned"):
        explore(lambda: pytest.skip("planned"))()


def test_what_has_no_end_is_at_no_line(tmp_path: Path) -> None:
    def goes_on() -> None:
        while True:
            time.sleep(100.0)

    text = str(failure_of(goes_on, tmp_path, seeds=1))
    assert "no end: " in text and "\n  at" not in text


def test_the_collector_looks_at_nothing_that_was_there_before() -> None:
    """Each run collects: in a process with much in it, as in this one, shrinking came to nothing in its time."""
    more: list[list[int]] = [[] for _ in range(50_000)]
    counts: list[int] = []

    @explore(seeds=1, faults="none")
    def test_it() -> None:
        counts.append(gc.get_freeze_count())

    test_it()
    assert counts[0] > len(more) and gc.get_freeze_count() == 0


def test_shrinking_ends_at_the_first_wait_for_what_is_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fibers, "STUCK_SECONDS", 2.0)
    monkeypatch.setattr(fibers, "UNWIND_SECONDS", 0.2)
    held = threading.Lock()
    runs: list[None] = []

    def blocks_when_it_is_shrunk() -> None:
        runs.append(None)
        if len(runs) == 3:
            held.acquire()
            held.acquire(timeout=MAX_SECONDS)
        raise ValueError

    error = failure_of(blocks_when_it_is_shrunk, tmp_path, faults="delays")
    assert isinstance(error.__cause__, ValueError) and len(runs) == 4  # the last is recorded
