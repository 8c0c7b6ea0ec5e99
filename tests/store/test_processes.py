"""The arena between real processes: inherited, killed, full, and opened by a program that knows nothing of us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from miniray._store.arena import Arena
from miniray._store.client import StoreClient
from miniray._store.layout import clear_ledger, read_ledger
from miniray.core.ids import ObjectId, process_id, return_id, task_id
from miniray.core.task_spec import Place

MIB = 1 << 20
ME = process_id(b"sess", 3)
LONGER_SECONDS = (0.02, 0.1, 0.5, 2.0)  # for a busy machine, where others run meanwhile

PROLOGUE = """
import os, signal, sys
from miniray._store.arena import Arena
from miniray._store.client import StoreClient
from miniray.core.ids import process_id, return_id, task_id
arena = Arena.attach(int(sys.argv[1]), int(sys.argv[2]))
me = process_id(b"sess", 3)
"""


def object_of(number: int) -> ObjectId:
    return return_id(task_id(process_id(b"sess", 1), number))


def run(program: str, arena: Arena, prologue: str = PROLOGUE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", prologue + program, str(arena.fd), str(arena.capacity_bytes)],
        pass_fds=(arena.fd,), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def extent(arena: Arena, size: int) -> int:
    offset = arena.first_offset
    assert arena.reserve(offset, size)
    clear_ledger(arena.view, offset, size, ME)
    return offset


def test_two_processes_see_one_memory() -> None:
    arena = Arena.create(8 * MIB)
    arena.view[100_000:100_005] = b"hello"
    done = run(
        """
assert bytes(arena.view[100_000:100_005]) == b"hello"
assert not os.get_inheritable(arena.fd)
arena.view[200_000:200_005] = b"world"
arena.status_word(3).write(77, 5)
""",
        arena,
    )
    assert done.returncode == 0, done.stderr
    assert bytes(arena.view[200_000:200_005]) == b"world" and arena.read_status(3) == (77, 5)


def test_the_ledger_is_readable_after_its_holder_was_killed() -> None:
    arena = Arena.create(8 * MIB)
    offset = extent(arena, 4 * MIB)
    done = run(
        f"""
client = StoreClient(arena, me)
client.add_extent({offset}, {4 * MIB})
for number in range(4):
    object_id = return_id(task_id(process_id(b"sess", 1), number))
    place = client.create(object_id, 100_000 + number)
    client.write(place, [(0, bytes([number]) * place.size_bytes)])
    if number != 2:
        client.seal(object_id, place)
    if number == 0:
        client.free(object_id, place)
arena.status_word(3).write(9, 4)
os.kill(os.getpid(), signal.SIGKILL)
""",
        arena,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = read_ledger(arena.view, offset)
    assert {object_id: place.size_bytes for object_id, place in found} == {object_of(1): 100_001, object_of(3): 100_003}
    reader = StoreClient(arena, process_id(b"sess", 0))
    for object_id, place in found:
        assert place.holder == ME
        assert bytes(reader.view(place)) == object_id[13:14] * place.size_bytes
    assert arena.read_status(3) == (9, 4)


def test_a_kill_at_any_moment_leaves_a_ledger_that_tells_the_truth() -> None:
    """A holder makes and frees as fast as it can; each sealed place must hold what its name says."""
    arena = Arena.create(8 * MIB)
    offset = extent(arena, 4 * MIB)
    most = 0
    for delay in (0.0005, 0.002, 0.003, 0.005, 0.0071, *LONGER_SECONDS):
        if delay in LONGER_SECONDS and most > 10:
            break
        clear_ledger(arena.view, offset, 4 * MIB, ME)
        done = run(
            f"""
client = StoreClient(arena, me)
client.add_extent({offset}, {4 * MIB})
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_REAL, {delay})  # its default action ends the process between two instructions
kept, number = [], 0
while True:
    number += 1
    object_id = return_id(task_id(process_id(b"sess", 1), number))
    place = client.create(object_id, 4096 + number % 9 * 3000)
    client.write(place, [(0, object_id)])
    client.seal(object_id, place)
    kept.append((object_id, place))
    if len(kept) > 20:
        client.free(*kept.pop(number % 20))
""",
            arena,
        )
        assert done.returncode == -signal.SIGALRM, done.stderr
        taken: list[tuple[int, int]] = []
        for object_id, place in read_ledger(arena.view, offset):
            assert bytes(arena.view[place.offset : place.offset + 18]) == object_id
            taken.append((place.offset, place.offset + place.size_bytes))
        taken.sort()
        assert len(taken) <= 22
        most = max(most, len(taken))
        assert all(end <= start for (_, end), (start, _) in zip(taken, taken[1:], strict=False)), "two at one place"
    assert most > 10, "the kills came too early to show anything"


def test_a_private_view_in_another_process_changes_nothing_here() -> None:
    arena = Arena.create(8 * MIB)
    arena.view[65_536:65_541] = b"hello"
    done = run(
        """
view = arena.private_view(65_536, 5)
view[:5] = b"other"
assert bytes(view) == b"other" and bytes(arena.view[65_536:65_541]) == b"hello"
""",
        arena,
    )
    assert done.returncode == 0, done.stderr
    assert bytes(arena.view[65_536:65_541]) == b"hello"


def test_filled_to_the_last_byte_without_a_bus_error() -> None:
    """Every page that a client can get is reserved; beyond it there is an answer, not a signal."""
    arena = Arena.create(8 * MIB)
    size = arena.capacity_bytes - arena.first_offset
    offset = extent(arena, size)
    done = run(
        f"""
client = StoreClient(arena, me)
client.add_extent({offset}, {size})
number = 0
for size in (1_000_000, 100_000, 1):
    while True:
        number += 1
        object_id = return_id(task_id(me, number))
        place = client.create(object_id, size)
        if place is None:
            break
        client.write(place, [(0, bytes([7]) * size)])
        client.view(place)[:] = bytes([8]) * size
        client.seal(object_id, place)
client.check()
arena.view[-1] = 1
assert client.statistics()["free_bytes"] == 0, client.statistics()
try:
    os.ftruncate(arena.fd, 0)
except PermissionError:
    print("sealed")
""",
        arena,
    )
    assert (done.returncode, done.stdout) == (0, "sealed\n"), done.stderr


def test_a_cgroup_at_its_limit_is_an_answer_not_a_kill() -> None:
    """A real memory cgroup of 128 MB: `reserve` stops before the kernel does."""
    group = Path("/sys/fs/cgroup/memory") / f"miniray-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(128 * MIB))
    except OSError as error:
        pytest.skip(f"no memory cgroup (v1) can be made here: {error}")
    program = f"""
import os
open("{group}/cgroup.procs", "w").write(str(os.getpid()))
from miniray._store.arena import Arena, default_capacity_bytes
assert default_capacity_bytes() < {40 * MIB}
arena = Arena.create({1024 * MIB})
offset, granted = arena.first_offset, 0
while arena.reserve(offset, {8 * MIB}):
    arena.view[offset : offset + {8 * MIB}] = bytes({8 * MIB})
    offset, granted = offset + {8 * MIB}, granted + 1
print(granted)
"""
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    finally:
        group.rmdir()
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert 4 <= int(done.stdout) < 16


def test_a_program_with_nothing_but_pyarrow_reads_it() -> None:
    arena = Arena.create(8 * MIB)
    arena.view[100_000:100_005] = b"hello"
    program = """
import sys
import pyarrow as pa
with pa.memory_map(sys.argv[1], "r") as source:
    source.seek(100_000)
    print(source.read(5).decode(), source.size())
assert not [name for name in sys.modules if name.startswith("miniray")]
"""
    path = f"/proc/{os.getpid()}/fd/{arena.fd}"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"hello {8 * MIB}\n"), done.stderr


def test_a_kill_leaves_no_file() -> None:
    before = sorted(os.listdir("/dev/shm"))
    program = f"""
import os, signal
from miniray._store.arena import Arena
arena = Arena.create({64 * MIB})
assert arena.reserve(arena.first_offset, {32 * MIB})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == -signal.SIGKILL
    left = [name for name in os.listdir("/dev/shm") if name not in before]
    assert not [name for name in left if "miniray" in name]


def test_a_forked_child_sees_the_map_and_closes_only_its_own_descriptor() -> None:
    arena = Arena.create(8 * MIB)
    arena.view[65_536] = 5
    pid = os.fork()
    if not pid:
        status = 1
        try:
            arena.close_descriptor()
            arena.view[65_537] = arena.view[65_536] + 1
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert arena.view[65_537] == 6 and os.fstat(arena.fd).st_size == 8 * MIB


def test_importing_the_store_loads_neither_pyarrow_nor_numpy() -> None:
    program = (
        "import sys, miniray._store.client\n"
        "print([name for name in ('numpy', 'pyarrow', 'ctypes', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_bytes_survive_a_round_trip_through_two_clients() -> None:
    arena = Arena.create(8 * MIB)
    offset = extent(arena, 4 * MIB)
    writer = StoreClient(arena, ME)
    writer.add_extent(offset, 4 * MIB)
    data = np.arange(100_000)
    place = writer.create(object_of(1), data.nbytes)
    assert place is not None
    writer.write(place, [(0, data)])
    writer.seal(object_of(1), place)
    other = Arena.attach(os.dup(arena.fd), arena.capacity_bytes)
    reader = StoreClient(other, process_id(b"sess", 9))
    array = np.frombuffer(reader.view(Place(ME, place.offset, place.size_bytes)), data.dtype)
    assert np.array_equal(array, data) and not array.flags.writeable
