"""Objects: where the value of each ref is, and who wants to be told (PROTOCOL.md section 3).

| state | where such an object is found |
|---|---|
| PENDING | a row in `References`, none in `values`; its task is in `Tasks` (or, borrowed, the owner was asked) |
| INLINE, STORED, FAILED | `values` holds the `Inline`, `Stored`, `Failed` (an actor's creation: `ActorAt`) |
| gone | nowhere: a freed id is an error to mention, not an entry |

A borrower keeps here what its owner has told it, for as long as it holds the ref.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, ProcessId, TaskId
from miniray.core.task_spec import Value


class Objects:
    def __init__(self) -> None:
        self.values: dict[ObjectId, Value] = {}
        self._dependants: dict[ObjectId, list[TaskId]] = {}  # tasks of this process with this as an argument
        self._askers: dict[ObjectId, dict[ProcessId, None]] = {}  # processes that sent `WhereIs`

    def depend(self, object_id: ObjectId, task: TaskId) -> None:
        self._dependants.setdefault(object_id, []).append(task)

    def ask(self, object_id: ObjectId, asker: ProcessId) -> None:
        self._askers.setdefault(object_id, {})[asker] = None

    def is_awaited(self, object_id: ObjectId) -> bool:
        """Whether somebody must be told when it is ready; the common answer is no, in two look-ups."""
        return object_id in self._dependants or object_id in self._askers

    def take_dependants(self, object_id: ObjectId) -> list[TaskId]:
        return self._dependants.pop(object_id, [])

    def take_askers(self, object_id: ObjectId) -> list[ProcessId]:
        return list(self._askers.pop(object_id, ()))

    def forget_task(self, object_id: ObjectId, task: TaskId) -> None:
        """A task that waited for this was cancelled or has failed through another argument."""
        tasks = self._dependants.get(object_id)
        if tasks is not None:
            tasks[:] = [other for other in tasks if other != task]
            if not tasks:
                del self._dependants[object_id]

    def forget_asker(self, asker: ProcessId) -> None:
        for object_id in [one for one, askers in self._askers.items() if asker in askers]:
            del self._askers[object_id][asker]
            if not self._askers[object_id]:
                del self._askers[object_id]

    def statistics(self) -> dict[str, int]:
        return {"values": len(self.values), "dependants": len(self._dependants), "askers": len(self._askers)}
