"""The ledger, whatever instant its writer is killed at, and the free ranges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniray._store.arena import PAGE_BYTES
from miniray._store.layout import (
    FreeRanges,
    Ledger,
    LedgerError,
    clear_ledger,
    extent_bytes_for,
    ledger_bytes,
    read_header,
    read_ledger,
)
from miniray.core.ids import ObjectId, process_id, return_id, task_id
from miniray.core.task_spec import Place

ME = process_id(b"sess", 3)
SIZE = 1 << 20
ONE, TWO = (return_id(task_id(process_id(b"sess", 1), counter)) for counter in (1, 2))


@pytest.fixture
def view() -> memoryview:
    memory = memoryview(bytearray(b"\xff") * (4 * SIZE))
    clear_ledger(memory, SIZE, SIZE, ME)
    return memory


def test_an_earlier_lifes_bytes_are_no_objects(view: memoryview) -> None:
    assert read_header(view, SIZE) == (SIZE, ME)
    assert read_ledger(view, SIZE) == []


def test_only_sealed_objects_are_reported(view: memoryview) -> None:
    ledger = Ledger(view, SIZE)
    start = ledger.first_place
    one, two = ledger.add(ONE, start, 5000), ledger.add(TWO, start + 2 * PAGE_BYTES, 1)
    assert read_ledger(view, SIZE) == []
    ledger.seal(two)
    assert read_ledger(view, SIZE) == [(TWO, Place(ME, start + 2 * PAGE_BYTES, 1))]
    ledger.seal(one)
    assert [object_id for object_id, _ in read_ledger(view, SIZE)] == [ONE, TWO]
    ledger.remove(two)
    assert read_ledger(view, SIZE) == [(ONE, Place(ME, start, 5000))]


def test_a_full_ledger_and_a_row_that_is_used_again(view: memoryview) -> None:
    ledger = Ledger(view, SIZE)
    rows = [ledger.add(ONE, ledger.first_place, 1) for _ in range(63)]
    assert ledger.is_full and max(rows) + 64 == ledger.first_place and min(rows) == SIZE + 64
    ledger.remove(rows[5])
    assert not ledger.is_full and ledger.add(TWO, ledger.first_place, 1) == rows[5]


class Torn(Exception):
    pass


class KilledAfter:
    """Memory whose writer dies after so many bytes, at any byte: worse than any real kill."""

    def __init__(self, memory: memoryview, stores: int) -> None:
        self.memory, self.left = memory, stores

    def __setitem__(self, at: int, value: int) -> None:
        if not self.left:
            raise Torn
        self.left -= 1
        self.memory[at] = value


def life(view: KilledAfter, start: int, row: int) -> None:
    """What a holder does to one row, byte by byte, in the order of `Ledger`: ONE lives and dies, then TWO."""
    scratch = bytearray(4 * SIZE)
    clear_ledger(memoryview(scratch), SIZE, SIZE, ME)
    for object_id, size in ((ONE, 5000), (TWO, 900)):
        ledger = Ledger(memoryview(scratch), SIZE)
        before = bytes(scratch[row : row + 64])
        assert ledger.add(object_id, start, size) == row
        for at in range(row, row + 34):
            view[at] = scratch[at]
        view[row + 34] = scratch[row + 34]
        ledger.seal(row)
        view[row + 34] = scratch[row + 34]
        ledger.remove(row)
        view[row + 34] = scratch[row + 34]
        assert before[34] == scratch[row + 34] == 0


def test_a_torn_row_is_never_read(view: memoryview) -> None:
    start, row = SIZE + ledger_bytes(SIZE), SIZE + 64
    whole: list[list[tuple[ObjectId, Place]]] = [[], [(ONE, Place(ME, start, 5000))], [(TWO, Place(ME, start, 900))]]
    seen = []
    for stores in range(1000):
        clear_ledger(view, SIZE, SIZE, ME)
        try:
            life(KilledAfter(view, stores), start, row)
        except Torn:
            found = read_ledger(view, SIZE)
            assert found in whole, f"killed after {stores} bytes"
            seen.append(found)
        else:
            break
    assert len(seen) == 2 * 37 and all(state in seen for state in whole)


def test_memory_that_was_overwritten_is_told(view: memoryview) -> None:
    ledger = Ledger(view, SIZE)
    row = ledger.add(ONE, ledger.first_place, 5000)
    ledger.seal(row)
    view[row + 7] = 1  # the place is now beyond the extent
    with pytest.raises(LedgerError, match="outside"):
        read_ledger(view, SIZE)
    view[SIZE] = 0
    with pytest.raises(LedgerError, match="no ledger"):
        read_ledger(view, SIZE)
    with pytest.raises(LedgerError):
        Ledger(view, 0)


@given(st.integers(0, 1 << 36), st.integers(0, 1 << 30))
@settings(derandomize=True, deadline=None)
def test_an_extent_holds_the_object_that_it_was_made_for(object_bytes: int, more: int) -> None:
    extent = extent_bytes_for(object_bytes)
    assert extent % PAGE_BYTES == 0
    assert extent - ledger_bytes(extent) >= max(object_bytes, 1)
    assert extent <= object_bytes * 1.002 + 3 * PAGE_BYTES
    larger = extent + more - more % PAGE_BYTES
    assert larger - ledger_bytes(larger) >= object_bytes


# ---- free ranges ---------------------------------------------------------------------------------------


def test_neighbours_join_and_the_tightest_comes_first() -> None:
    free = FreeRanges()
    for start, size in ((0, 4), (20, 2), (30, 9), (4, 4)):
        free.add(start, size)
    assert free.ranges() == [(0, 8), (20, 2), (30, 9)] and free.free_bytes == 19 and free.largest_bytes == 9
    assert list(free.fitting(3)) == [0, 30] and list(free.fitting(2)) == [20, 0, 30] and list(free.fitting(10)) == []
    free.take(32, 3)
    assert free.ranges() == [(0, 8), (20, 2), (30, 2), (35, 4)]
    assert free.holds(35, 4) and not free.holds(31, 2) and not free.holds(20, 3) and not free.holds(50, 1)


@pytest.mark.parametrize("again", [(0, 8), (2, 2), (6, 4), (28, 4)])
def test_freeing_twice_is_refused(again: tuple[int, int]) -> None:
    free = FreeRanges()
    free.add(0, 8)
    free.add(30, 4)
    with pytest.raises(AssertionError, match="freed twice"):
        free.add(*again)
    with pytest.raises(AssertionError, match="not free"):
        free.take(8, 4)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 63), st.integers(1, 16)), max_size=120))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_free_ranges_agree_with_a_map_of_bits(steps: list[tuple[bool, int, int]]) -> None:
    free, bits = FreeRanges(), [False] * 64
    for add, start, size in steps:
        end = min(start + size, 64)
        if add and not any(bits[start:end]):
            free.add(start, end - start)
            bits[start:end] = [True] * (end - start)
        elif not add and all(bits[start:end]):
            assert free.holds(start, end - start)
            free.take(start, end - start)
            bits[start:end] = [False] * (end - start)
        mine = [False] * 64
        for at, length in free.ranges():
            mine[at : at + length] = [True] * length
            assert at == 0 or not bits[at - 1], "neighbours are joined"
        assert mine == bits and free.free_bytes == sum(bits)
        assert free.largest_bytes == max((length for _, length in free.ranges()), default=0)
