"""miniray.Executor, as a user writes it."""

from __future__ import annotations

import miniray
from bench.versus.pool_verbs import StandardExecutor

STORE_BYTES = 1 << 30


class Adapter(StandardExecutor):
    def start(self, workers: int) -> None:
        self.workers = workers
        miniray.init(num_cpus=workers, object_store_memory=STORE_BYTES)
        self.executor = miniray.Executor(workers)

    def stop(self) -> None:
        super().stop()
        miniray.shutdown()
