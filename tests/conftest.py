"""What every test gets: no test of `api/` or `system/` may leave anything behind.

A process of ours is a descendant of this one, or carries this run's mark in its environment (which a child
keeps when its parents die and it is handed to init). A session that is still alive belongs to its module: its
processes are looked for when the module has ended.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

GUARDED = ("api", "integrations", "system")
ONE_AFTER_ANOTHER = (*GUARDED, "store", "transports")  # beside other processes of ours they would prove less
GRACE_SECONDS = 10.0  # two are promised, and asked in `system/`; a busy machine may take longer
MARK = f"MINIRAY_TEST_RUN={os.getpid()}"  # whole: run 12 is not run 123
STANDARD_LIBRARY = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")  # these outlive their users

os.environ.__setitem__(*MARK.split("="))


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""  # it has ended


def _our_processes() -> dict[tuple[int, float], str]:
    """(pid, start) -> command line, of every living process of this run."""
    everyone = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    marked = [pid for pid in everyone if MARK.encode() in _read(pid, "environ").split(b"\0")]
    found = psutil.Process().children(recursive=True)
    for pid in marked:
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    living = {}
    for process in found:
        try:
            command = _read(process.pid, "cmdline")
            ended = process.status() == psutil.STATUS_ZOMBIE
            standard = any(word in command for word in STANDARD_LIBRARY)
            if process.pid != os.getpid() and not ended and not standard:
                living[process.pid, process.create_time()] = command.replace(b"\0", b" ").decode(errors="replace")
        except psutil.NoSuchProcess:
            continue
    return living


def _shared_memory() -> dict[str, None]:
    """Without semaphores, of `multiprocessing` or loky: we make none, and they may be anybody's on this machine."""
    names = sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []
    return {name: None for name in names if not name.startswith("sem.")}


def _is_somebody_elses(name: str) -> bool:
    """Whether a process that is none of ours maps this file: other tests run on this machine."""
    others = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]
    holders = [pid for pid in others if f"/dev/shm/{name}".encode() in _read(pid, "maps")]
    return any(MARK.encode() not in _read(pid, "environ").split(b"\0") for pid in holders)


def _session_is_alive() -> bool:
    miniray = sys.modules.get("miniray")
    return miniray is not None and "is_initialized" in dir(miniray) and bool(miniray.is_initialized())


def _await_nothing_new(who: str, processes: dict[tuple[int, float], str], files: dict[str, None]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        left = {key: command for key, command in _our_processes().items() if key not in processes}
        made = [name for name in _shared_memory() if name not in files and not _is_somebody_elses(name)]
        if not left and not made:
            return
        if time.monotonic() > deadline:
            lines = [f"process {pid}: {command}" for (pid, _), command in left.items()]
            lines += [f"/dev/shm/{name}" for name in made]
            pytest.fail(f"left behind by this {who}:\n" + "\n".join(lines), pytrace=False)
        time.sleep(0.01)


def _is_of(folders: tuple[str, ...], path: Path) -> bool:
    here = Path(__file__).parent
    return here in path.parents and path.relative_to(here).parts[0] in folders


def pytest_configure() -> None:
    """For this process and all that it starts. In the background of a shell's script Ctrl-C is ignored: here it is
    sent on purpose. And what aborts on purpose takes no time to write down all of its memory, here in the repository.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2`, all that starts processes stays on one core, in its order; everything else fills the other.

    pytest-xdist has marks for that (`--dist=loadgroup`). It adds them to the names of tests, which pytest 9.2 does not
    let it change: then each test goes wherever there is room, and nobody is told.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ProcessesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = config.rootpath / nodeid.partition("::")[0]
            return "processes" if _is_of(ONE_AFTER_ANOTHER, file) else nodeid

    return ProcessesTogether(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many interleavings were run of each small program, and of a few threads."""
    told = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "interleavings"
    ]
    if told:
        terminalreporter.section("interleavings")
        terminalreporter.write("\n".join(map(str, told)) + "\n")


@pytest.fixture(scope="module", autouse=True)
def no_leftovers_of_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the module, its session included, everything is as before."""
    if not _is_of(GUARDED, request.path):
        yield
        return
    processes, files = _our_processes(), _shared_memory()
    yield
    _await_nothing_new("module", processes, files)


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test no process of ours is alive and nothing new is in /dev/shm, unless a session of its module is."""
    if not _is_of(GUARDED, request.path):
        yield
        return
    processes, files = _our_processes(), _shared_memory()
    yield
    if _session_is_alive():
        return  # it may start a process at any time; the module's check sees them all
    _await_nothing_new("test", processes, files)
