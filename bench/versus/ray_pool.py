"""`ray.util.multiprocessing.Pool`, as a user writes it (the package's extra `bench`)."""

from __future__ import annotations

import ray
from bench.versus.pool_verbs import StandardPool
from bench.versus.ray_adapter import start_ray
from ray.util.multiprocessing import Pool


class Adapter(StandardPool):
    def start(self, workers: int) -> None:
        start_ray(workers)
        self.pool = Pool(workers)

    def stop(self) -> None:
        super().stop()
        ray.shutdown()
