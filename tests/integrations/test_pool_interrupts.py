"""An interrupt that is caught harms no pool: what is held gives its result, nothing runs twice, the pool ends.

Once at random moments, with real signals, and once at every place of the pool's own code where Python can run a handler
(after a call, at the start of a function, at the end of a loop's body; one in `STRIDE`, all with `CI=true`).
"""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import miniray
from tests.integrations import pool_functions as functions
from tests.places import Places
from tests.quiescence import eventually

STRIDE = 2 if os.environ.get("CI") == "true" else 7
ROUNDS = 60
SEEDS = [int(seed) for seed in os.environ.get("MINIRAY_TEST_STRIKES", "1").split(",")]
PACKAGE = str(Path(miniray.__file__).parent)
WATCHED = (os.path.join(PACKAGE, "pool", ""), os.path.join(PACKAGE, "executor", ""))


class Struck(KeyboardInterrupt):
    """What the handler raises."""


class Strikes:
    """A handler that raises while it is armed."""

    def __init__(self) -> None:
        self.is_armed = False
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_armed:
            self.is_armed = False
            self.count += 1
            raise Struck


@pytest.fixture
def strikes() -> Iterator[Strikes]:
    made = Strikes()
    before = signal.signal(signal.SIGALRM, made)
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    miniray.init(num_cpus=2)
    yield
    miniray.shutdown()


@pytest.fixture
def begun() -> Iterator[list[Any]]:
    """Pools and executors, which end also where the test fails."""
    made: list[Any] = []
    yield made
    for target in made:
        target.terminate_workers() if isinstance(target, miniray.Executor) else target.terminate()


@pytest.fixture
def counts(tmp_path: Path) -> tuple[str, mmap.mmap]:
    """How often each call has run."""
    path = tmp_path / "counts"
    path.write_bytes(bytes(1 << 20))
    with path.open("r+b") as file:
        return str(path), mmap.mmap(file.fileno(), 0)


def end_well(close: Callable[[], None], join: Callable[[], None]) -> None:
    close()
    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it does not end"


def insist(get: Callable[[], Any]) -> Any:
    while True:
        try:
            return get()
        except Struck:
            pass


# ---- at random moments


class Calls:
    """Numbered calls of a pool or an executor, of which each result that the program holds is asked for."""

    def __init__(self, target: Any, strikes: Strikes) -> None:
        self.target = target
        self.strikes = strikes
        self.numbers = itertools.count()
        self.given = 0

    def next(self, many: int) -> list[int]:
        return list(itertools.islice(self.numbers, many))

    def got(self, expected: list[int], found: Any) -> None:
        assert list(found) == expected
        self.given += len(expected)

    def map(self) -> None:
        numbers = self.next(500)
        result = self.target.map_async(functions.count_call, numbers, 1)
        self.got(numbers, insist(lambda: result.get(20)))

    def apply(self) -> None:
        for number in self.next(10):
            self.got([number], [self.target.apply(functions.count_call, (number,))])

    def apply_async(self) -> None:
        self._one_by_one(lambda number: self.target.apply_async(functions.count_call, (number,)), "get")

    def submit(self) -> None:
        self._one_by_one(lambda number: self.target.submit(functions.count_call, number), "result")

    def _one_by_one(self, begin: Callable[[int], Any], get: str) -> None:
        results: dict[int, Any] = {}
        try:
            for number in self.next(60):
                results[number] = begin(number)
        except Struck:
            pass
        for number, result in results.items():
            self.got([number], [insist(lambda result=result: getattr(result, get)(20))])

    def imap(self) -> None:
        numbers, found = self.next(200), []
        results = self.target.imap(functions.count_call, numbers)

        def read_on() -> None:
            for one in results:
                found.append(one)

        insist(read_on)
        self.got(numbers, found)


NAPS = {
    "apply": lambda pool: pool.apply(time.sleep, (60,)),
    "map": lambda pool: pool.map(time.sleep, [60] * 9, 3),
    "starmap": lambda pool: pool.starmap(time.sleep, [(60,)] * 9),
    "map_of_many": lambda pool: pool.map(time.sleep, [0.01] * 100_000),
}


@pytest.mark.parametrize("start", ["spawn", "fork"])
@pytest.mark.parametrize("kind", NAPS)
def test_whoever_is_interrupted_as_he_waits_leaves_the_workers_free(
    strikes: Strikes, begun: list[Any], kind: str, start: str
) -> None:
    """Nobody can have the results: a cell that is interrupted and run again does not wait for what it ran before."""
    pool = miniray.Pool(2, context=multiprocessing.get_context(start))
    begun.append(pool)
    workers = [member.pid for member in pool._pool]
    strikes.is_armed = True
    with pytest.raises(Struck):
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        NAPS[kind](pool)
    assert pool.map_async(abs, range(-9, 0)).get(20) == list(range(9, 0, -1))
    assert [member.pid for member in pool._pool] == workers
    assert not pool._cache
    pool.close()
    pool.join()


class SlowToRead:
    """Whoever unpickles it says so, and is not done before it may go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return functions.read_slowly, (self.folder,)


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_a_call_that_is_given_up_while_its_arguments_are_read_does_not_run(
    strikes: Strikes, begun: list[Any], tmp_path: Path, start: str
) -> None:
    pool = miniray.Pool(1, context=multiprocessing.get_context(start))
    begun.append(pool)

    def interrupt() -> None:
        eventually((tmp_path / "reads").exists, "the worker reads", 30)
        strikes.is_armed = True
        os.kill(os.getpid(), signal.SIGALRM)

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(Struck):
        pool.map(time.sleep, [SlowToRead(tmp_path)])
    other.join()
    (tmp_path / "go").touch()
    assert pool.map_async(abs, [-1]).get(20) == [1]


@pytest.mark.parametrize("kind", ["map", "apply", "apply_async", "imap", "submit"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_interrupts(
    kind: str, seed: int, strikes: Strikes, counts: tuple[str, mmap.mmap], begun: list[Any]
) -> None:
    path, ran = counts
    moments = random.Random(seed)
    if kind == "submit":
        target: Any = miniray.Executor(2, initializer=functions.open_counts, initargs=(path,))
        end: Any = (lambda: target.shutdown(wait=False)), target.shutdown
    else:
        target = miniray.Pool(2, functions.open_counts, (path,))
        end = target.close, target.join
    begun.append(target)
    calls = Calls(target, strikes)
    getattr(calls, kind)()
    for _ in range(ROUNDS):
        try:
            strikes.is_armed = True
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.0001, 0.004))
            getattr(calls, kind)()
        except Struck:
            pass
        strikes.is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert strikes.count and calls.given
    getattr(calls, kind)()  # as if nothing had been
    end_well(*end)
    assert max(ran[: next(calls.numbers)]) == 1, "a call has run twice"


# ---- at every place


def struck_by(strikes: Strikes) -> Callable[[FrameType], None]:
    def strike(frame: FrameType) -> None:
        strikes.is_armed = True
        signal.raise_signal(signal.SIGALRM)
        sys.settrace(None)  # it was put off, and comes where Python can run a handler, not in a trace

    return strike


def one_apply(pool: Any) -> None:
    assert pool.apply(functions.square, (3,)) == 9


def one_map(pool: Any) -> None:
    assert pool.map(functions.square, range(5)) == [0, 1, 4, 9, 16]


def two_asyncs(pool: Any) -> None:
    results = [pool.apply_async(functions.square, (number,)) for number in range(2)]
    assert [result.get() for result in results] == [0, 1]


def one_imap(pool: Any) -> None:
    assert list(pool.imap_unordered(len, iter(["x", "yy"]))) in ([1, 2], [2, 1])


def two_submits(executor: Any) -> None:
    results = [executor.submit(functions.square, number) for number in range(2)]
    assert [result.result() for result in results] == [0, 1]


@pytest.mark.parametrize("program", [one_apply, one_map, two_asyncs, one_imap, two_submits], ids=lambda p: p.__name__)
def test_an_interrupt_at_every_place(
    program: Callable[[Any], None], strikes: Strikes, begun: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    target: Any = miniray.Executor(2) if program is two_submits else miniray.Pool(2)
    begun.append(target)
    program(target)
    for strike_at in itertools.count(1, STRIDE):
        places, before = Places(strike_at, struck_by(strikes), WATCHED), sys.gettrace()
        try:
            sys.settrace(places.trace)
            program(target)
            sys.settrace(before)
            deadline = time.monotonic() + 10
            while places.struck and strikes.is_armed:  # it was put off, and comes
                assert time.monotonic() < deadline, f"the interrupt at {places.struck} was lost"
                time.sleep(0.0005)
        except Struck:
            pass
        finally:
            sys.settrace(before)
        if not places.struck:
            break
        try:
            if program is two_submits:
                assert list(target.map(functions.square, range(6), timeout=10)) == [x * x for x in range(6)]
            else:
                assert target.map_async(functions.square, range(6)).get(10) == [x * x for x in range(6)]
            assert not target._dispatcher.waiting
        except BaseException as error:
            error.add_note(f"interrupted at place {strike_at}: {places.struck}")
            raise
    if program is two_submits:
        end_well(lambda: target.shutdown(wait=False), target.shutdown)
    else:
        end_well(target.close, target.join)
    with capsys.disabled():
        print(f" [{strike_at - 1:,} places]", end="")


# ---- what an interrupt strikes at once


class Endless:
    """Its pickling does not end."""

    def __reduce__(self) -> Any:
        while True:
            time.sleep(0.01)


PICKLES: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(functions.square, (Endless(),)),
    "apply_async": lambda pool: pool.apply_async(functions.square, (Endless(),)),
    "map": lambda pool: pool.map(functions.square, [Endless(), 3]),
    "map_async": lambda pool: pool.map_async(functions.square, [Endless()] * 3),
    "imap": lambda pool: pool.imap(functions.square, [Endless()]),
    "imap_unordered": lambda pool: pool.imap_unordered(functions.square, [3] * 9 + [Endless()] * 9),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickling_that_does_not_end_is_interrupted(kind: str, strikes: Strikes) -> None:
    pool = miniray.Pool(2)
    try:
        assert pool.apply(functions.square, (3,)) == 9
        strikes.is_armed = True
        with pytest.raises(Struck):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            list(PICKLES[kind](pool))
        assert pool.apply(functions.square, (4,)) == 16  # nobody has a handle of it, and it is not sent
        assert pool.map(functions.square, range(5)) == [0, 1, 4, 9, 16]
        assert not pool._cache
        pool.close()
        pool.join()
    finally:
        pool.terminate()


def test_a_handler_may_wait_for_a_call_while_another_is_pickled() -> None:
    """The only worker gets that one first."""
    found: list[int] = []

    class Calling:
        def __reduce__(self) -> Any:
            if not found:
                found.append(pool.apply_async(functions.square, (5,)).get(20))
                found.append(pool.apply(functions.square, (6,)))
            return int, (7,)

    with miniray.Pool(1) as pool:
        assert pool.apply(functions.square, (3,)) == 9
        assert pool.apply(functions.square, (Calling(),)) == 49
        assert found == [25, 36]
        found.clear()
        assert pool.map(functions.square, [1, Calling(), 2]) == [1, 49, 4]
        assert found == [25, 36]


class Slow:
    """Takes long to read in the driver, and to pickle there."""

    def __init__(self, is_sent: bool = False) -> None:
        self.driver, self.is_sent = os.getpid(), is_sent

    def __getstate__(self) -> Any:
        if self.is_sent and os.getpid() == self.driver:
            time.sleep(30)
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if os.getpid() == self.driver:
            time.sleep(30)


class SlowError(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.held = Slow()


def give_slow(x: int) -> Slow:
    there = Slow()
    there.driver = x
    return there


def raise_slow(x: int) -> None:
    error = SlowError()
    error.held.driver = x
    raise error


@pytest.mark.parametrize(
    "use",
    [
        lambda pool: miniray.get(miniray.remote(give_slow).remote(os.getpid())),
        lambda pool: miniray.put(Slow(is_sent=True)),
        lambda pool: pool.apply(give_slow, (os.getpid(),)),
        lambda pool: pool.apply(raise_slow, (os.getpid(),)),
        lambda pool: pool.apply(len, (Slow(is_sent=True),)),
        lambda pool: pool.map(give_slow, [os.getpid()] * 3),
        lambda pool: list(pool.imap(give_slow, [os.getpid()] * 3)),
    ],
    ids=["get", "put", "apply", "apply_raises", "apply_pickles", "map", "imap"],
)
@pytest.mark.parametrize("kind", [TimeoutError, SystemExit])
def test_what_a_handler_raises_while_values_are_read_is_raised_as_it_is(
    use: Callable[[Any], Any], kind: type[BaseException]
) -> None:
    def raise_it(number: int, frame: FrameType | None) -> None:
        raise kind("too late")

    before = signal.signal(signal.SIGALRM, raise_it)
    pool = miniray.Pool(2)
    try:
        pool.map(functions.square, range(10))
        with pytest.raises(kind) as caught:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            use(pool)
        assert type(caught.value) is kind and caught.value.args == ("too late",)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        pool.terminate()
        pool.join()
