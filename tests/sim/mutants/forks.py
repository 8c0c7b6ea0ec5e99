"""Workers that are forked from the driver, each for one actor: wrong in one point each (`core/node/forks.py`)."""

from __future__ import annotations

from typing import Any

from miniray.core.node.forks import Forks
from miniray.core.node.staffing import Staffing
from miniray.core.node.worker_pool import WorkerPool, WorkerState
from tests.sim.mutants import Wrong, mutant


@mutant(WorkerPool, "idle", nodes=2)
def a_fork_serves_whoever_comes_first(right: Wrong) -> Wrong:
    """One that waits for its actor is taken for a worker like others."""
    return lambda self: [row for row in self.rows.values() if row.state is WorkerState.IDLE]


@mutant(Forks, "ready")
def a_fork_serves_the_actor_of_another(right: Wrong) -> Wrong:
    """An actor gets the first process that was forked, for whichever actor that was."""

    def wrong(self: Forks, key: Any) -> Any:
        idle = [row for row in self._rows.values() if row.state is WorkerState.IDLE]
        return idle[0] if idle else None

    return wrong


@mutant(Staffing, "_schedule_forks")
def a_fork_is_any_worker(right: Wrong) -> Wrong:
    """A request for a fork is served by an idle worker."""

    def wrong(self: Staffing, served: list[Any]) -> None:
        wanted = [request for request in served if request.fork is not None]
        for request, worker in zip(wanted, self._pool.idle(), strict=False):
            self._grant(request, worker)
        right(self, served)

    return wrong


@mutant(Forks, "unwanted")
def a_fork_outlives_the_request_that_it_was_for(right: Wrong) -> Wrong:
    """It is not ended when nobody wants it any more."""
    return lambda self, requests: []


@mutant(Forks, "gone")
def a_fork_that_dies_is_not_made_again(right: Wrong) -> Wrong:
    """The actor whose process has died, before it began or later, waits for ever."""
    return lambda self, worker: None


@mutant(Forks, "missing")
def a_fork_is_made_again_while_it_starts(right: Wrong) -> Wrong:
    """Each time that the node looks at its requests, until one has registered."""

    def wrong(self: Forks, requests: Any) -> Any:
        return [(key, one) for key, one in requests.items() if one.fork is not None and self.ready(key) is None]

    return wrong
