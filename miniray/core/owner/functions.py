"""Functions: definitions sent once to each worker, then named by their hash.

A definition lives while a handle of it lives (`RemoteFunction`) or an unfinished task names it; then the
workers that have it are told to forget it, and its place, if it was large, is freed. Refs that the function
captured are held as long: a function is a container (PROTOCOL.md section 4).
"""

from __future__ import annotations

from miniray.core.ids import FunctionId, ObjectId, ProcessId
from miniray.core.record import Row
from miniray.core.task_spec import Value


class Function(Row):
    function: FunctionId
    value: Value
    object_id: ObjectId | None  # under which a large definition lies in the store
    handles: int = 0
    pending: int = 0  # unfinished tasks that name it
    sent_to: dict[ProcessId, None] = {}  # msgspec copies this default for each row


class Functions:
    def __init__(self) -> None:
        self.rows: dict[FunctionId, Function] = {}

    def add_handle(self, function: FunctionId, value: Value, object_id: ObjectId | None) -> bool:
        """Whether this definition was not known."""
        row = self.rows.get(function)
        new = row is None
        if row is None:
            row = self.rows[function] = Function(function, value, object_id)
        row.handles += 1
        return new

    def worker_lost(self, worker: ProcessId) -> None:
        for row in self.rows.values():
            row.sent_to.pop(worker, None)
