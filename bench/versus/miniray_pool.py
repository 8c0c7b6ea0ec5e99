"""miniray.Pool, as a user writes it."""

from __future__ import annotations

import miniray
from bench.versus.pool_verbs import StandardPool

STORE_BYTES = 1 << 30


class Adapter(StandardPool):
    def start(self, workers: int) -> None:
        miniray.init(num_cpus=workers, object_store_memory=STORE_BYTES)
        self.pool = miniray.Pool(workers)

    def stop(self) -> None:
        super().stop()
        miniray.shutdown()
