"""Forks: the workers that the driver forks, each for one request.

Such a worker has inherited what that request's actor needs: it serves that one alone, and is ended when the request or
the lease of it is. The table has it from the moment in which it is asked for until its process has ended.
"""

from __future__ import annotations

from collections.abc import Mapping

from miniray.core.ids import show
from miniray.core.node.lease_queue import Request, RequestKey
from miniray.core.node.worker_pool import Worker, WorkerPool, WorkerState


class Forks:
    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._rows: dict[RequestKey, Worker] = {}

    def new(self, key: RequestKey) -> Worker:
        worker = self._rows[key] = self._pool.new(key)
        return worker

    def ready(self, key: RequestKey) -> Worker | None:
        """The worker that waits for this request."""
        worker = self._rows.get(key)
        return worker if worker is not None and worker.state is WorkerState.IDLE else None

    def unwanted(self, requests: Mapping[RequestKey, Request]) -> list[Worker]:
        """Those that idle, and whose request is no more: it was cancelled, or its lease has ended."""
        return [row for key, row in self._rows.items() if row.state is WorkerState.IDLE and key not in requests]

    def missing(self, requests: Mapping[RequestKey, Request]) -> list[tuple[RequestKey, Request]]:
        """What has none yet, not even one that is starting."""
        return [(key, one) for key, one in requests.items() if one.fork is not None and key not in self._rows]

    def gone(self, worker: Worker) -> None:
        """Its process has ended: a request that still waits for it has another one forked."""
        if worker.forked_for is not None:
            self._rows.pop(worker.forked_for, None)

    def check(self) -> None:
        for key, row in self._rows.items():
            assert row.forked_for == key, f"{show(row.process)} was forked for another request than that of its row"
            assert self._pool.rows.get(row.process) is row, f"{show(row.process)} is no worker of this node"
