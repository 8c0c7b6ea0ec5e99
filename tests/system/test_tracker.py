"""What users' code makes by name through `multiprocessing` is unlinked when its makers have died, and not before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from quiescence import await_end, eventually

from miniray._runtime.tracker import MODULE

GONE_SECONDS = 2.0  # the promise, after the driver's death

MAKER = """
    import multiprocessing, os, sys
    import miniray

    def make():
        from multiprocessing.shared_memory import SharedMemory
        kept.append((multiprocessing.get_context("spawn").Lock(), SharedMemory(create=True, size=1)))
        return os.getpid(), "sem." + kept[-1][0]._semlock.name[1:], kept[-1][1].name

    kept = []
    way = sys.argv[1]
    miniray.init(num_cpus=1)
    if way == "task":
        found = miniray.get(miniray.remote(make).remote())
    else:
        pool = miniray.Pool(1, context=multiprocessing.get_context("fork") if way == "forked" else None)
        found = pool.apply(make)
    print(*found, flush=True)
    sys.stdin.readline()
    miniray.shutdown()
    print("ended", flush=True)
    sys.stdin.readline()
"""

OWNER = """
    import os, signal, sys
    import miniray

    def create():
        from multiprocessing.shared_memory import SharedMemory
        return SharedMemory(create=True, size=1)

    @miniray.remote(max_retries=0)
    def use(name):
        from multiprocessing.shared_memory import SharedMemory
        opened = SharedMemory(name=name)
        opened.buf[0] = 1
        os.kill(os.getpid(), signal.SIGKILL)

    if sys.argv[1] == "before":
        shared = create()
    for _ in range(2):
        miniray.init(num_cpus=1)
        if sys.argv[1] == "after":
            shared = create()
            sys.argv[1] = "before"
        try:
            miniray.get(use.remote(shared.name))
        except miniray.errors.WorkerCrashedError:
            pass
        miniray.shutdown()
    print(shared.name, shared.buf[0], flush=True)
    sys.stdin.readline()
    shared.unlink()
    shared.close()
"""


def exists(name: str) -> bool:
    return os.path.exists(f"/dev/shm/{name}")


@pytest.fixture
def names() -> Iterator[list[str]]:
    """Those in which a test is interested, which it leaves to nobody when it fails."""
    found: list[str] = []
    yield found
    for name in filter(exists, found):
        os.unlink(f"/dev/shm/{name}")


@pytest.mark.parametrize("end", ["shutdown", "worker killed", "driver killed"])
@pytest.mark.parametrize("way", ["task", "pool", "forked"])
def test_what_workers_have_made_is_gone_with_the_session(
    script: Callable[..., Any], way: str, end: str, names: list[str]
) -> None:
    driver = script(MAKER, way)
    worker, *made = driver.line().split()
    names += made
    assert all(map(exists, made))
    if end == "worker killed":
        os.kill(int(worker), signal.SIGKILL)
        await_end(int(worker))
    if end == "driver killed":
        driver.send(signal.SIGKILL)
    else:
        driver.process.stdin.write("\n")
        driver.process.stdin.flush()
        assert driver.line() == "ended"
    eventually(lambda: not any(map(exists, made)), "what it made is gone", GONE_SECONDS)
    if end != "driver killed":
        driver.end()


@pytest.mark.parametrize("created", ["before", "after"])
def test_what_a_worker_has_only_opened_outlives_it_and_its_session(
    script: Callable[..., Any], created: str, names: list[str]
) -> None:
    driver = script(OWNER, created)
    name, byte = driver.line().split()
    names.append(name)
    assert exists(name) and byte == "1"
    driver.end()
    assert not exists(name)


def test_no_tracker_is_started_for_those_who_need_none(script: Callable[..., Any]) -> None:
    driver = script("""
        import sys, miniray
        with miniray.Pool(1) as pool:
            print(pool.apply(len, ("ab",)), flush=True)
            sys.stdin.readline()
    """)
    assert driver.line() == "2"
    commands = [" ".join(one.cmdline()) for one in psutil.Process(driver.pid).children(recursive=True)]
    assert commands and not any(MODULE in command for command in commands)
    driver.end()
