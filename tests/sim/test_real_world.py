"""What is real beside a simulated run: threads and pools of before it and forks are refused; sockets are waited for."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from typing import Any

import pytest

import miniray
from miniray.testing import SimulationFailed, explore, simulate

REAL_SECONDS = 20.0


@miniray.remote
def same(x: int) -> int:
    return x


class Helper:
    """A real thread, which does what it is told."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self.done = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._serve, name="helper")
        self.thread.start()

    def _serve(self) -> None:
        while (job := self.jobs.get()) is not None:
            try:
                job()
            except Exception:
                pass
            self.done.release()


@pytest.fixture
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.jobs.put(None)
    helper.thread.join(REAL_SECONDS)
    assert not helper.thread.is_alive()


def refused(program: Callable[[], Any], told: str) -> None:
    with pytest.raises(SimulationFailed, match=told):
        simulate(program)
    assert not miniray.is_initialized() and simulate(lambda: same.remote(3)).value == 3


# ---- threads of before ----


def test_a_thread_of_before_that_calls_miniray_fails_the_run(helper: Helper) -> None:
    def program() -> None:
        helper.jobs.put(lambda: same.remote(1))
        while helper.jobs.qsize() or not helper.done._value:  # type: ignore[attr-defined]
            time.sleep(0.001)

    refused(program, r"a thread that is not simulated, helper, calls miniray at .*_world.py:\d+ in <lam.* start it in")


def test_a_thread_of_before_cannot_end_a_wait(helper: Helper) -> None:
    def program() -> None:
        event = threading.Event()
        helper.jobs.put(event.set)
        while True:
            event.wait(0.1)

    refused(program, "a thread that is not simulated, helper, ends a wait of simulated code")


def test_a_thread_of_before_cannot_be_joined(helper: Helper) -> None:
    refused(lambda: helper.thread.join(), r"not simulated, helper, is waited for by simulated code at .*_world.py:\d+")


@pytest.mark.parametrize("used", [False, True])
def test_a_pool_of_before_is_refused_at_once(used: bool) -> None:
    with ThreadPoolExecutor(1) as pool:
        if used:
            pool.submit(abs, -1).result()
        told = r"gives work to a pool of threads of before the run, .* at .*_world.py:\d+ in .*\. Make the pool in the"
        refused(lambda: pool.submit(abs, -1).result(), told)
        runs: list[int] = []

        def program() -> None:
            runs.append(1)
            pool.submit(abs, -1)

        with pytest.raises(SimulationFailed, match=f"program cannot be simulated, as seed 0 shows: simulated.*{told}"):
            explore(seeds=3)(program)()
        assert len(runs) == 1 and pool.submit(abs, -1).result() == 1


def test_a_pool_of_an_earlier_run_is_refused_too() -> None:
    pools: list[ThreadPoolExecutor] = []

    def leaves() -> None:
        pools.append(ThreadPoolExecutor(1))
        pools[0].submit(abs, -1).result()

    simulate(leaves)
    refused(lambda: pools[0].submit(abs, -1).result(), "gives work to a pool of threads of before the run")
    with pytest.raises(BrokenThreadPool, match="a simulated run, which has ended"):
        pools[0].submit(abs, -1)
    pools[0].shutdown()


# ---- forks ----


@miniray.remote
def forks(how: str) -> None:
    if how == "os.fork":
        if not os.fork():
            os._exit(3)
    else:
        process = get_context("fork").Process(target=abs, args=(1,))
        process.start()
        process.join()


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_fork_is_refused(how: str) -> None:
    with pytest.raises(SimulationFailed, match=r"os.fork cannot be simulated: .* Let tasks do it"):
        simulate(lambda: forks.remote(how))


def test_a_child_that_is_forked_all_the_same_is_real() -> None:
    def program() -> int:
        return subprocess.Popen([sys.executable, "-c", ""], preexec_fn=lambda: os._exit(7)).wait(REAL_SECONDS)

    assert simulate(program).value == 7


# ---- sockets and children ----

ECHO = [sys.executable, "-c", "print(input())"]


def talks_to_a_child() -> bytes:
    return subprocess.run(ECHO, input=b"x" * 100_000 + b"\n", capture_output=True, timeout=60, check=True).stdout[-2:]


def polls_a_child() -> bytes:
    with subprocess.Popen([sys.executable, "-c", "print('x')"], stdout=subprocess.PIPE) as child:
        while child.poll() is None:
            time.sleep(0.1)
        return child.communicate()[0]


def waits_for_a_child_for_a_while() -> bytes:
    with subprocess.Popen([sys.executable, "-c", "print('x')"], stdout=subprocess.PIPE) as child:
        assert child.wait(timeout=60) == 0
        return child.communicate()[0]


def talks_to_a_child_in_asyncio() -> bytes:
    async def main() -> bytes:
        child = await asyncio.create_subprocess_exec(*ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        said = (await child.communicate(b"x\n"))[0]
        assert child.returncode == 0
        return said

    return asyncio.run(main())


def talks_to_a_server_in_asyncio() -> bytes:
    async def main() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x\n")
        said = await reader.read()
        writer.close()
        server.close()
        return said

    return asyncio.run(main())


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x\n")

    def log_message(self, *_: Any) -> None:
        pass


def talks_to_a_server_in_threads() -> bytes:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=60) as answer:
            return answer.read()
    finally:
        server.shutdown()
        server.server_close()


TALKS = [
    talks_to_a_child,
    polls_a_child,
    waits_for_a_child_for_a_while,
    talks_to_a_child_in_asyncio,
    talks_to_a_server_in_asyncio,
    talks_to_a_server_in_threads,
]


@pytest.mark.parametrize("program", TALKS)
def test_what_is_real_takes_next_to_no_virtual_time(program: Callable[[], bytes]) -> None:
    @miniray.remote
    def task() -> bytes:
        return program()

    def both() -> Any:
        return program(), miniray.get(task.remote())

    for seed in range(3):
        done = simulate(both, seed=seed)
        assert [one[-2:] for one in done.value] == [b"x\n"] * 2 and done.statistics.real
        assert done.statistics.virtual_seconds < 1.0


def test_a_socket_that_is_idle_times_out_in_virtual_time() -> None:
    def program() -> float:
        one, other = socket.socketpair()
        with one, other:
            one.settimeout(1_000.0)
            with pytest.raises(TimeoutError):
                one.recv(1)
            other.send(b"xy")
            assert one.recv(1) == b"x" and bytes(one.recv_into(bytearray(1)) * b"y") == b"y"
        return time.monotonic()

    assert simulate(program).value >= 1_000.0
