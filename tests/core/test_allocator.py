"""The node's table of the arena: no byte in two ranges, none lost, none reused while something lives in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniray.core.ids import ObjectId, ProcessId, process_id, return_id, task_id
from miniray.core.machine import InvariantError
from miniray.core.node.allocator import (
    FIRST_GRANT_BYTES,
    LARGE_UNIT_BYTES,
    LARGEST_GRANT_BYTES,
    UNIT_BYTES,
    Allocator,
)
from miniray.core.task_spec import Place

GIB, MIB = 1 << 30, 1 << 20
A, B, C = (process_id(b"sess", number) for number in (1, 2, 3))


def object_of(owner: ProcessId, counter: int) -> ObjectId:
    return return_id(task_id(owner, counter))


def orphan_with(allocator: Allocator, holder: ProcessId, owners: list[ProcessId]) -> list[tuple[ObjectId, Place]]:
    """One orphaned extent of `holder` in which one object of each owner lives."""
    granted = allocator.grant(holder, MIB)
    assert granted is not None
    offset, _ = granted
    assert allocator.orphan(holder) == [granted]
    places = [
        (object_of(owner, index), Place(holder, offset + index * 8192, 5000)) for index, owner in enumerate(owners, 1)
    ]
    for object_id, place in places:
        assert allocator.keep(offset, object_id, place)
    assert allocator.settle(offset) is None
    allocator.check()
    return places


def test_grants_start_small_and_double_up_to_a_limit() -> None:
    allocator = Allocator(4 * GIB, UNIT_BYTES)
    sizes = [granted[1] for _ in range(7) if (granted := allocator.grant(A, 1))]
    assert sizes == [8 * MIB, 8 * MIB, 16 * MIB, 32 * MIB, 64 * MIB, 64 * MIB, 64 * MIB]
    assert (sizes[0], sizes[-1]) == (FIRST_GRANT_BYTES, LARGEST_GRANT_BYTES)
    assert allocator.grant(B, 1) == (UNIT_BYTES + sum(sizes), FIRST_GRANT_BYTES), "another holder begins small"


def test_a_large_object_gets_what_it_needs_and_no_more_than_one_unit_above() -> None:
    allocator = Allocator(4 * GIB, UNIT_BYTES)
    granted = allocator.grant(A, 100_000_000)
    assert granted is not None and 100_000_000 <= granted[1] < 100_000_000 + LARGE_UNIT_BYTES
    assert granted[1] % LARGE_UNIT_BYTES == 0


def test_a_small_arena_serves_many_processes_and_one_large_object() -> None:
    """`object_store_memory=20 MB`, a worker on each of eight cores."""
    allocator = Allocator(20_000_000, UNIT_BYTES)
    for number in range(8):
        assert allocator.grant(process_id(b"sess", number), 200_000) is not None
    assert allocator.grant(A, 8_000_000) is not None
    allocator.check()


def test_the_last_gap_is_granted_when_it_is_large_enough() -> None:
    allocator = Allocator(64 * MIB + UNIT_BYTES, UNIT_BYTES)
    assert allocator.grant(A, 62 * MIB) is not None
    granted = allocator.grant(B, MIB)
    assert granted is not None and granted[1] == 2 * MIB, "4 MiB would be usual: what is left is as good"
    assert allocator.grant(B, 1) is None and allocator.free_bytes == 0 == allocator.largest_free_bytes


def test_the_tightest_gap_is_taken() -> None:
    allocator = Allocator(64 * MIB + UNIT_BYTES, UNIT_BYTES)
    extents = [granted for size in (20, 4, 8, 4, 20) if (granted := allocator.grant(A, size * MIB))]
    assert len(extents) == 5
    allocator.give_back(A, extents[0][0])
    allocator.give_back(A, extents[2][0])
    assert allocator.grant(A, 7 * MIB + 1) == extents[2][:1] + (7 * MIB + UNIT_BYTES,)
    allocator.check()


def test_only_its_living_holder_gives_an_extent_back_and_once() -> None:
    allocator = Allocator(GIB, UNIT_BYTES)
    granted = allocator.grant(A, 1)
    assert granted is not None
    assert allocator.give_back(B, granted[0]) is None
    assert allocator.give_back(A, granted[0] + UNIT_BYTES) is None
    assert allocator.give_back(A, granted[0]) == granted
    assert allocator.give_back(A, granted[0]) is None
    again = allocator.grant(A, 1)
    assert again == granted and allocator.orphan(A) == [granted]
    assert allocator.give_back(A, granted[0]) is None, "a late return of the dead"
    assert allocator.settle(granted[0]) == granted and allocator.free_bytes == allocator.capacity_bytes


def test_an_orphan_stays_until_its_last_place_is_freed() -> None:
    allocator = Allocator(GIB, UNIT_BYTES)
    (one, one_at), (two, two_at) = orphan_with(allocator, A, [B, C])
    extent = allocator.extents_of(A)[0]
    assert allocator.orphan(A) == [], "told twice of one death"
    assert allocator.free_place(one, one_at) is None
    assert allocator.free_place(one, one_at) is None, "a repeated free"
    assert allocator.statistics()["kept_places"] == 1
    assert allocator.free_place(two, two_at) == extent
    assert allocator.statistics() == dict.fromkeys(allocator.statistics(), 0) | {"free_bytes": allocator.capacity_bytes}
    allocator.check()


def test_a_free_that_does_not_match_is_ignored() -> None:
    allocator = Allocator(GIB, UNIT_BYTES)
    ((one, at),) = orphan_with(allocator, A, [B])
    assert allocator.free_place(object_of(B, 9), at) is None
    assert allocator.free_place(one, Place(B, at.offset, at.size_bytes)) is None
    assert allocator.free_place(one, Place(A, at.offset, at.size_bytes - 1)) is None
    assert allocator.free_place(one, Place(A, at.offset + 4096, at.size_bytes)) is None
    assert allocator.free_place(one, at) is not None


def test_burying_an_owner_frees_its_places_only() -> None:
    allocator = Allocator(GIB, UNIT_BYTES)
    places = orphan_with(allocator, A, [B, C, B])
    extent = allocator.extents_of(A)[0]
    assert allocator.bury_owner(B) == []
    assert allocator.free_place(*places[0]) is None, "B's are gone, and C's keeps the extent"
    assert allocator.bury_owner(C) == [extent]
    assert allocator.bury_owner(C) == []


def test_news_that_comes_while_the_ledger_is_read_is_not_forgotten() -> None:
    allocator = Allocator(GIB, UNIT_BYTES)
    granted = allocator.grant(A, MIB)
    assert granted is not None
    offset, _ = granted
    allocator.orphan(A)
    freed, buried, lives = object_of(B, 1), object_of(C, 1), object_of(B, 2)
    at = [Place(A, offset + index * 4096, 4096) for index in (1, 2, 3)]
    assert allocator.free_place(freed, at[0]) is None
    assert allocator.bury_owner(C) == []
    assert [allocator.keep(offset, *it) for it in ((freed, at[0]), (buried, at[1]), (lives, at[2]))] == [
        False,
        False,
        True,
    ]
    assert allocator.settle(offset) is None
    assert not allocator.keep(offset, freed, at[0]), "a ledger is read once"
    assert allocator.free_place(lives, at[2]) == granted


def test_an_extent_is_not_free_before_all_of_its_ledger_is_kept() -> None:
    allocator = Allocator(GIB, UNIT_BYTES)
    granted = allocator.grant(A, MIB)
    assert granted is not None
    offset, _ = granted
    allocator.orphan(A)
    first, second = Place(A, offset + 4096, 10), Place(A, offset + 8192, 10)
    assert allocator.keep(offset, object_of(B, 1), first)
    assert allocator.free_place(object_of(B, 1), first) is None, "more may follow"
    assert allocator.keep(offset, object_of(C, 1), second)
    assert allocator.bury_owner(C) == []
    assert allocator.settle(offset) == granted


def test_check_finds_a_wrong_table() -> None:
    allocator = Allocator(GIB, UNIT_BYTES)
    allocator.grant(A, MIB)
    allocator._free[0] = (allocator._free[0][0] + UNIT_BYTES, allocator._free[0][1])
    with pytest.raises(InvariantError, match="begins at"):
        allocator.check()


STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 10**9)), max_size=60)


@given(steps=STEPS, capacity=st.sampled_from([20_000_000, 64 * MIB, GIB]))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_no_overlap_and_everything_returns_to_one_range(steps: list[tuple[int, int, int]], capacity: int) -> None:
    allocator = Allocator(capacity, 65_536)
    living: dict[ProcessId, dict[int, int]] = {}
    kept: dict[Place, ObjectId] = {}
    counter = 0
    for action, who, number in steps:
        counter += 1
        holder = process_id(b"sess", who)
        if action <= 2:
            granted = allocator.grant(holder, number % (capacity // 4))
            if granted:
                assert granted[1] >= number % (capacity // 4)
                living.setdefault(holder, {})[granted[0]] = granted[1]
        elif action == 3 and living.get(holder):
            offset = sorted(living[holder])[number % len(living[holder])]
            assert allocator.give_back(holder, offset) == (offset, living[holder].pop(offset))
        elif action == 4:
            for offset, size in allocator.orphan(holder):
                assert living[holder].pop(offset) == size
                for index in range(number % 4):
                    place, object_id = Place(holder, offset + index * 4096, 4096), object_of(C, counter * 4 + index)
                    assert allocator.keep(offset, object_id, place)
                    kept[place] = object_id
                allocator.settle(offset)
        elif action == 5 and kept:
            place = list(kept)[number % len(kept)]
            allocator.free_place(kept.pop(place), place)
        allocator.check()
        assert allocator.statistics()["kept_places"] == len(kept)
    for holder, extents in living.items():
        for offset in extents:
            assert allocator.give_back(holder, offset) is not None
    allocator.bury_owner(C)
    allocator.check()
    assert allocator.free_bytes == allocator.largest_free_bytes == allocator.capacity_bytes
