"""Dask distributed with a cluster of this host, as a user writes it (the package's extra `bench`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.versus.pool_verbs import PoolVerbs
from distributed import Client, LocalCluster, as_completed


class Adapter(PoolVerbs):
    def start(self, workers: int) -> None:
        self.cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        )
        self.client = Client(self.cluster)

    def call(self, function: Any, item: Any) -> Any:
        return self.client.submit(function, item, pure=False).result()

    def submit(self, function: Any, item: Any) -> Any:
        return self.client.submit(function, item, pure=False)

    def result(self, handle: Any, seconds: float | None) -> Any:
        return handle.result(seconds)

    def map(self, function: Any, items: Sequence[Any]) -> list[Any]:
        return self.client.gather(self.client.map(function, list(items), pure=False))

    def unordered(self, function: Any, items: Sequence[Any]) -> Iterable[Any]:
        futures = self.client.map(function, list(items), pure=False)
        return (result for _, result in as_completed(futures, with_results=True))

    def stop(self) -> None:
        self.client.close()
        self.cluster.close()
