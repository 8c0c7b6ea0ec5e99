"""concurrent.futures.ProcessPoolExecutor (fork), as a user writes it."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

from bench.versus.work import ends, make_array, nothing, pin


class Adapter:
    def start(self, workers: int) -> None:
        self._workers = workers
        self._executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))

    def stop(self) -> None:
        self._executor.shutdown()

    def pin_worker(self, core: int) -> None:
        self._executor.submit(pin, core).result()

    def roundtrip(self, count: int) -> float:
        submit = self._executor.submit
        began = perf_counter()
        for i in range(count):
            submit(nothing, i).result()
        return perf_counter() - began

    def submit_gather(self, count: int) -> float:
        submit = self._executor.submit
        began = perf_counter()
        futures = [submit(nothing, i) for i in range(count)]
        assert sum(future.result() for future in futures) == count * (count - 1) // 2
        return perf_counter() - began

    def map_trivial(self, count: int) -> float:
        chunk = -(-count // (4 * self._workers))  # as Pool.map chooses; the default of 1 would take a minute
        began = perf_counter()
        assert len(list(self._executor.map(nothing, range(count), chunksize=chunk))) == count
        return perf_counter() - began

    def share_array(self, nbytes: int, tasks: int) -> float:
        array = make_array(nbytes)
        began = perf_counter()
        assert list(self._executor.map(ends, [array] * tasks)) == [2.0] * tasks
        return perf_counter() - began
