"""How a process is tied to the fate of others: pidfds, the parent-death signal, the subreaper, and killing a brood.

- A pidfd tells *that* a process has ended, for certain and without a race over reused pids. End-of-file on a socket
  does not (a forked grandchild keeps it open).
- PR_SET_PDEATHSIG follows the *thread* that forked: it is a second line, set only under the single-threaded zygote,
  and followed by a look at getppid (the parent may have died before the call).
- A subreaper inherits the orphans below it, also those that made a session of their own: so it can end them.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_library = ctypes.CDLL(None, use_errno=True)


def thread_count() -> int:
    """Threads of this process, those of C libraries too (`threading` does not see them)."""
    return len(os.listdir("/proc/self/task"))


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel end this process when the thread that forked it ends; leave at once if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def children() -> list[int]:
    """Pids of this process's children, zombies too."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            pass  # that thread has just ended
    return found


def environment_value(pid: int, name: bytes) -> bytes | None:
    """A variable in the environment with which `pid` was executed; None if it has none or is gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            content = file.read()
    except OSError:
        return None
    for entry in content.split(b"\0"):
        if entry.startswith(name + b"="):
            return entry[len(name) + 1 :]
    return None


def kill_executed_with(name: bytes, beginning: bytes) -> None:
    """SIGKILL every process of this user that was executed with a variable whose value begins so."""
    for pid in [int(one) for one in os.listdir("/proc") if one.isdigit()]:
        value = environment_value(pid, name)
        if value is not None and value.startswith(beginning):
            kill(pid)


def kill(pid: int) -> None:
    """SIGKILL a child that has not been reaped (its pid cannot be another's), if it still runs."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        pass  # it runs a setuid program


def kill_group(leader: int) -> None:
    """SIGKILL the process group of a child that has not been reaped."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill_group_of_the_gone(leader: int) -> None:
    """SIGKILL what is left of the process group of a child that was reaped already. While some of it lives no process
    is given this pid: whoever has it leads another group."""
    if not os.path.exists(f"/proc/{leader}"):
        kill_group(leader)


def kill_by_pidfd(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def wait_for_end(pidfd: int, timeout_seconds: float) -> bool:
    """Whether the process has ended within the time."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(max(0, timeout_seconds) * 1000))


def _prctl(option: int, value: int) -> None:
    if _library.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
