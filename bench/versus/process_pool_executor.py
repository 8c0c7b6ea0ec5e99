"""concurrent.futures.ProcessPoolExecutor (fork), as a user writes it."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from bench.versus.pool_verbs import StandardExecutor


class Adapter(StandardExecutor):
    def start(self, workers: int) -> None:
        self.workers = workers
        self.executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))

    def mend(self) -> None:
        """One that has lost a process takes no more calls."""
        self.executor.shutdown()
        self.start(self.workers)
