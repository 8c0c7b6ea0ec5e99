"""What people write with pools and executors: ways to call, wrong ways, programs within workers."""

from __future__ import annotations

import asyncio
import csv
import functools
import io
import itertools
import os
import signal
import time
from concurrent import futures

import numpy
from one_import import Executor, mp, said, snippet, tell


def square(x):
    return x * x


def same(x):
    return x


def divide(a, b=1):
    return a / b


# ---- ways to call ----


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def times(self, x):
        return self.factor * x

    __call__ = times

    @classmethod
    def name(cls, x):
        return cls.__name__, x


class Owner:
    def __init__(self):
        self.pool = mp.Pool(1)

    def work(self, x):
        return x


@snippet
def starmap_with_zip():
    with mp.Pool(2) as pool:
        return pool.starmap(pow, zip(range(4), itertools.repeat(2)))


@snippet
def partials_methods_and_builtins():
    with mp.Pool(2) as pool:
        methods = pool.map(Scaled(3).times, [1, 2]), pool.map(Scaled.name, [1]), pool.map(Scaled(2), [5])
        builtins = pool.map(str.upper, "ab"), pool.map(len, [[1]])
        return pool.map(functools.partial(divide, b=2), [1, 2]), methods, builtins


@snippet
def things_to_map_over():
    with mp.Pool(2) as pool:
        rows = csv.DictReader(io.StringIO("a,b\n1,2\n"))
        inputs = [{"a": 1}, "xyz", numpy.arange(3), [], (1, 2), {7}, b"ab", {"a": 1}.items(), rows, (i for i in "uv")]
        return [pool.map(repr, given) for given in inputs]


@snippet
def progress_bar_with_total():
    with mp.Pool(2) as pool:
        seen = [done for done, _ in enumerate(pool.imap_unordered(square, range(50)), 1)]
        return seen[-1], sum(pool.imap(int, io.StringIO("1\n2\n3\n"), chunksize=2))


@snippet
def polling_makes_progress():
    pool = mp.Pool(2)
    results = [pool.apply_async(square, (i,)) for i in range(20)]
    end = time.monotonic() + 20
    while not all(result.ready() for result in results) and time.monotonic() < end:
        pass
    pool.close()
    return [result.ready() and result.get() for result in results]


@snippet
def progress_by_what_is_left():
    with mp.Pool(2) as pool:
        result = pool.map_async(square, range(100), chunksize=10)
        result.wait()
        one = pool.apply_async(time.sleep, (0.1,))
        pending = one._job in pool._cache, len(pool._cache)
        one.wait()
        return result._number_left, result._chunksize, pending, len(pool._cache), pool._taskqueue.qsize()


@snippet
def callbacks_are_done_after_join():
    seen = []
    pool = mp.Pool(1)
    for number in range(4):
        pool.apply_async(divide, (1, number), callback=seen.append, error_callback=lambda e: seen.append(repr(e)))
    pool.close()
    pool.join()
    return seen


@snippet
def a_pool_in_an_object_that_travels():
    class_with_pool = Owner()
    try:
        return class_with_pool.pool.map(class_with_pool.work, [1])
    finally:
        class_with_pool.pool.terminate()


@snippet
def wrong_uses():
    pool = mp.Pool(1)
    texts = [said(use) for use in (
        lambda: pool.map(5, [1]), lambda: pool.map(square, None), lambda: pool.map(square(2), [1]), pool.join,
        lambda: pool.starmap(square, [1]), lambda: pool.apply(square), lambda: pool.map(divide, [(1, 2)]),
        lambda: mp.Pool(0), lambda: mp.Pool("2"), lambda: mp.Pool(2.5), lambda: mp.Pool(1, initializer=5),
        lambda: mp.Pool(1, maxtasksperchild=0), lambda: pool.apply(same, (mp.Lock(),)),
        lambda: pool.imap(square, [1], chunksize=0), lambda: list(pool.map(abs, _fails_early())),
    )]  # fmt: skip
    pool.close()
    return [*texts, said(lambda: pool.map(square, [1])), said(pool.__enter__), said(lambda: pool.apply_async(same))]


@snippet
def wrong_uses_of_executors():
    executor = Executor(1)
    texts = [said(use) for use in (
        lambda: Executor(0), lambda: Executor("2"), lambda: Executor(2.5).submit(same, 1).result(),
        lambda: Executor(1, initializer=5), lambda: Executor(1, max_tasks_per_child=0), lambda: executor.submit(),
        lambda: executor.submit(None).result(), lambda: list(executor.map(abs, 5)), lambda: list(executor.map(abs)),
        lambda: list(executor.map(abs, [1], chunksize=0)), lambda: executor.submit(same, mp.Lock()).result(),
    )]  # fmt: skip
    executor.shutdown()
    # a new class of executor has a new name, and says the rest alike
    return [text.partition("__init__")[2] or text.partition("submit()")[2] or text
            for text in (*texts, said(lambda: executor.submit(same, 1)))]  # fmt: skip


@snippet
def what_is_seen_of_an_executor():
    executor = Executor(2)
    before = len(executor._processes), len(executor._pending_work_items), executor._max_workers, executor._broken
    calls = [executor.submit(time.sleep, 0.1) for _ in range(6)]
    during = 0 < len(executor._pending_work_items) <= 6, len(executor._processes)
    futures.wait(calls)
    after = len(executor._pending_work_items)
    executor.shutdown()
    return before, during, after


# ---- what is done in workers ----


@snippet
def programs_within_workers():
    with mp.Pool(2) as pool:
        loops, threads = pool.map(_run_loop, [1, 2]), pool.map(_run_threads, [3])
        return loops, threads, pool.map(_run_program, [3]), pool.apply(_alarmed)


def _run_loop(x):
    return asyncio.run(asyncio.sleep(0.001, x))


def _run_threads(x):
    with mp.pool.ThreadPool(2) as threads:
        return threads.map(square, range(x))


def _run_program(x):
    return os.system(f"exit {x}") >> 8


def _alarmed():
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("alarm")))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return said(lambda: time.sleep(5)), signal.getsignal(signal.SIGINT).__name__ != ""


@snippet
def the_idiom_for_interrupts():
    with mp.Pool(1, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        return pool.apply(signal.getsignal, (signal.SIGINT,))


@snippet
def in_asyncio():
    async def main():
        loop = asyncio.get_running_loop()
        with Executor(2) as executor, mp.Pool(1) as pool:
            called = await asyncio.gather(*[loop.run_in_executor(executor, square, i) for i in range(4)])
            future = loop.create_future()
            pool.apply_async(square, (5,), callback=lambda v: loop.call_soon_threadsafe(future.set_result, v))
            return called, await asyncio.wait_for(future, 20)

    return asyncio.run(main())


def _fails_early():
    yield 1
    raise KeyError("early")


if __name__ == "__main__":
    tell()
