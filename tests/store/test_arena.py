"""The arena alone, in one process: status words, reserving, private views, how big it may be."""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from miniray._store import arena as module
from miniray._store.arena import PAGE_BYTES, Arena, available_bytes, default_capacity_bytes

MIB = 1 << 20


def allocated_bytes(arena: Arena) -> int:
    return os.fstat(arena.fd).st_blocks * 512


@pytest.fixture
def arena() -> Arena:
    return Arena.create(8 * MIB)


def test_only_the_status_words_take_memory_at_first(arena: Arena) -> None:
    assert arena.capacity_bytes == len(arena.view) == 8 * MIB
    assert allocated_bytes(arena) == arena.first_offset == 65_536


def test_its_length_is_sealed_so_that_no_page_can_vanish(arena: Arena) -> None:
    for length in (0, 4 * MIB, 16 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, length)


def test_no_name_in_the_file_system_and_not_inheritable(arena: Arena) -> None:
    assert "memfd:miniray-arena" in os.readlink(f"/proc/self/fd/{arena.fd}")
    assert not os.get_inheritable(arena.fd)
    assert not [name for name in os.listdir("/dev/shm") if "miniray" in name]


def test_what_has_no_addresses_is_refused_and_leaves_no_descriptor() -> None:
    gc.collect()  # else what earlier tests have left closes its descriptors in the middle
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MemoryError, match="no addresses for 1,125,899,906,842,624 bytes"):
        Arena.create(1 << 50)
    assert os.listdir("/proc/self/fd") == before


def test_the_default_size_is_a_share_of_the_addresses_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100 * MIB, 200 * MIB))
    monkeypatch.setattr(module, "available_bytes", lambda root: 10_000 * MIB)
    assert default_capacity_bytes() == 30 * MIB


def test_reserve_allocates_and_punch_gives_back(arena: Arena) -> None:
    assert arena.reserve(MIB, 2 * MIB)
    assert allocated_bytes(arena) == 65_536 + 2 * MIB
    arena.view[MIB : MIB + 5] = b"hello"
    arena.punch(MIB, 2 * MIB)
    assert allocated_bytes(arena) == 65_536
    assert bytes(arena.view[MIB : MIB + 5]) == bytes(5)


@pytest.mark.parametrize(("offset", "size"), [(1, PAGE_BYTES), (0, 0), (-PAGE_BYTES, PAGE_BYTES), (4 * MIB, 8 * MIB)])
def test_a_range_outside_is_refused(arena: Arena, offset: int, size: int) -> None:
    for action in (arena.reserve, arena.punch):
        with pytest.raises(ValueError):
            action(offset, size)


def test_no_memory_is_an_answer_and_leaves_nothing(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda: 20 * MIB)
    assert not arena.reserve(MIB, MIB), "a cgroup at its limit kills: the margin stays free"
    monkeypatch.undo()
    calls = []

    def full(fd: int, offset: int, size: int) -> None:
        calls.append(offset)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        allocate(fd, offset, size)

    allocate = os.posix_fallocate
    monkeypatch.setattr(module, "_RESERVE_CHUNK_BYTES", MIB)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not arena.reserve(MIB, 4 * MIB)
    assert calls == [MIB, 2 * MIB] and allocated_bytes(arena) == 65_536


def test_signals_do_not_stop_a_reserve() -> None:
    big = Arena.create(256 * MIB)
    hits = []
    before = signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.006)
    try:
        assert big.reserve(big.first_offset, 192 * MIB)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hits and allocated_bytes(big) == big.first_offset + 192 * MIB


def test_attach_wants_a_file_of_that_length(arena: Arena) -> None:
    with pytest.raises(ValueError, match="bytes long"):
        Arena.attach(arena.fd, 4 * MIB)
    other = Arena.attach(os.dup(arena.fd), 8 * MIB)
    other.view[70_000] = 7
    assert arena.view[70_000] == 7


def test_no_room_after_the_status_words() -> None:
    with pytest.raises(ValueError, match="no room"):
        Arena.create(65_536)


def test_the_descriptor_is_closed_once() -> None:
    gc.collect()  # else what earlier tests have left frees a lower number in the middle
    arena = Arena.create(8 * MIB)
    fd = arena.fd
    arena.close_descriptor()
    taken = os.memfd_create("innocent")
    assert taken == fd, "the number is free for others"
    arena.close_descriptor()
    del arena
    gc.collect()
    os.fstat(taken)
    os.close(taken)


def test_a_view_outlives_the_arena_and_an_address_does_with_it_as_base(arena: Arena) -> None:
    arena.view[100_000:100_005] = b"hello"
    view = arena.view[100_000:100_005]
    buffer = pa.foreign_buffer(arena.address + 100_000, 5, base=arena)
    del arena
    gc.collect()
    assert bytes(view) == b"hello" == buffer.to_pybytes()


# ---- status words --------------------------------------------------------------------------------------


def test_a_status_word_is_read_and_cleared(arena: Arena) -> None:
    word, neighbour = arena.status_word(4096 + 7), arena.status_word(8)
    assert arena.read_status(7) == (0, 0)
    word.write(2**40, 3)
    neighbour.write(1, 1)
    assert arena.read_status(4096 + 7) == arena.read_status(7) == (2**40, 3)
    word.write(2**40, 4)
    assert arena.read_status(7) == (2**40, 4)
    arena.clear_status(7)
    assert arena.read_status(7) == (0, 0) and arena.read_status(8) == (1, 1)


def test_a_kill_within_a_status_write_never_mixes_two_leases(arena: Arena) -> None:
    seen: list[tuple[int, int]] = []

    class Recording:
        def __getitem__(self, at: int) -> int:
            return arena._words[at]

        def __setitem__(self, at: int, value: int) -> None:
            arena._words[at] = value
            seen.append(arena.read_status(7))

    word = module.StatusWord(Recording(), 7)  # type: ignore[arg-type]
    for lease, sequence in ((1, 1), (1, 2), (2, 1), (3, 1)):
        word.write(lease, sequence)
    told = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 1)]
    assert set(seen) <= set(told), "every state between two stores is one that is true"


def test_a_status_write_is_cheap(arena: Arena) -> None:
    write = arena.status_word(3).write

    def once() -> float:
        begin = time.thread_time()  # on a loaded machine others run meanwhile
        for sequence in range(20_000):
            write(5, sequence)
        return (time.thread_time() - begin) / 20_000

    assert min(once() for _ in range(5)) < 1e-6  # 0.07 us measured


# ---- private views -----------------------------------------------------------------------------------


def test_a_private_view_is_isolated_and_writable(arena: Arena) -> None:
    at = arena.first_offset
    arena.view[at : at + 8192] = bytes([1]) * 8192
    mine, yours = arena.private_view(at, 8000), arena.private_view(at, 8000)
    assert mine is not None and yours is not None and len(mine) == 8000
    array = np.frombuffer(mine, np.uint8)
    array[:] = 9
    assert arena.view[at] == 1 == yours[0]
    arena.view[at + 5] = 2
    assert array[5] == 9, "its own page by now"


def test_a_private_view_lives_as_long_as_an_array_of_it_and_keeps_its_pin(arena: Arena) -> None:
    freed = []

    class Pin:
        def __del__(self) -> None:
            freed.append(1)

    view = arena.private_view(arena.first_offset, 4096)
    assert view is not None
    view.pin = Pin()
    array = np.asarray(np.frombuffer(view, np.uint8))[1:]
    del view
    gc.collect()
    assert not freed and len(arena._private_views) == 1
    del array
    assert freed and not arena._private_views


def test_beyond_the_cap_there_is_no_private_view(arena: Arena) -> None:
    assert 0 < arena._private_view_limit == module.private_view_limit() <= 16_384
    arena._private_view_limit = 2
    views = [arena.private_view(arena.first_offset, 4096) for _ in range(3)]
    assert [view is None for view in views] == [False, False, True]
    views.clear()
    assert arena.private_view(arena.first_offset, 4096) is not None


def test_a_private_view_needs_a_place(arena: Arena) -> None:
    for offset, size in ((65_536, 0), (-4096, 4096), (8 * MIB - 4096, 8192)):
        with pytest.raises(ValueError):
            arena.private_view(offset, size)


# ---- how much memory there is -----------------------------------------------------------------------------


def machine(root: Path, available: int, cgroup: str, **files: str) -> str:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999 kB\nMemAvailable: {available >> 10} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_a_machine_without_limits(tmp_path: Path) -> None:
    root = machine(tmp_path, 10_000 * MIB, "0::/\n")
    assert available_bytes(root) == 10_000 * MIB
    assert default_capacity_bytes(root) == 3000 * MIB


def test_the_tightest_level_of_cgroup_v2_counts(tmp_path: Path) -> None:
    outer = {"a__memory.max": f"{500 * MIB}\n", "a__memory.current": f"{300 * MIB}\n"}
    outer["a__memory.stat"] = f"anon 5\ninactive_file {100 * MIB}\n"
    inner = {"a__b__memory.max": "max\n", "a__b__memory.current": "5\n"}
    assert available_bytes(machine(tmp_path, 10_000 * MIB, "0::/a/b\n", **outer, **inner)) == 300 * MIB


def test_cgroup_v1_in_a_container_that_cannot_see_its_own_path(tmp_path: Path) -> None:
    files = {"memory__memory.limit_in_bytes": f"{100 * MIB}\n", "memory__memory.usage_in_bytes": f"{60 * MIB}\n"}
    root = machine(tmp_path, 10_000 * MIB, "4:cpu,memory:/docker/abc\n0::/\n", **files)
    assert available_bytes(root) == 40 * MIB
    assert default_capacity_bytes(root) == 12 * MIB


def test_a_full_machine_still_gets_the_smallest_arena(tmp_path: Path) -> None:
    root = machine(tmp_path, 0, "")
    assert available_bytes(root) == 0
    assert default_capacity_bytes(root) == module.SMALLEST_CAPACITY_BYTES


def test_this_machine_has_memory() -> None:
    assert 0 < default_capacity_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
