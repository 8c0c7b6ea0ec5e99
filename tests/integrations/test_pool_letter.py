"""What people touch of `multiprocessing.Pool` besides its calls, and its corners: to the letter where that makes sense.

Where the standard pool has an answer, both are asked (`alike`), and types and texts compared.
"""

from __future__ import annotations

import collections
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import miniray
import miniray.multiprocessing
from miniray.pool.results import Calls
from tests.integrations import pool_functions as functions
from tests.quiescence import eventually

pytestmark = pytest.mark.usefixtures("session")


def _outcome(use: Callable[[Any], Any], pool: Any) -> Any:
    try:
        return "value", use(pool)
    except Exception as error:
        return type(error), str(error)


class Countless:
    """Has a length, and cannot be read."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[int]:
        raise LookupError("no first one")


def _error_of(result: Any) -> str:
    seen = result.wait(10)
    with pytest.raises(LookupError):
        result.get(10)
    return str(seen)


ALIKE: dict[str, Callable[[Any], Any]] = {
    "map of what is not callable": lambda p: p.map(5, [1]),
    "apply of what is not callable": lambda p: p.apply(None),
    "arguments that are none": lambda p: p.apply(pow, 5),
    "keywords that are none": lambda p: p.apply(pow, (2,), 5),
    "starmap of what is not iterable": lambda p: p.starmap(pow, [(2, 3), 4]),
    "starmap_async of what is not iterable": lambda p: p.starmap_async(pow, [4]).get(10),
    "starmap of lists and strings": lambda p: p.starmap(max, [[1, 2], "ab", {3: 0, 4: 0}]),
    "a length that lies": lambda p: _error_of(p.map_async(functions.square, Countless())),
    "imap of what is not iterable": lambda p: list(p.imap(functions.square, 5)),
    "imap of None, in chunks": lambda p: list(p.imap(functions.square, None, chunksize=4)),
    "imap_unordered, zero in a chunk": lambda p: p.imap_unordered(functions.square, [1], chunksize=0),
    "imap, less than none in a chunk": lambda p: p.imap(functions.square, [1], chunksize=-1),
    "imap, half a chunk": lambda p: p.imap(functions.square, [1], chunksize=0.5),
    "empty": lambda p: [p.map(len, []), p.starmap(len, {}), list(p.imap(len, ())), list(p.imap_unordered(len, ""))],
    "empty, with callbacks": lambda p: p.map_async(len, [], callback=_must_not_run, error_callback=_must_not_run).get(),
    "of a set": lambda p: sorted(p.map(functions.square, {1, 2, 3})),
    "of a dict": lambda p: p.map(functions.square, {1: "a", 2: "b"}),
    "an exception with notes": lambda p: _notes(p),
    "a group of exceptions": lambda p: _group(p),
    "StopIteration": lambda p: p.apply(functions.stop_on_three, (3,)),
    "attributes of a result": lambda p: _attributes(p.apply_async(functions.square, (2,))),
    "chunks left": lambda p: _chunks_left(p),
    "the index of an iterator": lambda p: _index(p.imap_unordered(functions.square, range(5))),
}


def _must_not_run(value: Any) -> None:
    raise AssertionError(value)


def _notes(pool: Any) -> Any:
    with pytest.raises(ValueError, match="noted") as caught:
        pool.apply(functions.raise_with_notes)
    return caught.value.__notes__, vars(caught.value)["code"], type(caught.value.__cause__).__name__


def _group(pool: Any) -> Any:
    with pytest.raises(ExceptionGroup) as caught:
        pool.apply(functions.raise_group)
    return repr(caught.value)


def _attributes(result: Any) -> Any:
    result.name = "mine"
    return result.get(10), result.name, result.successful(), isinstance(result, multiprocessing.pool.ApplyResult), 0


def _chunks_left(pool: Any) -> Any:
    result = pool.map_async(functions.square, range(10), chunksize=4)
    result.wait(10)
    return result._number_left, result._chunksize, result.get()


def _index(iterator: Any) -> Any:
    found = sorted(iterator)
    return found, iterator._index, iterator._length


@pytest.mark.parametrize("use", ALIKE)
def test_alike(use: str, pool: Any, standard: Any) -> None:
    expected, ours = (_outcome(ALIKE[use], each) for each in (standard, pool))
    if use == "attributes of a result":
        ours = "value", (*ours[1][:3], True, 0)
    assert ours == expected


def test_stop_iteration_ends_no_loop(pool: Any) -> None:
    """The standard pool passes over it in silence: results are missing."""
    for size in (10, 20_000):  # the second travels in large groups
        with pytest.raises(StopIteration):
            pool.map(functions.stop_on_three, range(size))
    results = pool.imap(functions.stop_on_three, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="the call raised StopIteration"):
        next(results)
    assert list(results) == [4, 5]


@pytest.mark.parametrize("use", ["map", "imap", "imap_unordered"])
def test_chunks_are_whole_numbers(pool: Any, use: str) -> None:
    with pytest.raises(ValueError, match="Chunksize must be an integer, not 1.5"):
        getattr(pool, use)(functions.square, [1], chunksize=1.5)
    with pytest.raises(ValueError, match=r"Chunksize must be 1\+, not 0"):
        getattr(pool, use)(functions.square, [1], chunksize=0)


def test_a_failed_item_stops_no_other(pool: Any, tmp_path: Any) -> None:
    """Not even where many short calls travel as one."""
    pool.map(functions.square, range(20_000))
    made = [str(tmp_path / str(number)) for number in range(200)]
    pool.map(functions.square, range(100_000))
    for chunksize in (1, 50):
        for path in made[:-1]:
            os.path.exists(path) and os.remove(path)
        with pytest.raises(FileNotFoundError):
            pool.map(functions.touch, [str(tmp_path / "no" / "such"), *made], chunksize=chunksize)
        assert len(os.listdir(tmp_path)) == 200


def test_base_exceptions_are_errors_of_the_task(pool: Any) -> None:
    before = [worker.pid for worker in pool._pool]
    for kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseExceptionGroup"):
        with pytest.raises(miniray.errors.TaskError, match=f"raise_named raised {kind}") as caught:
            pool.apply(functions.raise_named, (kind,))
        assert "in raise_named" in str(caught.value.__cause__)
    assert [worker.pid for worker in pool._pool] == before


@pytest.mark.parametrize("use", ["apply", "map", "imap"])
def test_an_error_goes_when_it_has_been_handled(pool: Any, use: str) -> None:
    """And not with the next collection: it may hold an array, or a ref, whose worker cannot end before."""
    gc.collect()
    gc.disable()
    try:
        found: list[Any] = []
        try:
            pool.apply(functions.raise_two, (3,)) if use == "apply" else list(
                getattr(pool, use)(functions.raise_two, [3])
            )
        except functions.TwoArgumentsError as error:
            found.append(weakref.ref(error))
        # the thread that has read the answer may hold it a moment longer
        eventually(lambda: [reference() for reference in found] == [None], "the error is gone", 10)
    finally:
        gc.enable()


def test_input_that_exits(pool: Any) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise SystemExit("enough")

    results = pool.imap(functions.square, numbers())
    assert next(results) == 1
    with pytest.raises(SystemExit, match="enough"):
        results.next(timeout=10)
    with pytest.raises(StopIteration):
        results.next(timeout=10)


def test_callbacks_that_raise(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)

    def fail(value: Any) -> None:
        raise LookupError(value)

    good = pool.apply_async(functions.square, (3,), callback=fail)
    bad = pool.map_async(functions.fail_on_three, [3], error_callback=fail)
    assert good.get(10) == 9
    with pytest.raises(ValueError, match="bad 3"):
        bad.get(10)
    assert [type(one.exc_value) for one in raised] == [LookupError] * 2
    assert pool.map(functions.square, [4]) == [16]


def test_callbacks_may_use_the_pool() -> None:
    with miniray.Pool(1) as pool:
        later: list[Any] = []
        first = pool.apply_async(
            functions.square, (2,), callback=lambda x: later.append(pool.apply_async(functions.square, (x,)))
        )
        assert first.get(10) == 4 and later[0].get(10) == 16
        joined: list[Any] = []

        def close_and_join(value: Any) -> None:
            pool.close()
            try:
                pool.join()
            except RuntimeError as error:
                joined.append(str(error))

        pool.apply_async(functions.square, (3,), callback=close_and_join).wait(10)
        assert joined == ["cannot join current thread"]
        pool.join()


def test_what_could_not_be_pickled_is_shown(pool: Any, standard: Any) -> None:
    errors: list[Any] = []
    for each in (standard, pool):
        with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:  # type: ignore[attr-defined]
            each.apply(functions.unpicklable_on_three, (3,))
        errors.append(caught.value)
    expected, ours = errors
    assert ours.exc == expected.exc == "RuntimeError('cannot be pickled')"
    assert ours.value.partition(" at ")[0] == expected.value.partition(" at ")[0]
    assert str(ours).partition(" at ")[0] == str(expected).partition(" at ")[0]
    assert ours.__notes__ == ["the result: cannot be pickled"]
    with pytest.raises(multiprocessing.pool.MaybeEncodingError) as nested:  # type: ignore[attr-defined]
        pool.apply(functions.nested_unpicklable)
    assert nested.value.__notes__ == ["the result -> ['a'] -> [1]: cannot be pickled"]
    with pytest.raises(RuntimeError, match="cannot be pickled") as argument:
        pool.apply(functions.square, ([functions.Unpicklable()],))
    assert "[0]" in argument.value.__notes__[0]


def test_workers_are_like_processes() -> None:
    pool = miniray.Pool(2)
    with pool:
        first, second = pool._pool
        assert first.is_alive() and first.exitcode is None and not first.daemon and first.pid == first.ident
        assert first.name.startswith("ForkPoolWorker-") and first.name in repr(first)
        assert {pool.apply(functions.own_name) for _ in range(20)} <= {first.name, second.name}
        assert (pool._processes, pool._maxtasksperchild, pool._initializer, pool._initargs) == (2, None, None, ())
        assert repr(pool) == "<miniray.pool.Pool state=RUN pool_size=2 start=zygote>"
        first.terminate()
        first.join(10)
        assert not first.is_alive() and first.exitcode == -signal.SIGTERM, "though no call was lost with it"
        assert pool.map(functions.square, range(1000)) == [x * x for x in range(1000)]
        assert first.exitcode == -signal.SIGTERM and first not in pool._pool
    assert not any(worker.is_alive() for worker in pool._pool)
    assert {worker.exitcode for worker in pool._pool} == {-signal.SIGKILL}
    assert repr(pool) == "<miniray.pool.Pool state=TERMINATE pool_size=2 start=zygote>"


def test_workers_know_who_they_are() -> None:
    with miniray.Pool(1, context=multiprocessing.get_context("spawn")) as pool:
        name, identity, parent, is_alive, may_have_children = pool.apply(functions.who)
        assert name == pool._pool[0].name == f"SpawnPoolWorker-{identity[0]}"
        assert (parent, is_alive, may_have_children) == (os.getpid(), True, True)


def test_the_logger_of_multiprocessing() -> None:
    program = """
        import logging, multiprocessing, miniray
        multiprocessing.log_to_stderr(logging.DEBUG)
        def log(text):
            multiprocessing.get_logger().info(text)
        with miniray.Pool(1) as pool:
            pool.apply(log, ("one call",))
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert "[INFO/ForkPoolWorker-1] one call" in lines
    assert "[DEBUG/MainProcess] added worker" in lines and "[DEBUG/MainProcess] terminating pool" in lines


def test_proxies_of_managers(pool: Any) -> None:
    with multiprocessing.Manager() as manager:
        counts = manager.dict()
        queue = manager.Queue()
        pool.starmap(functions.count_in, [(counts, queue, manager.Lock(), x) for x in range(4)])
        assert dict(counts) == {x: 1 for x in range(4)} and queue.qsize() == 4


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("chunksize", [1, 10])
def test_maxtasksperchild_counts_chunks(tasks: int, chunksize: int) -> None:
    """A chunk is one task, however it travels: calls of 3 ms go one by one."""
    with miniray.Pool(1, maxtasksperchild=tasks) as pool:
        used = pool.map(functions.pid_after, [0.003] * 3 * tasks * chunksize, chunksize=chunksize)
    counts = collections.Counter(used)
    assert list(counts.values()) == [tasks * chunksize] * 3


def test_a_pool_in_a_forked_process() -> None:
    process = multiprocessing.get_context("fork").Process(target=_use_a_pool)
    process.start()
    process.join(30)
    assert process.exitcode == 0


def _use_a_pool() -> None:
    with miniray.Pool(1) as pool:
        assert pool.map(functions.square, [3]) == [9]
    miniray.shutdown()


def test_terminate_from_several_threads() -> None:
    pool = miniray.Pool(2)
    results = [pool.apply_async(functions.sleep, (60,)) for _ in range(4)]
    lazy = pool.imap(functions.sleep, (60 for _ in iter(int, 1)))
    time.sleep(0.1)
    threads = [threading.Thread(target=pool.terminate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    pool.terminate()
    for result in results:
        with pytest.raises(miniray.errors.TaskCancelledError):
            result.get(10)
    with pytest.raises(miniray.errors.TaskCancelledError):
        lazy.next(10)
    pool.close()
    pool.join()
    pool.join()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(functions.square, (1,))


def test_pools_in_pools_in_pools() -> None:
    def outer(x: int) -> list[list[int]]:
        with miniray.Pool(2) as pool:
            return pool.map(middle, range(x))

    def middle(x: int) -> list[int]:
        with miniray.Pool(2) as pool:
            return pool.map(functions.square, range(x))

    with miniray.Pool(2) as pool:
        assert pool.map(outer, [2, 3, 1]) == [[[], [0]], [[], [0], [0, 1]], [[]]]


def test_a_signal_handler_may_bring_calls() -> None:
    """It strikes while the pool's own tables change: nothing is torn, and no call is forgotten."""
    with miniray.Pool(2) as pool:
        brought: list[Any] = []
        before = signal.signal(signal.SIGALRM, lambda *_: brought.append(pool.apply_async(functions.square, (5,))))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        try:
            while len(brought) < 50:
                assert pool.map(functions.square, range(300)) == [x * x for x in range(300)]
                assert pool.apply(functions.square, (7,)) == 49
                assert list(pool.imap(functions.square, iter(range(50)))) == [x * x for x in range(50)]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert [result.get(10) for result in brought] == [25] * len(brought)


def test_a_forked_child_cannot_use_its_parents_pool(pool: Any) -> None:
    pool.map(functions.square, range(10))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            pool.map(functions.square, range(10))
        except miniray.errors.ForkedDriverError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.map(functions.square, range(3)) == [0, 1, 4]


def test_a_handler_may_bring_a_call_between_any_two_lines_of_another(tmp_path: Path) -> None:
    brought: list[tuple[int, Any]] = []
    with miniray.Pool(1) as pool:

        def bring(frame: Any, event: str, _: Any) -> Any:
            if frame.f_code is not Calls.append.__code__:
                return None
            if event != "call":
                brought.append((len(brought), pool.apply_async(functions.square, (len(brought),))))
            return bring

        pool.map_async(functions.wait_for_file, [str(tmp_path / "gate")] * 3)  # so that the others have to queue
        first = pool.apply_async(functions.square, (100,))
        before = sys.gettrace()
        sys.settrace(bring)
        try:
            mine = pool.apply_async(functions.square, (101,))
        finally:
            sys.settrace(before)
        (tmp_path / "gate").touch()
        assert brought, "a handler has run within"
        assert (first.get(30), mine.get(30)) == (10_000, 10_201)
        assert all(result.get(30) == number * number for number, result in brought)
