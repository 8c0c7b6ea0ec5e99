"""multiprocessing.Pool (fork), as a user writes it."""

from __future__ import annotations

import multiprocessing

from bench.versus.pool_verbs import StandardPool


class Adapter(StandardPool):
    def start(self, workers: int) -> None:
        self.pool = multiprocessing.get_context("fork").Pool(workers)
