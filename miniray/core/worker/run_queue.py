"""The run queue: tasks that were pushed to this worker and have not started, and results that have not left.

A worker runs one task at a time. Results leave when nothing is left to run, when `BATCH_RESULTS` have gathered,
when the oldest has waited `RESULT_DELAY_SECONDS`, or before a task that is expected to run longer than that, was
never measured, or may not run twice: what a crash can cost the innocent is one millisecond of finished work.
"""

from __future__ import annotations

from collections import deque

from miniray.core.ids import FunctionId, LeaseId, ProcessId, TaskId
from miniray.core.record import Row
from miniray.core.task_spec import PushedTask, TaskResult

RESULT_DELAY_SECONDS = 0.001
BATCH_RESULTS = 64
_MAX_FUNCTIONS_MEASURED = 4096


class Waiting(Row):
    """A pushed task, and where it came from."""

    submitter: ProcessId
    lease: LeaseId  # 0: a call of this process's actor
    task: PushedTask


class RunQueue:
    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.running: Waiting | None = None
        self._results: dict[ProcessId, list[TaskResult]] = {}
        self._count = 0
        self.oldest: float | None = None
        self._durations: dict[tuple[FunctionId, str], int] = {}

    def take_next(self) -> Waiting | None:
        self.running = self.waiting.popleft() if self.waiting else None
        return self.running

    def remove(self, task_id: TaskId) -> Waiting | None:
        """Take one waiting task out."""
        for item in self.waiting:
            if item.task.task_id == task_id:
                self.waiting.remove(item)
                return item
        return None

    def remove_lease(self, lease: LeaseId) -> list[TaskId]:
        """Take out all that waits under this lease."""
        gone = [item.task.task_id for item in self.waiting if item.lease == lease]
        if gone:
            self.waiting = deque(item for item in self.waiting if item.lease != lease)
        return gone

    def remove_submitter(self, submitter: ProcessId) -> None:
        if any(item.submitter == submitter for item in self.waiting):
            self.waiting = deque(item for item in self.waiting if item.submitter != submitter)
        gone = self._results.pop(submitter, [])
        self._count -= len(gone)

    # ---- results ----

    def measured(self, task: PushedTask, microseconds: int) -> None:
        if len(self._durations) >= _MAX_FUNCTIONS_MEASURED:
            self._durations.clear()
        self._durations[task.function, task.method] = microseconds

    def add_result(self, now: float, submitter: ProcessId, result: TaskResult) -> None:
        self._results.setdefault(submitter, []).append(result)
        self._count += 1
        if self.oldest is None:
            self.oldest = now

    @property
    def has_results(self) -> bool:
        return self._count > 0

    def must_send(self, now: float) -> bool:
        """Whether results have to leave before the next waiting task starts."""
        if not self.waiting or self.oldest is None:
            return True
        if self._count >= BATCH_RESULTS or self.oldest + RESULT_DELAY_SECONDS <= now:
            return True
        task = self.waiting[0].task
        expected = self._durations.get((task.function, task.method))
        return task.at_most_once or expected is None or expected > RESULT_DELAY_SECONDS * 1e6

    def take_results(self) -> list[tuple[ProcessId, list[TaskResult]]]:
        results = list(self._results.items())
        self._results = {}
        self._count = 0
        self.oldest = None
        return results
