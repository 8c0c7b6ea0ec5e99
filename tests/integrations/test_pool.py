"""`miniray.Pool` beside `multiprocessing.Pool`: the same words, results and errors."""

from __future__ import annotations

import functools
import multiprocessing
import operator
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import miniray
from miniray.pool import exchange
from tests.integrations import pool_functions as functions
from tests.quiescence import eventually

pytestmark = pytest.mark.usefixtures("session")


USES: dict[str, Callable[[Any], Any]] = {
    "apply": lambda p: p.apply(functions.keyword, (3,), {"plus": 4}),
    "apply_raises": lambda p: p.apply(functions.fail_on_three, (3,)),
    "apply_async": lambda p: [r.get() for r in [p.apply_async(functions.square, (x,)) for x in range(100)]],
    "map": lambda p: p.map(functions.square, range(1000)),
    "map_generator": lambda p: p.map(functions.square, (x for x in range(10)), chunksize=3),
    "map_empty": lambda p: p.map(functions.square, []),
    "map_raises": lambda p: p.map(functions.fail_on_three, range(10)),
    "map_partial": lambda p: p.map(functools.partial(functions.keyword, plus=7), range(20)),
    "map_builtin": lambda p: p.map(len, ["a", "bc", ""]),
    "map_not_iterable": lambda p: p.map(functions.square, 5),
    "map_method": lambda p: p.map("{}!".format, [1, 2]),
    "starmap": lambda p: p.starmap(pow, [(2, 3), (3, 2)]),
    "starmap_raises": lambda p: p.starmap(operator.truediv, [(1, 0)]),
    "imap": lambda p: list(p.imap(functions.square, range(300))),
    "imap_chunks": lambda p: list(p.imap(functions.square, iter(range(50)), chunksize=7)),
    "imap_unordered": lambda p: sorted(p.imap_unordered(functions.square, range(300))),
    "imap_bad_chunksize": lambda p: p.imap(functions.square, [1], chunksize=0),
    "callback_before_ready": lambda p: _with_callback(p),
    "timeout": lambda p: _while_it_runs(p.apply_async, lambda result: result.get(timeout=0.01)),
    "imap_timeout": lambda p: _while_it_runs(p.imap, lambda results: results.next(timeout=0.01)),
    "not_ready": lambda p: _while_it_runs(p.apply_async, lambda result: result.successful()),
    "unpicklable_argument": lambda p: p.map(functions.square, [functions.Unpicklable()] * 3),
    "unpicklable_result": lambda p: p.apply(functions.unpicklable_on_three, (3,)),
    "pickle": lambda p: __import__("pickle").dumps(p),
    "join_running": lambda p: p.join(),
}


def _while_it_runs(begin: Callable[[Any, Any], Any], look: Callable[[Any], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        result = begin(functions.wait_for_file, [os.path.join(folder, "gate")])
        try:
            return look(result)
        finally:
            Path(folder, "gate").touch()
            next(result) if hasattr(result, "next") else result.wait()


def _with_callback(pool: Any) -> Any:
    seen: list[Any] = []
    good = pool.map_async(functions.square, range(5), callback=seen.append)
    good.wait()
    bad = pool.apply_async(functions.fail_on_three, (3,), error_callback=lambda error: seen.append(repr(error)))
    bad.wait()
    return seen, good.ready(), good.successful(), bad.successful()


@pytest.mark.parametrize("use", USES)
def test_as_the_standard_pool(use: str, pool: Any, standard: Any) -> None:
    outcomes = []
    for each in (standard, pool):
        try:
            outcomes.append(("value", USES[use](each)))
        except Exception as error:
            text = str(error) if "not ready" not in str(error) and "result" not in use else ""
            outcomes.append((type(error), text))
    assert outcomes[0] == outcomes[1]


def test_exceptions_are_the_originals(pool: Any) -> None:
    with pytest.raises(ValueError, match="bad 3") as caught:
        pool.apply(functions.fail_on_three, (3,))
    assert type(caught.value) is ValueError and caught.value.args == ("bad 3", 3)
    assert type(caught.value.__cause__).__name__ == "RemoteTraceback"
    assert "in fail_on_three" in str(caught.value.__cause__)
    with pytest.raises(functions.TwoArgumentsError) as two:
        pool.apply(functions.raise_two, (0,))
    assert (two.value.first, two.value.second) == ("two", 2)
    with pytest.raises(miniray.errors.TaskError, match="raise_exit raised SystemExit: 3"):
        pool.apply(functions.raise_exit, (0,))


def test_each_item_has_its_own_outcome(pool: Any) -> None:
    pool.map(functions.unpicklable_on_three, [0] * 50)  # measured: the next ones travel in groups
    results = pool.imap(functions.unpicklable_on_three, range(40))
    values, errors = [], []
    while True:
        try:
            values.append(next(results))
        except StopIteration:
            break
        except multiprocessing.pool.MaybeEncodingError as error:  # type: ignore[attr-defined]
            errors.append(error)
    assert values == [x for x in range(40) if x != 3]
    assert len(errors) == 1 and "Unpicklable" in errors[0].value and "cannot be pickled" in errors[0].exc


def test_lambdas_closures_and_local_classes(pool: Any) -> None:
    factor = 3

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    class LocalError(Exception):
        pass

    def fail(x: int) -> None:
        raise LocalError(x)

    assert pool.map(lambda x: x * factor, range(5)) == [0, 3, 6, 9, 12]
    made = pool.map(Local, range(3))
    assert [type(one) is Local and one.x for one in made] == [0, 1, 2]
    with pytest.raises(LocalError, match="7"):
        pool.apply(fail, (7,))


def test_initializer_and_function_share_globals() -> None:
    functions.set_shared(None)
    with miniray.Pool(2, functions.set_shared, ("importable",)) as pool:
        assert pool.map(functions.read_shared, range(4)) == [("importable", x) for x in range(4)]
    program = (
        "import miniray\n"
        "shared = None\n"
        "def begin(value):\n    global shared\n    shared = value\n"
        "def read(x):\n    return shared, x\n"
        "with miniray.Pool(2, begin, (5,)) as pool:\n"
        "    print(pool.map(read, range(3)), pool.apply(read, (9,)), list(pool.imap(read, [1])), shared)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[(5, 0), (5, 1), (5, 2)] (5, 9) [(5, 1)] None\n", done.stderr


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_arrays_are_the_functions_own(pool: Any, size: int) -> None:
    arrays = [np.ones(size) for _ in range(3)]
    for was_writable, result in pool.map(functions.write_zero, arrays):
        assert was_writable and result[0] == -1.0 and result[1] == 1.0
        result[1] = 5.0
    assert all((array == 1.0).all() for array in arrays)
    assert pool.apply(functions.write_zero, (arrays[0],))[1][0] == -1.0


def test_imap_reads_only_as_far_as_useful(pool: Any) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in count():
            read.append(number)
            yield number

    squares = pool.imap(functions.square, numbers())
    assert list(islice(squares, 5000)) == [x * x for x in range(5000)]
    ahead = -1
    while ahead != len(read):  # it reads without end, or comes to rest
        ahead = len(read)
        assert ahead < 500_000
        time.sleep(0.5)
    slow = pool.imap_unordered(functions.sleep, (0.01 for _ in count()))
    assert next(slow) == 0.01


def test_chained_iterators(pool: Any) -> None:
    first = pool.imap(functions.square, (x for x in range(50)))
    second = pool.imap(functions.square, first)
    assert list(pool.imap(functions.square, second, chunksize=4)) == [x**8 for x in range(50)]


def test_input_that_waits_for_results(pool: Any) -> None:
    seen = threading.Semaphore(1)

    def one_by_one() -> Iterator[int]:
        for number in range(5):
            assert seen.acquire(timeout=10)
            yield number

    for expected, result in enumerate(pool.imap(functions.square, one_by_one())):
        assert result == expected**2
        seen.release()


@pytest.mark.parametrize("chunksize", [None, 50])
def test_a_slow_call_hides_no_other(pool: Any, chunksize: int | None, tmp_path: Path) -> None:
    pool.map(functions.sleep, [0.0] * 200)  # measured as short: groups are large, and then comes a long one
    calls = [(str(tmp_path), number) for number in range(101)]
    assert pool.map(functions.slow_or_quick, calls, chunksize=chunksize)[0] == 100, "the slow one waits for all others"


def test_a_worker_may_give_back_all_that_it_got(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was held up before its first call: nothing is delivered, and all of it is run again."""
    given_back: list[int] = []

    def read_once(group: Any) -> Any:
        outcome = read(group)
        given_back.append(group.number)
        return (0, [], {}, -1.0) if len(given_back) == 1 else outcome

    read = exchange.read
    monkeypatch.setattr(exchange, "read", read_once)
    assert pool.map(functions.square, range(100), chunksize=10) == [x * x for x in range(100)]


def test_several_threads(pool: Any) -> None:
    sums: list[int] = []

    def use(base: int) -> None:
        sums.append(sum(pool.imap_unordered(functions.square, range(base, base + 200))))
        assert pool.apply(functions.square, (base,)) == base**2
        assert pool.map(functions.square, range(100)) == [x * x for x in range(100)]

    threads = [threading.Thread(target=use, args=(base,)) for base in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(sums) == [sum(x * x for x in range(base, base + 200)) for base in range(4)]


def test_nobody_waits(pool: Any) -> None:
    done: list[Any] = []
    results = [pool.apply_async(functions.square, (x,), callback=done.append) for x in range(300)]
    eventually(lambda: all(result.ready() for result in results), "all are ready")
    assert sorted(done) == [x * x for x in range(300)]


def test_nested_pools() -> None:
    def inner(x: int) -> list[int]:
        with miniray.Pool(2) as pool:
            return pool.map(functions.square, range(x))

    with miniray.Pool(2) as pool:
        assert pool.map(inner, [2, 3]) == [[0, 1], [0, 1, 4]]
