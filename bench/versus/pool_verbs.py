"""What is asked of every pool, in terms of the few words that each of them has.

An adapter of the families POOLS and EXECUTORS says these, and has all the verbs:

    start(workers), stop()
    call(f, x)              the result of one call, which is waited for
    submit(f, x)            a handle of it, at once
    result(handle, seconds) its result, or whatever is raised after so many seconds
    map(f, items)           a list, with the chunks that the system chooses
    unordered(f, items)     an iterator of results as they come, one item a task
    mend()                  after a loss: what users of this system do so that it takes calls again
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from time import monotonic, perf_counter
from typing import Any

from bench.measure import cores, descendants, pin_threads
from bench.versus.work import die, doze, ends, held, hold, make_array, nothing, pin, record, same, spin, spin_and_tell

RECOVERY_CALLS = 100
OBJECT_MAPS = 4


class PoolVerbs:
    def mend(self) -> None:
        """It mends itself."""

    def map_chunked(self, function: Any, items: Sequence[Any]) -> list[Any]:
        """With chunks as `Pool.map` chooses them, where the system's own choice is made for slow calls only."""
        return self.map(function, items)

    def pin_worker(self, core: int) -> None:
        self.call(pin, core)

    # ---- verbs ----

    def roundtrip(self, count: int) -> float:
        call = self.call
        began = perf_counter()
        for i in range(count):
            call(nothing, i)
        return perf_counter() - began

    def roundtrip_pinned(self, count: int) -> float:
        """The same, with all threads of this process on one core, and those of all others on another."""
        driver, worker = cores()
        for pid in descendants(os.getpid())[1:]:
            pin_threads(worker, pid)
        pin_threads(driver)
        return self.roundtrip(count)

    def submit_gather(self, count: int) -> float:
        submit, result = self.submit, self.result
        began = perf_counter()
        handles = [submit(nothing, i) for i in range(count)]
        assert sum([result(handle, None) for handle in handles]) == count * (count - 1) // 2
        return perf_counter() - began

    def map_trivial(self, count: int) -> float:
        began = perf_counter()
        assert len(self.map_chunked(nothing, range(count))) == count
        return perf_counter() - began

    def map_busy(self, count: int, seconds: float) -> float:
        """Calls that keep a core busy for so long."""
        items = [seconds] * count
        began = perf_counter()
        assert len(self.map(spin, items)) == count
        return perf_counter() - began

    def unordered_trivial(self, count: int) -> float:
        began = perf_counter()
        assert sum(self.unordered(nothing, range(count))) == count * (count - 1) // 2
        return perf_counter() - began

    def skewed(self, seconds: Sequence[float]) -> list[float]:
        """[what the whole map takes, what each of its calls took in truth]"""
        self.map(nothing, range(100))
        began = perf_counter()
        took = self.map(spin, seconds)
        return [perf_counter() - began, *took]

    def lateness(self, quick: int, slow: float, times: int) -> list[float]:
        """How long after it was there each result reaches the caller, seconds. One call between quick ones is slow."""
        late = []
        list(self.unordered(spin_and_tell, [0.0] * 20_000))  # a system that learns from the calls before has learned
        for _ in range(times):
            for there in self.unordered(spin_and_tell, [0.0] * quick + [slow] + [0.0] * quick):
                late.append(monotonic() - there)
        return late

    def share_array(self, nbytes: int, tasks: int) -> float:
        array = make_array(nbytes)
        began = perf_counter()
        assert list(self.unordered(ends, [array] * tasks)) == [2.0] * tasks
        return perf_counter() - began

    def big_arguments(self, nbytes: int, calls: int) -> float:
        array = make_array(nbytes)
        began = perf_counter()
        for _ in range(calls):
            assert self.call(ends, array) == 2.0
        return perf_counter() - began

    def big_results(self, nbytes: int, calls: int) -> float:
        """Workers have the array already; each call gives the driver one of its own."""
        self.map(hold, [nbytes] * 8)
        began = perf_counter()
        for _ in range(calls):
            assert self.call(held, nbytes)[-1] == 1.0
        return perf_counter() - began

    def small_objects(self, count: int) -> float:
        """Of one map; about every second one meets a full collection of garbage, whoever makes it."""
        items = [record(i) for i in range(count)]
        seconds = 0.0
        for _ in range(OBJECT_MAPS):
            began = perf_counter()
            found = self.map_chunked(same, items)
            seconds += perf_counter() - began
            assert found == items
        return seconds / OBJECT_MAPS

    def recover(self, patience: float) -> float:
        """From the submission of a call that kills its worker to the results of all that were submitted after it,
        again where they were lost. Infinite: something has had no outcome for `patience` seconds."""
        self.map(doze, [0.05] * 8)  # all workers are up
        began = perf_counter()
        wanted: Iterable[int] = range(RECOVERY_CALLS)
        handles = self._submitted(die, [0])
        while wanted:
            handles += self._submitted(nothing, wanted)
            found = set()
            for handle in handles:
                asked = perf_counter()
                try:
                    found.add(self.result(handle, patience))
                except Exception:
                    if perf_counter() - asked >= patience:
                        return math.inf
            wanted = [i for i in wanted if i not in found]
            handles = []
            if wanted:
                self.mend()
        return perf_counter() - began

    def _submitted(self, function: Any, items: Iterable[int]) -> list[Any]:
        """Handles of the calls that it takes."""
        handles = []
        for item in items:
            try:
                handles.append(self.submit(function, item))
            except Exception:  # it is known to be broken already
                break
        return handles


class StandardPool(PoolVerbs):
    """Over anything with the methods of `multiprocessing.Pool`, as `self.pool`."""

    pool: Any

    def call(self, function: Any, item: Any) -> Any:
        return self.pool.apply(function, (item,))

    def submit(self, function: Any, item: Any) -> Any:
        return self.pool.apply_async(function, (item,))

    def result(self, handle: Any, seconds: float | None) -> Any:
        return handle.get(seconds)

    def map(self, function: Any, items: Sequence[Any]) -> list[Any]:
        return self.pool.map(function, items)

    def unordered(self, function: Any, items: Sequence[Any]) -> Iterable[Any]:
        return self.pool.imap_unordered(function, items)

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()


class StandardExecutor(PoolVerbs):
    """Over anything with the methods of `concurrent.futures.Executor`, as `self.executor`."""

    executor: Any
    workers: int

    def call(self, function: Any, item: Any) -> Any:
        return self.executor.submit(function, item).result()

    def submit(self, function: Any, item: Any) -> Any:
        return self.executor.submit(function, item)

    def result(self, handle: Any, seconds: float | None) -> Any:
        return handle.result(seconds)

    def map(self, function: Any, items: Sequence[Any]) -> list[Any]:
        return list(self.executor.map(function, items))

    def map_chunked(self, function: Any, items: Sequence[Any]) -> list[Any]:
        return list(self.executor.map(function, items, chunksize=-(-len(items) // (4 * self.workers))))

    def unordered(self, function: Any, items: Sequence[Any]) -> Iterable[Any]:
        from concurrent.futures import as_completed

        submit = self.executor.submit
        for future in as_completed([submit(function, item) for item in items]):
            yield future.result()

    def roundtrip_wait(self, count: int) -> float:
        """As `roundtrip`, by `concurrent.futures.wait`."""
        from concurrent.futures import wait

        submit = self.executor.submit
        began = perf_counter()
        for i in range(count):
            done, _ = wait([submit(nothing, i)])
            assert done.pop().result() == i
        return perf_counter() - began

    def roundtrip_asyncio(self, count: int) -> float:
        """As `roundtrip`, by asyncio's `run_in_executor`."""
        import asyncio  # here: idle memory is a row, too

        async def all_of_them() -> None:
            run = asyncio.get_running_loop().run_in_executor
            for i in range(count):
                assert await run(self.executor, nothing, i) == i

        began = perf_counter()
        asyncio.run(all_of_them())
        return perf_counter() - began

    def gather_asyncio(self, count: int) -> float:
        """As `submit_gather`, by asyncio's `run_in_executor` and `gather`."""
        import asyncio

        async def all_of_them() -> list[int]:
            run = asyncio.get_running_loop().run_in_executor
            return await asyncio.gather(*[run(self.executor, nothing, i) for i in range(count)])

        began = perf_counter()
        assert sum(asyncio.run(all_of_them())) == count * (count - 1) // 2
        return perf_counter() - began

    def stop(self) -> None:
        self.executor.shutdown()
