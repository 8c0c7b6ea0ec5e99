"""Lineage: how each stored value of this process was made, and whether it can be made again (PROTOCOL.md section 6).

A finished task is kept here while one of its stored returns has a row in `References`: its spec, its retries, and a
*lineage* count on each of its arguments. That count keeps the argument's own spec, and its value only if that is small:
an inline value is as good as a part of the spec, while a stored one is freed and, if need be, made again.

What cannot be made again is kept too, with the reason, for the error that the user will read: it costs less than the
value it describes. The bytes of kept specs are bounded; past the bound the oldest are dropped.

The table changes and answers; `remaking.py` acts on it.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, TaskId, show, task_of
from miniray.core.machine import InvariantError
from miniray.core.owner.tasks import Task
from miniray.core.record import Row

MAX_LINEAGE_BYTES = 1 << 30  # of one process; Ray has the same default
_ROW_BYTES = 1000  # what a kept task costs beside its payload: measured 0.9 kB with one argument

PUT = "it was made by put(), and a put value has no task that could run again"
NO_RETRIES = "its task may run only once (max_retries=0, or of an actor: max_task_retries=0)"
RETRIES_USED = "the retries of its task are used up"
EVICTED = "its lineage was evicted: what a process keeps of its tasks is bounded by init(max_lineage_bytes=)"


class Origin(Row):
    """How the stored returns of one finished task came to be."""

    task: Task | None  # None: it cannot run again
    name: str
    site: str
    why_not: str
    size_bytes: int
    returns: dict[ObjectId, None]  # those that have a row still


class Lineage:
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.size_bytes = 0
        self._origins: dict[TaskId, Origin] = {}
        self._kept: dict[TaskId, None] = {}  # those that can run again, the oldest first
        self._puts: dict[ObjectId, str] = {}  # where each stored put value was made

    def put(self, object_id: ObjectId, site: str) -> None:
        self._puts[object_id] = site

    def finished(self, task: Task, returns: dict[ObjectId, None], size_bytes: int) -> bool:
        """Whether the task is kept: then each of its arguments is to be counted."""
        spec = task.spec
        why_not = RETRIES_USED if spec.options.max_retries else NO_RETRIES
        keep = task.retries_left != 0
        size = size_bytes + len(spec.payload) + _ROW_BYTES if keep else 0
        self._origins[spec.task_id] = Origin(
            task if keep else None, spec.options.name, spec.site, "" if keep else why_not, size, returns
        )
        if keep:
            self._kept[spec.task_id] = None
            self.size_bytes += size
        return keep

    def over_the_bound(self) -> list[Task]:
        """The oldest tasks, evicted until the rest is within the bound."""
        evicted: list[Task] = []
        while self.size_bytes > self._max_bytes:
            task_id = next(iter(self._kept))
            task = self._drop_spec(self._origins[task_id], EVICTED)
            assert task is not None
            evicted.append(task)
        return evicted

    def _drop_spec(self, origin: Origin, why_not: str) -> Task | None:
        task, origin.task = origin.task, None
        if task is not None:
            del self._kept[task.spec.task_id]
            self.size_bytes -= origin.size_bytes
            origin.size_bytes = 0
            origin.why_not = why_not
        return task

    def freed(self, object_id: ObjectId) -> Task | None:
        """This value has no row any more; the task to let go of, if that was the last of its returns."""
        if self._puts.pop(object_id, None) is not None:
            return None
        origin = self._origins.get(task_of(object_id))
        if origin is None:
            return None
        origin.returns.pop(object_id, None)
        if origin.returns:
            return None
        del self._origins[task_of(object_id)]
        return self._drop_spec(origin, "")

    def run_again(self, object_id: ObjectId) -> Task | None:
        """The task that makes it, no longer kept here since it is about to run; None: see `why_lost`."""
        origin = self._origins.get(task_of(object_id))
        if origin is None or origin.task is None:
            return None
        del self._origins[task_of(object_id)]
        return self._drop_spec(origin, "")

    def why_lost(self, object_id: ObjectId) -> tuple[str, str, str]:
        """Why it cannot be made again: (name of its task, the line that made it, the reason)."""
        origin = self._origins.get(task_of(object_id))
        if origin is None:
            return "", self._puts.get(object_id, ""), PUT
        return origin.name, origin.site, origin.why_not

    def kept(self) -> list[Task]:
        return [task for one in self._kept if (task := self._origins[one].task) is not None]

    def check(self) -> None:
        total = 0
        for task_id, origin in self._origins.items():
            if not origin.returns:
                raise InvariantError(f"the lineage of {show(task_id)} is kept for nothing")
            if (origin.task is not None) != (task_id in self._kept) or (origin.task is None) != bool(origin.why_not):
                raise InvariantError(f"the lineage of {show(task_id)} is neither kept nor explained: {origin}")
            total += origin.size_bytes
        if total != self.size_bytes or len(self._kept) > len(self._origins):
            raise InvariantError(f"kept specs have {total} bytes, not {self.size_bytes}")

    def statistics(self) -> dict[str, int]:
        return {"lineage": len(self._origins), "lineage_bytes": self.size_bytes, "stored_puts": len(self._puts)}
