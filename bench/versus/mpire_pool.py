"""mpire's WorkerPool (fork), kept alive between calls, as a user writes it (the package's extra `bench`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.versus.pool_verbs import StandardPool
from mpire import WorkerPool


class Adapter(StandardPool):
    def start(self, workers: int) -> None:
        self.workers = workers
        self.pool = WorkerPool(n_jobs=workers, start_method="fork", keep_alive=True)

    def mend(self) -> None:
        """One that has lost a process is at an end."""
        self.pool.terminate()
        self.start(self.workers)

    def map(self, function: Any, items: Sequence[Any]) -> list[Any]:
        return self.pool.map(function, [(item,) for item in items])  # it spreads tuples and dicts over the parameters

    def unordered(self, function: Any, items: Sequence[Any]) -> Iterable[Any]:
        return self.pool.imap_unordered(function, items, chunk_size=1)

    def stop(self) -> None:
        self.pool.stop_and_join()
