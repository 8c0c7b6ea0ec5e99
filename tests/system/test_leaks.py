"""Sessions that come and go leave no descriptor, thread, process or memory; an idle one is small and silent."""

from __future__ import annotations

import json

IDLE_BYTES = 60 << 20  # driver, node process, zygote and two workers, without NumPy or pyarrow
IDLE_CPU_SECONDS = 0.02  # a second

CYCLES = """
    import gc, os, sys, threading
    import psutil
    import miniray

    @miniray.remote
    def f(x):
        return x

    @miniray.remote
    class Actor:
        def echo(self, x):
            return x

    def cycle(i):
        miniray.init(num_cpus=2)
        actor = Actor.remote()
        refs = [f.remote(i), actor.echo.remote(i)]
        assert miniray.get(refs) == [i, i]
        kept = miniray.get(miniray.put(bytes(200_000)))
        miniray.shutdown()
        assert len(kept) == 200_000

    me = psutil.Process()

    def figures():
        gc.collect()
        return me.num_fds(), threading.active_count(), len(me.children(recursive=True)), len(gc.get_objects())

    for i in range(5):
        cycle(i)
    before = figures()
    for i in range(20):
        cycle(i)
    after = figures()
    assert before[:3] == after[:3], (before, after)
    assert after[2] == 0 and after[1] == 1
    assert after[3] - before[3] < 200, (before, after)  # objects: resident memory wavers by some megabytes
    from miniray._runtime.driver import Driver
    assert not [one for one in gc.get_objects() if isinstance(one, Driver)][1:]  # the last may be remembered
    print("even")
"""

IDLE = """
    import json, sys, time
    import psutil
    import miniray

    @miniray.remote
    def f(x):
        return x

    miniray.init(num_cpus=2)
    assert miniray.get([f.remote(i) for i in range(100)]) == list(range(100))
    deadline = time.monotonic() + 5
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    while len(processes) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    time.sleep(0.5)  # leases are given up, threads park

    def spent():
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    begin = spent()
    time.sleep(1)
    cpu = spent() - begin
    pss = {process.pid: process.memory_full_info().pss for process in processes}
    loaded = [name for name in ("numpy", "pyarrow", "asyncio", "pandas") if name in sys.modules]
    print(json.dumps({"pss": list(pss.values()), "cpu": cpu, "loaded": loaded}))
    miniray.shutdown()
"""


def test_sessions_that_come_and_go_leave_nothing(script):
    assert script(CYCLES).end(60) == "even\n"


def test_an_idle_session_is_small_and_silent(script):
    figures = json.loads(script(IDLE).end(30))
    total = sum(figures["pss"])
    each = [f"{size / 2**20:.1f}" for size in figures["pss"]]
    print(f"idle: {total / 2**20:.1f} MB of PSS ({' + '.join(each)}), {figures['cpu']:.3f} s of CPU a second")
    assert len(figures["pss"]) == 5 and not figures["loaded"]
    assert total < IDLE_BYTES
    assert figures["cpu"] <= IDLE_CPU_SECONDS
