"""`simulate` runs users' programs unchanged: clocks and chance are virtual, values come out, nothing else changes."""

from __future__ import annotations

import gc
import os
import random
import re
import secrets
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import miniray
from miniray._runtime import execute
from miniray.errors import ActorDiedError, WorkerCrashedError
from miniray.testing import (
    DrawnChoices,
    Faults,
    RecordedChoices,
    SimulationFailed,
    fault_schedules,
    fibers,
    heap,
    schedules,
    simulate,
)
from miniray.testing.seeds import run_checked
from miniray.testing.simulated import SimulatedProcess

LONG_SECONDS = 1000.0
REAL_SECONDS = 20.0


@miniray.remote
def sleeps() -> float:
    before = time.monotonic(), time.time(), time.perf_counter_ns()
    time.sleep(LONG_SECONDS / 2)
    sleep(LONG_SECONDS / 2)
    after = time.monotonic(), time.time(), time.perf_counter_ns()
    assert after[1] - before[1] == pytest.approx(LONG_SECONDS)
    assert (after[2] - before[2]) / 1e9 == pytest.approx(LONG_SECONDS)
    return after[0] - before[0]


@miniray.remote
def draws() -> Any:
    names = random.sample(range(1000), 3)
    return random.random(), names, secrets.token_hex(4), str(uuid.uuid4()), random.SystemRandom().random()


@miniray.remote
class Waits:
    def call(self, me: Any) -> Any:
        return miniray.get(me.call.remote(me))


@miniray.remote
def same(x: int) -> int:
    return x


def three() -> Any:
    return [same.remote(x) for x in range(3)]


def test_sleeping_takes_virtual_time() -> None:
    begin = time.monotonic()
    done = simulate(lambda: sleeps.remote())
    assert done.value == pytest.approx(LONG_SECONDS)
    assert done.statistics.virtual_seconds > LONG_SECONDS and time.monotonic() - begin < REAL_SECONDS


def test_chance_is_of_the_seed_and_of_the_task() -> None:
    def program() -> Any:
        return [draws.remote(), draws.remote()], random.random()

    one, again, other = simulate(program, seed=1), simulate(program, seed=1), simulate(program, seed=2)
    assert one.value == again.value and one.trace_hash == again.trace_hash
    assert one.value[0][0] != one.value[0][1] and one.value != other.value


def test_everything_is_as_before_when_it_has_ended() -> None:
    names = (time.sleep, time.time, random.random, random._urandom, sleep)  # type: ignore[attr-defined]
    state = random.getstate()
    simulate(lambda: sleeps.remote())
    with pytest.raises(SimulationFailed):
        simulate(lambda: 1 / random.choice([0]))
    assert names == (time.sleep, time.time, random.random, random._urandom, sleep)  # type: ignore[attr-defined]
    assert random.getstate() == state


def test_a_module_that_a_run_imports_is_of_each_run_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "from random import random\nfrom time import monotonic, sleep\nfrom uuid import uuid4\n"
    (tmp_path / "imported_in_a_run.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)

    def program() -> tuple[Any, float]:
        import imported_in_a_run as late

        before = late.monotonic()
        late.sleep(LONG_SECONDS)
        return (late.random(), late.uuid4()), late.monotonic() - before

    try:
        first, second = simulate(program, seed=1).value, simulate(program, seed=1).value
        late: Any = sys.modules["imported_in_a_run"]
        assert first == second == (first[0], pytest.approx(LONG_SECONDS))
        assert late.uuid4() != first[0][1] != late.uuid4()
        assert abs(late.monotonic() - time.monotonic()) < LONG_SECONDS  # the real one, between runs
    finally:
        sys.modules.pop("imported_in_a_run", None)


def test_a_name_that_the_program_binds_anew_stays_so() -> None:
    home: dict[str, Any] = {"sleep": time.sleep, "monotonic": time.monotonic}
    exec("def program():\n    global sleep\n    sleep = monotonic()", home)
    simulate(home["program"])
    assert home["sleep"] < LONG_SECONDS and home["monotonic"] is time.monotonic


def test_the_collector_stays_off_for_who_has_turned_it_off() -> None:
    gc.disable()
    try:
        simulate(int)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_program_that_has_not_ended_has_not_passed() -> None:
    def program() -> None:
        raise fibers.FiberKilled

    with pytest.raises(SimulationFailed, match="has not come to its end"):
        simulate(program)


def test_the_collector_looks_at_nothing_that_was_there_before_a_run() -> None:
    assert simulate(gc.get_freeze_count).value > 0
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("run", [simulate, lambda program: run_checked(program, 0)], ids=["simulate", "run_checked"])
def test_failures_that_nobody_holds_leave_no_clusters(run: Any) -> None:
    gc.collect()
    before = len(heap.clusters)
    for _ in range(50):
        with pytest.raises(AssertionError, match="division"):
            run(lambda: 1 // 0)
    assert len(heap.clusters) < before + 25


def test_what_somebody_else_has_frozen_stays_frozen() -> None:
    more: list[list[int]] = [[] for _ in range(50_000)]
    gc.freeze()
    try:
        assert min(simulate(gc.get_freeze_count).value, gc.get_freeze_count()) > len(more)
    finally:
        gc.unfreeze()


def test_the_first_run_with_a_class_is_as_those_after_it() -> None:
    class Plain:  # pickle notes something in it when an instance is pickled for the first time
        pass

    made = miniray.remote(lambda: Plain())
    one, other = [simulate(lambda: type(miniray.get(made.remote())).__name__) for _ in range(2)]
    assert one.trace_hash == other.trace_hash


def test_the_environment_is_as_before_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIRAY_TEST_OLD", "old")
    monkeypatch.delenv("MINIRAY_TEST_NEW", raising=False)

    @miniray.remote
    def changes() -> Any:
        seen = os.environ["MINIRAY_TEST_OLD"], os.environ.get("MINIRAY_TEST_NEW")
        os.environ["MINIRAY_TEST_NEW"] = "new"
        del os.environ["MINIRAY_TEST_OLD"]
        return seen

    assert [simulate(lambda: changes.remote()).value for _ in range(2)] == [("old", None)] * 2
    assert os.environ["MINIRAY_TEST_OLD"] == "old" and "MINIRAY_TEST_NEW" not in os.environ


def _simulated_processes() -> int:
    gc.collect()
    return sum(type(one) is SimulatedProcess for one in gc.get_objects())


def test_nothing_stays_of_a_run_whose_actor_keeps_an_array() -> None:
    class Keeper:
        def keep(self, array: Any) -> int:
            self.array = array
            return len(array)

    def program() -> Any:
        keeper: Any = miniray.remote(Keeper).remote()
        return miniray.get(keeper.keep.remote(numpy.ones(50_000)))

    assert simulate(program, seed=3).value == 50_000
    before = _simulated_processes()
    assert simulate(program, seed=3).value == 50_000
    assert _simulated_processes() <= before


def outside(act: Callable[[], None], program: Callable[[], Any], seed: int = 0) -> Any:
    """What the program gives, while whose run lasts a thread of before does that."""
    asked, done = threading.Event(), []

    def wait() -> None:
        asked.wait(REAL_SECONDS)
        act()
        done.append(1)

    def asks() -> Any:
        value = program()
        asked.set()
        while not done:
            time.sleep(0.001)
        return value

    thread = threading.Thread(target=wait)
    thread.start()
    value = simulate(asks, seed=seed).value
    thread.join()
    return value


def test_other_threads_have_the_real_clock() -> None:
    seen: list[float] = []
    virtual = outside(lambda: seen.append(time.time()), lambda: time.time())
    assert abs(seen[0] - time.time()) < REAL_SECONDS and abs(virtual - seen[0]) > REAL_SECONDS


def test_other_threads_have_real_names_at_random() -> None:
    found: list[uuid.UUID] = []
    first, again = (outside(lambda: found.append(uuid.uuid4()), lambda: uuid.uuid4(), seed=1) for _ in range(2))
    assert first == again and found[0] != found[1]


def test_refs_are_got_and_what_hides_them_is_refused() -> None:
    one = draws.options(num_returns=5)
    assert len(simulate(lambda: {"a": (one.remote(),)}).value["a"][0]) == 5

    class Box:
        def __init__(self) -> None:
            self.inside = [draws.remote()]

    with pytest.raises(SimulationFailed, match="Box with a ObjectRef inside"):
        simulate(Box)


def test_an_error_is_the_cause_and_says_how_to_run_it_again() -> None:
    def program() -> None:
        raise KeyError("planned")

    line = r"simulate\(.*program, seed=7, num_cpus=3, nodes=1, faults='all'\)"
    with pytest.raises(SimulationFailed, match=line) as failed:
        simulate(program, seed=7, num_cpus=3, faults="all")
    assert isinstance(failed.value.__cause__, KeyError)
    assert failed.value.simulated.error is failed.value.__cause__


def test_what_is_killed_makes_no_error_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[BaseException] = []
    real = execute.serialize_exception
    monkeypatch.setattr(execute, "serialize_exception", lambda error: made.append(error) or real(error))

    def program() -> None:
        waits = Waits.remote()
        call = waits.call.remote(waits)
        miniray.wait([call], timeout=1.0)
        miniray.kill(waits)
        with pytest.raises(ActorDiedError):
            miniray.get(call)

    simulate(program)
    assert not made


def test_a_wait_without_an_end_is_told() -> None:
    def program() -> Any:
        waits = Waits.remote()
        return miniray.get(waits.call.remote(waits))

    with pytest.raises(SimulationFailed, match="waits, and nothing is left to happen") as failed:
        simulate(program)
    told = str(failed.value.__cause__)
    assert re.search(
        r"\n  the program waits for Waits.call \(p1.t2\), called at .* in program: it runs in (p\d)\n"
        r"  Waits.call \(p1.t2\) in \1 waits for Waits.\w+ \(\1.t1\), called at .*: it has not begun in \1\n",
        told,
    ), told


def test_real_blocking_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fibers, "STUCK_SECONDS", 1.0)
    held = threading.Lock()
    held.acquire()

    def program() -> None:
        held.acquire(timeout=REAL_SECONDS)

    with pytest.raises(SimulationFailed) as failed:
        simulate(program)
    held.release()
    told = str(failed.value.__cause__)
    assert "outside of the simulation" in told and "in program (held.acquire(timeout=REAL_SECONDS))" in told, told


def test_what_touches_the_real_world_is_noted(tmp_path: Path) -> None:
    @miniray.remote
    def writes(file: str) -> None:
        Path(file).write_text("x")

    done = simulate(lambda: writes.remote(str(tmp_path / "x")))
    (note,) = done.statistics.real
    assert note.startswith("task p1.t1: open(") and note.endswith("to write")


@pytest.mark.parametrize(("faults", "error"), [("some", ValueError), (3, TypeError)])
def test_faults_are_checked(faults: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="faults must be Faults or one of 'none', 'delays', 'crashes', 'all'"):
        simulate(lambda: None, faults=faults)


@miniray.remote(max_retries=0)
def ends(how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("how", "told"), [("exit", "exited with code 3"), ("kill", "ended by signal 9")])
def test_a_process_that_ends_itself_is_a_simulated_one(how: str, told: str) -> None:
    with pytest.raises(SimulationFailed, match=told) as failed:
        simulate(lambda: ends.remote(how))
    assert isinstance(failed.value.__cause__, WorkerCrashedError)
    with pytest.raises(SimulationFailed, match="SystemExit: 3"):
        simulate(lambda: os._exit(3))


@settings(max_examples=15, deadline=None)
@given(numbers=st.lists(st.integers(), max_size=4), schedule=schedules(), faults=fault_schedules(max_crashes=0))
def test_hypothesis_draws_program_and_schedule(numbers: list[int], schedule: DrawnChoices, faults: Faults) -> None:
    assert simulate(lambda: [same.remote(x) for x in numbers], choices=schedule, faults=faults).value == numbers


def test_a_drawn_schedule_is_a_run_and_shrinks_to_the_quiet_one() -> None:
    hashes = [simulate(three, choices=DrawnChoices((1, 2, 3), seed)).trace_hash for seed in (5, 5, 6)]
    assert hashes[0] == hashes[1] != hashes[2]
    quiet = simulate(three, choices=DrawnChoices())
    assert not any(quiet.choices) and quiet.trace_hash == simulate(three, choices=RecordedChoices(())).trace_hash


def test_a_recorded_run_is_the_same_run() -> None:
    one, other = simulate(lambda: sleeps.remote()), simulate(lambda: sleeps.remote(), record=True)
    assert one.trace_hash == other.trace_hash and not one.trace and len(other.trace) > other.statistics.steps


@pytest.mark.parametrize("begin", [miniray.Pool, lambda count: miniray.Executor(count).submit(abs, 1)])
def test_pools_are_refused_at_once(begin):
    """Their thread is a real one: it drove the run from outside, which then failed in one of many ways."""
    assert simulate(miniray.is_simulated).value
    assert not miniray.is_simulated()
    with pytest.raises(SimulationFailed, match="Pool and Executor cannot be simulated"):
        simulate(lambda: begin(2))
