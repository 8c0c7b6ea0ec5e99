"""loky's reusable executor, as joblib uses it (the package's extra `bench`)."""

from __future__ import annotations

import loky
from bench.versus.pool_verbs import StandardExecutor


class Adapter(StandardExecutor):
    def start(self, workers: int) -> None:
        self.workers = workers
        self.executor = loky.get_reusable_executor(max_workers=workers, timeout=None)

    def mend(self) -> None:
        """Asked again, it gives a new one in place of a broken one."""
        self.start(self.workers)
