"""Table: refs that have come with the tasks which run in this process (PROTOCOL.md section 4, "Task arguments").

The task is their pin while it runs. A ref of the submitter itself costs no message: the result names what is still held
then (`retained`), and that is the registration. Refs of third parties are registered as they come; what is not
confirmed when the task ends makes its result `pending`, and its submitter keeps the pins until `HandoffDone`.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, ProcessId, TaskId
from miniray.core.messages import ArgumentsArrived
from miniray.core.owner.handoffs import Transfer
from miniray.core.owner.holding import Holding
from miniray.core.owner.references import Borrowed


class Arrivals:
    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._rows: dict[tuple[TaskId, int], tuple[ObjectId, ...]] = {}

    def arrive(self, message: ArgumentsArrived) -> None:
        """A task starts here: hold every ref that came with it, and register with third parties."""
        holding = self._holding
        self._rows[message.task, message.attempt] = message.refs
        for object_id in message.refs:
            row = holding.row(object_id)
            row.arguments += 1
            if isinstance(row, Borrowed):
                if object_id[:8] == message.submitter:
                    row.arrivals += 1
                else:
                    holding.make_known(object_id, row)

    def depart(self, submitter: ProcessId, task: TaskId, attempt: int) -> tuple[tuple[ObjectId, ...], bool]:
        """That task has ended: (refs of the submitter that are still held, whether a third party is yet to confirm)."""
        holding = self._holding
        references, handoffs = holding.references, holding.handoffs
        refs = self._rows.pop((task, attempt), ())
        retained: dict[ObjectId, None] = {}
        transfer = Transfer(sender=(submitter, task, attempt))
        for object_id in refs:
            row = references.rows[object_id]
            if isinstance(row, Borrowed) and object_id[:8] == submitter:
                row.arrivals -= 1
            elif isinstance(row, Borrowed) and handoffs.is_open(object_id):
                handoffs.expect(object_id, transfer)
            if not references.release_argument(object_id):
                holding.let_go(object_id)
            elif isinstance(row, Borrowed) and object_id[:8] == submitter and not row.arrivals:
                row.registered = True
                retained[object_id] = None
            elif isinstance(row, Borrowed) and row.views and object_id[:8] in holding.lost:
                handoffs.wait_for_views(object_id, transfer)
        return tuple(retained), transfer.left > 0

    def running_from(self, submitter: ProcessId) -> list[tuple[TaskId, int]]:
        """The tasks that have come from there and run here, with their attempts."""
        return [key for key in self._rows if key[0][:8] == submitter]

    def statistics(self) -> dict[str, int]:
        return {"arrivals": len(self._rows)}
