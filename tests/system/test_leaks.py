"""Sessions and pools that come and go leave nothing; an idle session is small and silent."""

from __future__ import annotations

import json

import pytest

IDLE_BYTES = 60 << 20  # driver, node process, zygote and two workers, without NumPy or pyarrow
IDLE_CPU_SECONDS = 0.02  # a second: one of WINDOWS, since on a busy machine it is late that it has become idle
WINDOWS = 10

COME_AND_GO = """
    import json, sys
    from bench.rows_leaks import grown

    print(json.dumps(grown(sys.argv[1], int(sys.argv[2]))))
"""
CYCLES = 30  # `python -m bench cycles` has 1,000 of each
ALLOWED = {"maps": 10, "objects": 200, "MB": 4}  # all else: none more than before

IDLE = """
    import json, sys, time
    import psutil
    import miniray

    @miniray.remote
    def f(x):
        return x

    miniray.init(num_cpus=2)
    assert miniray.get([f.remote(i) for i in range(100)]) == list(range(100))
    deadline = time.monotonic() + 20
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    while len(processes) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]

    def spent():
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    allowed, windows = float(sys.argv[1]), int(sys.argv[2])
    for _ in range(windows):  # leases are given up, threads park
        begin = spent()
        time.sleep(1)
        cpu = spent() - begin
        if cpu <= allowed:
            break
    pss = {process.pid: process.memory_full_info().pss for process in processes}
    loaded = [name for name in ("numpy", "pyarrow", "asyncio", "pandas") if name in sys.modules]
    print(json.dumps({"pss": list(pss.values()), "cpu": cpu, "loaded": loaded}))
    miniray.shutdown()
"""


@pytest.mark.parametrize("what", ["sessions", "pools"])
def test_what_comes_and_goes_leaves_nothing(script, what):
    more = json.loads(script(COME_AND_GO, what, CYCLES).end())
    assert len(more) == 7
    assert {} == {name: figure for name, figure in more.items() if figure > ALLOWED.get(name, 0)}, more


def test_an_idle_session_is_small_and_silent(script):
    figures = json.loads(script(IDLE, IDLE_CPU_SECONDS, WINDOWS).end())
    total = sum(figures["pss"])
    each = [f"{size / 2**20:.1f}" for size in figures["pss"]]
    print(f"idle: {total / 2**20:.1f} MB of PSS ({' + '.join(each)}), {figures['cpu']:.3f} s of CPU a second")
    assert len(figures["pss"]) == 5 and not figures["loaded"]
    assert total < IDLE_BYTES
    assert figures["cpu"] <= IDLE_CPU_SECONDS
