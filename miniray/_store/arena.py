"""The arena: one shared-memory file for each node, in which every stored object lies (DESIGN.md section 5).

- It is a memfd: it has no name, so no kill can leave a file behind, and a container's 64 MB /dev/shm does
  not bound it. Other programs open it as `/proc/<pid>/fd/<n>`.
- Its length is set once and sealed: nobody, inside or outside, can cut it, so a mapped page never turns into
  SIGBUS. What may be *touched* is what `reserve` has allocated; only the node reserves, extent by extent.
- Each process maps it once. Nothing here unmaps: the map goes with the last thing that refers to it. A
  memoryview keeps it alive by itself; *an address does not*: who passes `address` on (as in
  `pyarrow.foreign_buffer`) makes the `Arena` its base. So views stay valid after `shutdown`.
- First come the status words, 16 bytes for each process slot: what a worker has started last. They survive
  its SIGKILL, and are how the node tells started tasks from queued ones.

    | status words (first_offset bytes) | extent | free | extent | ...
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import sys
from collections.abc import Iterator

PAGE_BYTES = mmap.ALLOCATIONGRANULARITY  # 4096 on x86-64; private maps must begin at a multiple of it
STATUS_WORD_BYTES = 16
DEFAULT_STATUS_SLOTS = 4096  # 64 KiB; processes that live at once, and then some

SHARE_OF_MEMORY = 0.3  # of what is available at `init`; Ray's default, too
SMALLEST_CAPACITY_BYTES = 4 << 20
_RESERVE_MARGIN_BYTES = 32 << 20  # left free of any limit: a memory cgroup answers at its limit with SIGKILL
_RESERVE_CHUNK_BYTES = 16 << 20  # the kernel undoes a whole fallocate when a signal comes; 3 ms a chunk
_LARGEST_PRIVATE_VIEWS = 16_384  # a quarter of the default vm.max_map_count
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def round_up(size_bytes: int, unit_bytes: int = PAGE_BYTES) -> int:
    return -(-size_bytes // unit_bytes) * unit_bytes


class StatusWord:
    """A worker's own status word: the last lease of which it started a task, and that task's number.

    Numbers of a lease start at 1: 0 says that nothing of that lease has started.
    """

    __slots__ = ("_lease", "_words", "_at")

    def __init__(self, words: memoryview, slot: int) -> None:
        self._words = words
        self._at = 2 * slot + 1
        self._lease = words[2 * slot]

    def write(self, lease: int, sequence: int) -> None:
        """Order duty: a kill between two stores must not show the old lease's number under the new lease."""
        words = self._words
        if lease != self._lease:
            words[self._at] = 0
            words[self._at - 1] = self._lease = lease
        words[self._at] = sequence


class PrivateView(mmap.mmap):
    """A copy-on-write view of one place: what is written to it stays in it. It is itself the buffer at the
    bottom of an array; `pin` is kept for as long as any array made from it lives."""

    pin: object = None
    _register: dict[int, None] | None = None

    def __del__(self) -> None:
        if self._register is not None:
            self._register.pop(id(self), None)


class Arena:
    """This process's map of the node's shared memory.

    Attributes:
        fd: the memfd; owned by this object, -1 after `close_descriptor`.
        capacity_bytes: length of the file, a multiple of the page size.
        view: the whole map, writable, one byte an item.
        first_offset: where extents may begin; before it lie the status words.
    """

    def __init__(self, fd: int, capacity_bytes: int, status_slots: int) -> None:
        self.fd = fd
        self.capacity_bytes = round_up(capacity_bytes)
        self.status_slots = status_slots
        self.first_offset = round_up(status_slots * STATUS_WORD_BYTES)
        self.map = mmap.mmap(fd, self.capacity_bytes)
        self.view = memoryview(self.map)
        self._words = self.view[: status_slots * STATUS_WORD_BYTES].cast("Q")
        self._address: int | None = None
        self._private_views: dict[int, None] = {}  # a dict, since its `pop` is atomic and `-= 1` is not
        self._private_view_limit = private_view_limit()

    @classmethod
    def create(cls, capacity_bytes: int, status_slots: int = DEFAULT_STATUS_SLOTS) -> Arena:
        """A new arena, nothing reserved but the status words.

        Raises:
            MemoryError: not even these fit into the memory that is available, or there are no addresses for all of it.
            ValueError: no room for one page after the status words.
        """
        if round_up(capacity_bytes) <= round_up(status_slots * STATUS_WORD_BYTES):
            raise ValueError(f"an arena of {capacity_bytes} bytes has no room after {status_slots} status words")
        fd = os.memfd_create("miniray-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, round_up(capacity_bytes))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        try:
            arena = cls(fd, capacity_bytes, status_slots)
        except OSError as error:  # `ulimit -v`, or a size that is a mistake
            raise MemoryError(f"no addresses for {capacity_bytes:,} bytes in one piece ({error})") from error
        if not arena.reserve(0, arena.first_offset):
            raise MemoryError("no memory for the arena's first pages")
        return arena

    @classmethod
    def attach(cls, fd: int, capacity_bytes: int, status_slots: int = DEFAULT_STATUS_SLOTS) -> Arena:
        """The arena behind a descriptor that was inherited or received; it belongs to the result from now on.

        Raises:
            ValueError: `fd` is not a file of that length (the program that sent it is of another version).
        """
        found = os.fstat(fd).st_size
        if found != round_up(capacity_bytes):
            raise ValueError(f"the arena is {found} bytes long, not {capacity_bytes}")
        os.set_inheritable(fd, False)  # a user's own subprocess must not keep the memory alive
        return cls(fd, capacity_bytes, status_slots)

    # ---- memory ------------------------------------------------------------------------------------

    def reserve(self, offset: int, size_bytes: int) -> bool:
        """Allocate the pages of a range; False, and nothing allocated, when there is no memory for them.

        Only for the node, only for a range that holds nothing: a failure gives all of it back.
        """
        self._check_range(offset, size_bytes)
        if available_bytes() < size_bytes + (_RESERVE_MARGIN_BYTES if offset else 0):
            return False
        for start in range(offset, offset + size_bytes, _RESERVE_CHUNK_BYTES):
            try:  # Python itself tries again on EINTR
                os.posix_fallocate(self.fd, start, min(_RESERVE_CHUNK_BYTES, offset + size_bytes - start))
            except OSError as error:
                self.punch(offset, size_bytes)
                if error.errno in (errno.ENOSPC, errno.ENOMEM):
                    return False
                raise
        return True

    def punch(self, offset: int, size_bytes: int) -> None:
        """Give the pages of a range back to the system; it reads as zeros until it is reserved again."""
        self._check_range(offset, size_bytes)
        self.map.madvise(mmap.MADV_REMOVE, offset, size_bytes)

    def private_view(self, offset: int, size_bytes: int) -> PrivateView | None:
        """A copy-on-write map of one place (7 us); None when too many live: the caller copies instead."""
        if size_bytes <= 0 or offset < 0 or offset + size_bytes > self.capacity_bytes:
            raise ValueError(f"no place at {offset} of {size_bytes} bytes")
        if len(self._private_views) >= self._private_view_limit:
            return None
        if sys.version_info >= (3, 13):
            view = PrivateView(self.fd, size_bytes, access=mmap.ACCESS_COPY, offset=offset, trackfd=False)
        else:
            view = PrivateView(self.fd, size_bytes, access=mmap.ACCESS_COPY, offset=offset)
        self._private_views[id(view)] = None
        view._register = self._private_views
        return view

    @property
    def address(self) -> int:
        """Where the map begins. It does not keep the map alive (see above)."""
        if self._address is None:
            import ctypes  # 5 ms, and only those need it who hand out foreign buffers

            self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        return self._address

    def close_descriptor(self) -> None:
        """The map stays. Also what a forked child calls when it is none of ours."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close_descriptor()

    def _check_range(self, offset: int, size_bytes: int) -> None:
        if offset % PAGE_BYTES or size_bytes % PAGE_BYTES or size_bytes <= 0:
            raise ValueError(f"not a range of whole pages: {offset}, {size_bytes} bytes")
        if offset < 0 or offset + size_bytes > self.capacity_bytes:
            raise ValueError(f"{offset} + {size_bytes} bytes leave an arena of {self.capacity_bytes}")

    # ---- status words ------------------------------------------------------------------------------

    def status_word(self, number: int) -> StatusWord:
        """The writer for process `number`. Two living processes must not share a slot (number % slots):
        whoever gives out numbers skips those whose slot is taken, and clears the slot first."""
        return StatusWord(self._words, number % self.status_slots)

    def read_status(self, number: int) -> tuple[int, int]:
        """(lease, sequence); (0, 0) when it never started a task. Exact once the process is dead."""
        at = 2 * (number % self.status_slots)
        return self._words[at], self._words[at + 1]

    def clear_status(self, number: int) -> None:
        at = 2 * (number % self.status_slots)
        self._words[at + 1] = 0
        self._words[at] = 0


def private_view_limit() -> int:
    """Before Python 3.13 each map keeps a descriptor of its own: then a quarter of those there may be."""
    if sys.version_info >= (3, 13):
        return _LARGEST_PRIVATE_VIEWS
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _LARGEST_PRIVATE_VIEWS if soft == resource.RLIM_INFINITY else min(_LARGEST_PRIVATE_VIEWS, soft // 4)


# ---- how much memory there is --------------------------------------------------------------------------


def default_capacity_bytes(root: str = "/") -> int:
    """What an arena gets when `init` names no size. Each process maps it whole: a limit of addresses counts, too."""
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    available = available_bytes(root)
    share = int((available if addresses == resource.RLIM_INFINITY else min(available, addresses)) * SHARE_OF_MEMORY)
    return max(share - share % PAGE_BYTES, SMALLEST_CAPACITY_BYTES)


def available_bytes(root: str = "/") -> int:
    """Memory that this process could still allocate: the tightest of the system's and its cgroups' (v1, v2).

    `root` is where /proc and /sys are looked for. Takes about 0.1 ms.
    """
    found = [_field(f"{root}/proc/meminfo", "MemAvailable:", 1024)]
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                found += _cgroup_room(f"{root}/{mount}", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += _cgroup_room(f"{root}/sys/fs/cgroup/memory", path, *names)
    known = [room for room in found if room is not None]
    return max(min(known), 0) if known else 1 << 30  # no /proc at all: be modest


def _cgroup_room(mount: str, path: str, limit_name: str, usage_name: str, cache_name: str) -> Iterator[int]:
    """Each level bounds those below it. Inside a container a level may be out of sight: it is passed over."""
    parts = [part for part in path.split("/") if part and part != ".."]
    for depth in range(len(parts), -1, -1):
        level = "/".join([mount, *parts[:depth]])
        limit, usage = _read(f"{level}/{limit_name}").strip(), _read(f"{level}/{usage_name}").strip()
        if limit.isdigit() and usage.isdigit():  # v2 says "max" for no limit, v1 a number near 2**63
            yield int(limit) - int(usage) + (_field(f"{level}/memory.stat", cache_name, 1) or 0)


def _field(path: str, name: str, unit: int) -> int | None:
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name:
            return int(words[1]) * unit
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
