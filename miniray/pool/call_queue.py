"""The calls of a pool that no worker has yet, in order: sources, and remainders of groups that came back unrun.

It cuts groups from what is first, sized by how long such calls take. All its methods run under the pool's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from miniray.errors import TaskCancelledError
from miniray.pool.groups import Group, Remainder, Source, fitting, sizes_of

if TYPE_CHECKING:
    from miniray.pool.crew_member import CrewMember


DROPPED = TaskCancelledError("its caller was interrupted")
NUMBER_STEP = 64  # between two groups is room for those that go before the second after all (`CrewMember.load`)


class CallQueue:
    """
    Args:
        processes: how many workers share what is here.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._entries: deque[Any] = deque()
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._entries)

    def has_calls(self) -> bool:
        """Whether calls wait, or may come, where the input is still read. Sources that have given all leave, as they do
        when a group is cut."""
        entries = self._entries
        while entries:
            if entries[0].remaining() != 0:
                return True
            entry = entries.popleft()
            taken = entry.take(1)
            if taken is not None:  # a finaliser has just brought a call
                entries.extendleft([entry, Remainder(getattr(entry, "source", entry), *taken)])
        return False

    def last(self) -> Any:
        return self._entries[-1] if self._entries else None

    def append(self, source: Source) -> None:
        self._entries.append(source)

    def next_number(self) -> int:
        """Groups are numbered as they are cut: the board tells the later one by that."""
        self._numbers += NUMBER_STEP
        return self._numbers

    def next_group(self, member: CrewMember) -> Group | None:
        """The group that this worker runs next; None: there is nothing now."""
        entries = self._entries
        while entries:
            entry = entries[0]
            source: Source = entry.source if isinstance(entry, Remainder) else entry
            taken = entry.take(self._limit(source, entry.remaining(), member))
            if taken is None or (entry.remaining() == 0 and entry.take(0) is None):  # it hears that it is at its end
                entries.popleft()
                if entry is source and entry.remaining():  # a finaliser has just brought a call
                    entries.appendleft(entry)
            if taken is None:
                continue
            tokens, items = taken
            attempt = entry.attempt if isinstance(entry, Remainder) else 0
            fit = fitting(source, tokens, items)
            if fit < len(items):
                entries.appendleft(Remainder(source, tokens[fit:], items[fit:], attempt=attempt))
                tokens, items = tokens[:fit], items[:fit]
            tokens, items = source.starts(tokens, items)
            if not tokens:
                continue
            return Group(source, tokens, items, self.next_number(), attempt)
        return None

    def _limit(self, source: Source, remaining: int | None, member: CrewMember) -> int:
        if source.travels_alone:
            return 1
        size, last = sizes_of(source)
        if member.quota is not None:
            size = min(size, int(member.quota * source.chunk))
        if remaining is not None:  # towards the end, groups of which every worker gets some
            size = min(size, max(-(-remaining // self.processes), last))
        return max(1, size)

    def put_back(
        self, group: Group, first: int, end: int | None = None, *, limit: int | None = None, attempt: int | None = None
    ) -> None:
        """Calls of a group that are to be run before all others; `limit`: at most so many in a group."""
        end = group.kept if end is None else end
        if first < end and group.source.is_dropped:
            _fail(Remainder(group.source, group.tokens[first:end], ()), DROPPED)
        elif first < end:
            attempt = group.attempt if attempt is None else attempt
            back = Remainder(group.source, group.tokens[first:end], group.items[first:end], limit, attempt)
            self._entries.appendleft(back)
            group.source.come_back(back.tokens)

    def contents(self) -> list[tuple[Source, Sequence[Any] | None]]:
        """What is here: sources, and which of their calls; None: those that were not taken from it yet."""
        return [(one.source, one.tokens) if isinstance(one, Remainder) else (one, None) for one in self._entries]

    def abandon(self, error: BaseException) -> None:
        """All that is here fails with this."""
        entries, self._entries = self._entries, deque()
        for entry in entries:
            _fail(entry, error)

    def drop(self, source: Source) -> None:
        """Whatever is here of this source is not wanted any more."""
        entries, self._entries = self._entries, deque()
        for entry in entries:
            if source is (entry.source if isinstance(entry, Remainder) else entry):
                _fail(entry, DROPPED)
            else:
                self._entries.append(entry)

    def withdraw(self, source: Source, token: Any) -> None:
        """The same of one call."""
        for entry in self._entries:
            if (entry.source if isinstance(entry, Remainder) else entry) is source and entry.withdraw(token):
                source.fail([token], DROPPED)
                return


def _fail(entry: Source | Remainder, error: BaseException) -> None:
    if isinstance(entry, Remainder):
        if entry.tokens:  # else all were taken, and nobody has looked since
            entry.source.fail(entry.tokens, error)
    else:
        entry.abandon(error)
