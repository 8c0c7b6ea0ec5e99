"""Many small tasks through one driver, refs dropped as they finish: empty tables, and memory as at the beginning.

100,000 here; MINIRAY_TEST_TASKS asks for another number (a million takes half a minute).
"""

from __future__ import annotations

import os

import pytest

TASKS = int(os.environ.get("MINIRAY_TEST_TASKS", "100000"))
ALLOWED_BYTES = 20 << 20

SOURCE = """
    import gc, os, sys, time
    import psutil
    import miniray
    from collections import deque
    from quiescence import assert_quiet, await_end

    @miniray.remote
    def f(x):
        return x

    @miniray.remote
    class Actor:
        def echo(self, x):
            return x

        def pid(self):
            return os.getpid()

    def memory(*ending):
        for pid in ending:
            await_end(pid)
        assert_quiet()
        gc.collect()
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return sum(process.memory_full_info().uss for process in processes)

    def run(remote, count, window=2000):
        refs, total = deque(), 0
        for i in range(count):
            refs.append(remote(i))
            if len(refs) == window:
                for _ in range(window // 2):
                    total += miniray.get(refs.popleft())
        total += sum(miniray.get(list(refs)))
        assert total == count * (count - 1) // 2

    miniray.init(num_cpus=2)
    count = int(sys.argv[1])
    if sys.argv[2] == "tasks":
        remote = f.remote
        run(remote, 10_000)
        before = memory()
    else:
        actor = Actor.remote()
        remote = actor.echo.remote
        run(remote, 10_000)
        pid = miniray.get(actor.pid.remote())
        del actor, remote
        before = memory(pid)
        actor = Actor.remote()
        remote = actor.echo.remote
    started = time.monotonic()
    run(remote, count)
    took = time.monotonic() - started
    ending = []
    if sys.argv[2] != "tasks":
        ending.append(miniray.get(actor.pid.remote()))
        del actor, remote
    print(memory(*ending) - before, f"{count / took:.0f} a second", flush=True)
    miniray.shutdown()
"""


@pytest.mark.parametrize("what", ["tasks", "calls"])
def test_many_tasks_leave_nothing(script, what):
    grown, rate = script(SOURCE, TASKS, what).end().split(" ", 1)
    print(f"{TASKS:,} {what}: {rate.strip()}, memory {int(grown) / 2**20:+.1f} MB")
    assert int(grown) < ALLOWED_BYTES


def test_many_pending_tasks_at_once(script):
    """All submitted before the first is gathered. (`python -m bench pending` has those that cannot start, exactly.)"""
    source = SOURCE.partition("    miniray.init")[0] + """
    miniray.init(num_cpus=2)
    run(f.remote, 1000)
    gc.collect()
    before = psutil.Process().memory_info().rss
    refs = [f.remote(i) for i in range(100_000)]
    grown = psutil.Process().memory_info().rss - before
    assert miniray.get(refs) == list(range(100_000))
    del refs
    assert_quiet()
    print(grown // 100_000)
    miniray.shutdown()
    """
    each = int(script(source).end())
    print(f"{each} bytes each")
    assert each < 1200
