"""multiprocessing.Pool (fork), as a user writes it."""

from __future__ import annotations

import multiprocessing
from time import perf_counter

from bench.versus.work import ends, make_array, nothing, pin


class Adapter:
    def start(self, workers: int) -> None:
        self._pool = multiprocessing.get_context("fork").Pool(workers)

    def stop(self) -> None:
        self._pool.close()
        self._pool.join()

    def pin_worker(self, core: int) -> None:
        self._pool.apply(pin, (core,))

    def roundtrip(self, count: int) -> float:
        apply = self._pool.apply
        began = perf_counter()
        for i in range(count):
            apply(nothing, (i,))
        return perf_counter() - began

    def submit_gather(self, count: int) -> float:
        submit = self._pool.apply_async
        began = perf_counter()
        results = [submit(nothing, (i,)) for i in range(count)]
        assert sum(result.get() for result in results) == count * (count - 1) // 2
        return perf_counter() - began

    def map_trivial(self, count: int) -> float:
        began = perf_counter()
        assert len(self._pool.map(nothing, range(count))) == count
        return perf_counter() - began

    def share_array(self, nbytes: int, tasks: int) -> float:
        array = make_array(nbytes)
        began = perf_counter()
        assert self._pool.map(ends, [array] * tasks, chunksize=1) == [2.0] * tasks
        return perf_counter() - began
