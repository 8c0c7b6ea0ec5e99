"""How a map is cut into groups: at the ends of long chunks, and so that none carries too much. Nothing runs here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from miniray.executor.sources import MapCalls
from miniray.pool.call_queue import CallQueue
from miniray.pool.groups import LONG_TASK_CALLS, MAX_ARGUMENT_BYTES, MAX_GROUP_ITEMS, Callee, Group
from miniray.pool.results import MapResult
from miniray.pool_worker.parcels import MAP

CALLS, CHUNK = 50_000, 6_250
MEMBER: Any = SimpleNamespace(quota=None)


def groups_of(items: Sequence[Any], chunk: int, queue: CallQueue, most: int = MAX_GROUP_ITEMS) -> Iterator[Group]:
    """Of a map whose calls are known to be short."""
    callee = Callee(len)
    callee.measured(10_000, 0.001)
    callee.most = most
    queue.append(MapResult(items, callee, MAP, chunk, None, None, None, None))
    while (group := queue.next_group(MEMBER)) is not None:
        yield group


@pytest.mark.parametrize("kind", [list, range])
def test_long_chunks_are_groups_and_only_the_last_is_divided(kind: Any) -> None:
    items = range(CALLS) if kind is range else [{"x": x} for x in range(CALLS)]
    cut = [(group.tokens[0], len(group.items)) for group in groups_of(items, CHUNK, CallQueue(2))]
    assert cut[:7] == [(first, CHUNK) for first in range(0, CALLS - CHUNK, CHUNK)]
    assert sum(size for _, size in cut) == CALLS and len(cut) <= 10


@pytest.mark.parametrize("most", [1, 1000, 4000, CHUNK + 10])
def test_groups_that_are_shorter_end_with_chunks_too(most: int) -> None:
    ends = [0]
    for group in groups_of(range(CALLS), CHUNK, CallQueue(2), most):
        assert group.tokens[0] == ends[-1] and group.tokens[0] // CHUNK == group.tokens[-1] // CHUNK
        ends.append(group.tokens[-1] + 1)
    assert ends[-1] == CALLS and len(ends) <= CALLS // CHUNK * -(-CHUNK // most) + 4


def test_what_is_left_of_a_chunk_is_no_smaller_a_group_because_it_came_back() -> None:
    queue = CallQueue(2)
    groups = groups_of([{}] * CALLS, CHUNK, queue)
    queue.put_back(next(groups), 1000)
    assert [len(next(groups).items) for _ in range(3)] == [CHUNK - 1000, CHUNK, CHUNK]


def test_what_was_taken_whole_is_in_the_queue_no_more() -> None:
    """Or each lone call has the queue looked through twice, and whoever asks is told that there is something to do."""
    queue = CallQueue(1)
    assert len(next(groups_of([{}] * 3, 1, queue)).items) == 3
    assert not queue


def test_all_calls_of_a_map_are_given_up_at_once() -> None:
    ended: list[int] = []
    dispatcher: Any = SimpleNamespace(joined=lambda calls: None, enqueue=lambda source: None, ended=ended.append)
    calls = MapCalls(dispatcher, Callee(len), MAP, CHUNK, None, None)
    calls.extend([{}] * CALLS)
    assert calls.take(10)
    calls.abandon(LookupError())
    assert sum(ended) == CALLS - 10 and calls.take(10) is None


class Weighed:
    looks = 0

    @property
    def nbytes(self) -> int:
        Weighed.looks += 1
        return 1


def test_few_of_many_items_are_weighed() -> None:
    Weighed.looks = 0
    items = [Weighed() for _ in range(CALLS)]
    assert sum(len(group.items) for group in groups_of(items, CHUNK, CallQueue(2))) == CALLS
    assert 0 < Weighed.looks < CALLS / 10


@pytest.mark.parametrize("every", [1, 2, 3, 8, 10, 100])
@pytest.mark.parametrize("chunk", [1, LONG_TASK_CALLS, CHUNK])
@pytest.mark.parametrize("heavy", [bytes(10_000), [b"x" * 5_000] * 2, "x" * 10_000], ids=lambda one: type(one).__name__)
def test_no_group_carries_much_more_than_it_may(heavy: Any, chunk: int, every: int) -> None:
    items = [x if x % every else heavy for x in range(CALLS)]
    for group in groups_of(items, chunk, CallQueue(2)):
        assert 10_000 * sum(item is heavy for item in group.items) <= (1 if every == 1 else 4) * MAX_ARGUMENT_BYTES
