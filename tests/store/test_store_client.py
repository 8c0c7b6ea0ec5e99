"""One process's places: found, written, sealed, freed, used again; nothing lost and nothing given out twice."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniray._store.arena import PAGE_BYTES, Arena
from miniray._store.client import StoreClient, as_bytes, copy_into
from miniray._store.layout import LedgerError, clear_ledger, ledger_bytes, read_ledger
from miniray.core.ids import ObjectId, process_id, return_id, task_id
from miniray.core.task_spec import Place

ME, OTHER = process_id(b"sess", 3), process_id(b"sess", 4)
MIB = 1 << 20


def object_of(number: int, owner: bytes = ME) -> ObjectId:
    return return_id(task_id(process_id(owner[:4], int.from_bytes(owner[4:], "big")), number))


def granted(client: StoreClient, offset: int, size: int) -> None:
    """What the node does, then what the client does."""
    assert client.arena.reserve(offset, size)
    clear_ledger(client.arena.view, offset, size, ME)
    client.add_extent(offset, size)


def client_with(*extents: int) -> StoreClient:
    client = StoreClient(Arena.create(65_536 + sum(extents) + MIB), ME)
    offset = client.arena.first_offset
    for size in extents:
        granted(client, offset, size)
        offset += size
    return client


def create(client: StoreClient, number: int, size: int) -> Place:
    place = client.create(object_of(number), size)
    assert place is not None
    client.check()
    return place


def test_an_object_is_written_sealed_read_and_freed() -> None:
    client = client_with(MIB)
    place = create(client, 1, 5000)
    assert place.offset % PAGE_BYTES == 0 and place.holder == ME
    client.view(place)[:5] = b"hello"
    client.write(place, [(8, b"world"), (4000, np.arange(5, dtype=np.int32))])
    assert client.seal(object_of(1), place)
    view = client.view(place)
    assert view.readonly and len(view) == 5000 and bytes(view[:13]) == b"hello\0\0\0world"
    assert np.array_equal(np.frombuffer(view, np.int32, 5, 4000), np.arange(5))
    assert read_ledger(client.arena.view, client.arena.first_offset) == [(object_of(1), place)]
    assert client.live_bytes == 5000 and client.statistics()["live_places"] == 1
    assert client.free(object_of(1), place)
    assert client.live_bytes == 0 and read_ledger(client.arena.view, client.arena.first_offset) == []
    client.check()


def test_what_lies_elsewhere_is_read_only() -> None:
    client = client_with(MIB)
    assert client.view(Place(OTHER, 65_536, 100)).readonly


def test_no_room_is_an_answer_and_the_extent_to_ask_for_suffices() -> None:
    client = client_with(MIB)
    assert client.create(object_of(1), MIB) is None
    size = client.extent_size_for(MIB)
    other = StoreClient(Arena.create(65_536 + size), ME)
    granted(other, 65_536, size)
    assert other.create(object_of(1), MIB) is not None
    assert other.statistics()["free_bytes"] == 0
    other.check()


def test_a_full_ledger_counts_as_a_full_extent() -> None:
    client = client_with(MIB, MIB)
    places = [create(client, number, 10) for number in range(126)]
    assert client.create(object_of(200), 10) is None
    assert client.statistics()["free_bytes"] > MIB
    assert client.seal(object_of(7), places[7]) and client.free(object_of(7), places[7])
    assert create(client, 201, 20_000).size_bytes == 20_000


def test_a_free_that_does_not_match_is_ignored() -> None:
    client = client_with(MIB)
    place = create(client, 1, 5000)
    client.seal(object_of(1), place)
    wrong = [
        (object_of(2), place),
        (object_of(1), Place(OTHER, place.offset, 5000)),
        (object_of(1), Place(ME, place.offset, 5001)),
        (object_of(1), Place(ME, place.offset + PAGE_BYTES, 5000)),
    ]
    assert not any(client.free(*it) for it in wrong)
    assert client.free(object_of(1), place) and not client.free(object_of(1), place)
    again = create(client, 2, 5000)
    client.seal(object_of(2), again)
    assert again == place and not client.free(object_of(1), place), "a repeated free must not hit a reused place"
    assert client.live_bytes == 5000


def test_a_free_during_the_copy_waits_for_the_seal() -> None:
    client = client_with(MIB)
    place = create(client, 1, 5000)
    assert client.free(object_of(1), place) and not client.free(object_of(1), place)
    other = create(client, 2, 5000)
    assert other.offset != place.offset, "someone still writes there"
    client.write(place, [(0, bytes(5000))])
    assert not client.seal(object_of(1), place)
    assert create(client, 3, 5000).offset == place.offset


def test_an_abandoned_place_is_free_at_once() -> None:
    client = client_with(MIB)
    place = create(client, 1, 5000)
    client.abandon(object_of(1), place)
    assert client.statistics()["live_places"] == 0 == client.live_bytes
    client.check()


@pytest.mark.parametrize("size", [1, PAGE_BYTES, 300_000])
def test_freed_and_created_again_is_the_same_warm_place(size: int) -> None:
    client = client_with(4 * MIB)
    places = [create(client, number, size) for number in range(6)]
    for number, place in enumerate(places):
        client.seal(object_of(number), place)
    for number in (0, 1, 3):  # 0 and 1 are one free range now, and 3 was the last
        client.free(object_of(number), places[number])
    assert create(client, 10, size) == places[3]
    client.seal(object_of(10), places[3])
    client.free(object_of(10), places[3])
    client.free(object_of(4), places[4])
    client.free(object_of(5), places[5])
    assert create(client, 11, size) == places[5]


def test_of_several_ranges_the_warm_one_is_taken() -> None:
    client = client_with(MIB, 2 * MIB)
    place = create(client, 1, 1_200_000)  # only the second extent has room
    client.write(place, [(0, bytes(1_200_000))])
    client.seal(object_of(1), place)
    client.free(object_of(1), place)
    assert create(client, 2, 500_000).offset == place.offset, "the first extent is tighter but untouched"


def test_extents_are_given_back_when_wholly_free() -> None:
    client = client_with(MIB, MIB, MIB)
    first = client.arena.first_offset
    places = [create(client, number, 900_000) for number in range(3)]
    for number, place in enumerate(places):
        client.seal(object_of(number), place)
    assert client.give_back() == []
    client.free(object_of(0), places[0])
    client.free(object_of(2), places[2])
    assert client.give_back() == [first, first + 2 * MIB]
    client.check()
    assert client.create(object_of(9), 900_000) is None
    granted(client, first, MIB)
    assert create(client, 9, 900_000).offset == places[0].offset


def test_an_extent_that_was_not_prepared_is_refused() -> None:
    client = client_with(MIB)
    with pytest.raises(LedgerError):
        client.add_extent(client.arena.first_offset + 4096, MIB)
    clear_ledger(client.arena.view, client.arena.first_offset + MIB, MIB, OTHER)
    with pytest.raises(AssertionError):
        client.add_extent(client.arena.first_offset + MIB, MIB)


def test_places_of_an_owner() -> None:
    client = client_with(MIB)
    mine = create(client, 1, 10)
    theirs = client.create(object_of(1, OTHER), 10)
    assert client.places_owned_by(OTHER) == [(object_of(1, OTHER), theirs)]
    assert client.places_owned_by(ME) == [(object_of(1), mine)]


def test_a_write_beyond_the_place_is_refused() -> None:
    client = client_with(MIB)
    place = create(client, 1, 10)
    for offset, data in ((1, bytes(10)), (-1, b"x")):
        with pytest.raises(ValueError, match="leave a place"):
            client.write(place, [(offset, data)])
    client.seal(object_of(1), place)
    with pytest.raises(AssertionError):
        client.write(place, [(0, b"x")])


def test_every_way_of_writing_writes_the_same() -> None:
    """Cold, written, mapped: one place used four times; parts that begin and end within pages and chunks."""
    client = client_with(16 * MIB)
    before = None
    for life in range(4):
        data = np.random.default_rng(life).integers(0, 255, 9_500_001, dtype=np.uint8)
        place = create(client, life, 9_600_000)
        assert before in (None, place)
        client.write(place, [(3, data[:5000]), (5003, data[5000:])])
        assert client.seal(object_of(life), place)
        assert np.array_equal(np.frombuffer(client.view(place), np.uint8)[3 : 3 + len(data)], data)
        client.free(object_of(life), place)
        before = place


@pytest.mark.parametrize(
    "source",
    [b"abc", bytearray(b"abc"), np.arange(6.0).reshape(2, 3), np.zeros((3, 0)), memoryview(b"x").cast("c"), b""],
)
def test_any_contiguous_buffer_is_copied(source: object) -> None:
    flat = as_bytes(source)
    target = bytearray(len(flat) + 1)
    copy_into(memoryview(target), source)
    assert target[:-1] == bytes(flat) == bytes(memoryview(source).tobytes()) and target[-1] == 0  # type: ignore[call-overload]


def test_a_target_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError):
        copy_into(memoryview(bytearray(2)), b"abc")


def test_copies_outside_the_lock_beside_creates_and_frees() -> None:
    """The runtime's shape: create and seal under its lock, the copy outside; others free meanwhile."""
    client = client_with(32 * MIB)
    lock, failures = threading.Lock(), []

    def work(thread: int) -> None:
        data = np.full(700_000, thread, np.uint8)
        for number in range(60):
            object_id = object_of(thread * 1000 + number)
            with lock:
                place = client.create(object_id, len(data) + number * 5000)
            if place is None:
                failures.append("full")
                return
            client.write(place, [(0, data)])
            with lock:
                client.seal(object_id, place)
            if not np.array_equal(np.frombuffer(client.view(place), np.uint8, len(data)), data):
                failures.append(f"{place} was overwritten")
            with lock:
                client.free(object_id, place)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.check()
    assert failures == [] and client.live_bytes == 0 and client.statistics()["free_ranges"] == 1


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6)), max_size=80)


@given(STEPS)
@settings(derandomize=True, deadline=None, max_examples=120)
def test_no_overlap_and_everything_returns(steps: list[tuple[int, int]]) -> None:
    client = client_with(MIB, 2 * MIB)
    living: dict[ObjectId, tuple[Place, bool]] = {}
    for counter, (action, number) in enumerate(steps):
        if action <= 1:
            object_id = object_of(counter)
            place = client.create(object_id, number)
            if place is not None:
                for other, _ in living.values():
                    assert place.offset >= other.offset + other.size_bytes or (
                        other.offset >= place.offset + max(place.size_bytes, 1)
                    )
                living[object_id] = (place, action == 1)
                if action == 1:
                    client.seal(object_id, place)
        elif living:
            object_id = list(living)[number % len(living)]
            place, sealed = living.pop(object_id)
            if not sealed:
                client.seal(object_id, place)
            assert client.free(object_id, place)
        client.check()
    ledger = dict(item for at in client._extents for item in read_ledger(client.arena.view, at))
    assert ledger == {object_id: place for object_id, (place, sealed) in living.items() if sealed}
    for object_id, (place, sealed) in living.items():
        client.free(object_id, place) if sealed else client.abandon(object_id, place)
    first = client.arena.first_offset
    assert client.live_bytes == 0
    assert client._free.ranges() == [
        (first + ledger_bytes(MIB), MIB - ledger_bytes(MIB)),
        (first + MIB + ledger_bytes(2 * MIB), 2 * MIB - ledger_bytes(2 * MIB)),
    ]
    assert client.give_back() == [first, first + MIB] and len(client._free) == 0


def test_ten_thousand_places_stay_cheap() -> None:
    client = StoreClient(Arena.create(700 * MIB), ME)
    size = 640 * MIB
    clear_ledger(client.arena.view, 65_536, size, ME)  # nothing is touched but the ledger: no need to reserve
    client.add_extent(65_536, size)
    places = [(object_of(number), client.create(object_of(number), 60_000)) for number in range(10_000)]
    for object_id, place in places:
        assert place is not None and client.seal(object_id, place)
    for object_id, place in places[::2]:
        assert place is not None and client.free(object_id, place)
    begin = time.thread_time()  # on a loaded machine others run meanwhile
    for number in range(2000):
        place = client.create(object_of(number), 50_000 + number)
        assert place is not None and client.seal(object_of(number), place) and client.free(object_of(number), place)
    assert (time.thread_time() - begin) / 2000 < 200e-6  # 10 us measured
