"""What a pool or an executor has not done yet: its `_cache`, `_taskqueue` and `_pending_work_items`.

They are nobody's promise, and yet many a progress bar shows their lengths, and many a loop waits until they are empty.
So they are worked out when somebody looks, and cost nothing else.
"""

from __future__ import annotations

from typing import Any

from miniray.pool.dispatch import Dispatcher


def unfinished(dispatcher: Dispatcher) -> dict[int, Any]:
    """What has calls that have not ended, by `id`: results of single calls, or futures; a `map`, as a whole. What
    starts last comes first."""
    found: dict[int, Any] = {}
    with dispatcher.lock:
        groups = [group for member in dispatcher.crew for group in reversed([*member.groups, *member.loading])]
        for source, tokens in [*dispatcher.waiting_calls(), *((group.source, group.tokens) for group in groups)]:
            single = getattr(source, "waiting", None)
            for one in (source,) if single is None else single() if tokens is None else tokens:
                found[id(one)] = one
    return found


class TaskQueue:
    """In place of the queue between a standard pool and its thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def qsize(self) -> int:
        """How many calls, or whole `map`s, no worker has yet."""
        return sum(1 if tokens is None else len(tokens) for _, tokens in self._dispatcher.waiting_calls())

    def empty(self) -> bool:
        return not self.qsize()
