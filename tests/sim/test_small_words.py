"""What `simulate` and `explore` say, and see, when a program is used in an unusual way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import sleep as nap
from typing import Any

import pytest

import miniray
from miniray.testing import (
    Break,
    ControlCrash,
    Crash,
    Faults,
    Lasting,
    NodeStrike,
    SimulationFailed,
    StrikeMoment,
    Unhealed,
    explore,
    simulate,
)
from miniray.testing.choices import SeededChoices
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.recording import fault_of, read
from miniray.testing.story import tell
from miniray.testing.waits import SimulationError


@miniray.remote
class Store:
    def __init__(self) -> None:
        self.value = 0

    def get(self) -> int:
        return self.value

    def put(self, value: int) -> None:
        self.value = value


@miniray.remote
def increment(store: Any) -> None:
    value = miniray.get(store.get.remote())
    miniray.get(store.put.remote(value + 1))


def test_a_bound_of_lineage_is_that_of_init() -> None:
    def program() -> None:
        raise KeyError("planned")

    assert simulate(lambda: 1, max_lineage_bytes=0).value == 1
    with pytest.raises(SimulationFailed, match="max_lineage_bytes=7"):
        simulate(program, max_lineage_bytes=7)


def test_what_has_failed_is_told_before_what_waits_for_it() -> None:
    cluster = SimulatedCluster(SeededChoices(1))

    def fails_at_last() -> None:
        if cluster.timeline.next_time() is None:
            cluster.fail(SimulationError("the cause"))

    def program() -> None:
        assert cluster.awake is not None
        cluster.awake.park()

    cluster.on_every(0, fails_at_last)
    try:
        with pytest.raises(SimulationError, match="the cause"):
            cluster.run(program)
    finally:
        cluster.close()


def test_a_module_that_is_being_imported_is_told_at_once(tmp_path: Path) -> None:
    lines = "from miniray.testing import simulate\ndef program():\n    return 1\nprint(simulate(program).value)\n"
    (tmp_path / "too_early.py").write_text(lines)
    command = [sys.executable, "-c", "import too_early"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "RuntimeError: a simulation cannot run while the module of its program, too_early, is still" in done.stderr
    script = subprocess.run([sys.executable, "too_early.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert script.stdout == "1\n", script.stderr


def test_names_of_the_module_are_virtual_with_arguments_too() -> None:
    @explore(seeds=1, faults="none")
    def sleeps(seconds: float) -> None:
        nap(seconds)  # a real one would be stuck

    sleeps(1_000.0)


def test_a_lost_update_is_told_by_the_order_of_its_calls(tmp_path: Path) -> None:
    @explore(folder=tmp_path)
    def program() -> None:
        store = Store.remote()
        miniray.get([increment.remote(store) for _ in range(2)])
        assert miniray.get(store.get.remote()) == 2

    with pytest.raises(SimulationFailed, match="deaths: 0") as failed:
        program()
    text = str(failed.value)
    assert "no fault" in text and "Store (p1.t1" in text, text
    order = "get (for increment (p1.t2)), get (for increment (p1.t3)), put (for increment (p1.t2)), put (for "
    assert f"ran, in this order: {order}increment (p1.t3)), get (for the program)." in text, text
    (file,) = tmp_path.iterdir()
    assert tell(read(file)).count("Store.put") >= 4, "both are told, from the call to the end"


def test_an_order_that_was_relied_upon_is_told(tmp_path: Path) -> None:
    @explore(folder=tmp_path, faults="delays")
    def program() -> None:
        refs = [miniray.remote(nap).remote(0.01) for _ in range(4)]
        found, pending = [], refs
        while pending:
            ready, pending = miniray.wait(pending, num_returns=1)
            found += ready
        assert found == refs

    with pytest.raises(SimulationFailed, match=r"1\. Tasks ended in this order: sleep \(p1\.t\d\), sleep \(p1\.t"):
        program()


def takes(x: int) -> int:
    return x


def generates() -> Any:
    yield takes


async def awaits() -> None:
    pass


async def generates_too() -> Any:
    yield takes


ODD: Any = "odd"
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a program": (lambda: simulate(ODD), TypeError, "a plain function without arguments, not 'odd'"),
    "a generator": (lambda: simulate(generates), TypeError, "not the generator or async function <function generates"),
    "a coroutine": (lambda: simulate(awaits), TypeError, "not the generator or async function <function awaits"),
    "its generator": (lambda: simulate(lambda: [generates()]), SimulationFailed, "a generator, and nothing of it has"),
    "its arguments": (lambda: simulate(takes), TypeError, r"takes\(x: .int.\) .*needs some .*'x'.*give lambda"),
    "a seed": (lambda: simulate(int, seed=ODD), TypeError, "seed must be a whole number, not 'odd'"),
    "CPUs": (lambda: simulate(int, num_cpus=ODD), TypeError, "num_cpus must be .*, not 'odd'"),
    "lineage": (lambda: simulate(int, max_lineage_bytes=-1), ValueError, "max_lineage_bytes must be .* zero or more"),
    "too many nodes": (lambda: simulate(int, nodes=4096), ValueError, "nodes must be 4095 at most, not 4096"),
    "seeds": (lambda: explore(seeds=0), ValueError, "seeds must be a whole number, one or more, not 0"),
    "a test that yields": (lambda: explore(generates), TypeError, "explore takes a plain function, not the generator"),
    "an async one": (lambda: explore(seeds=1)(generates_too), TypeError, "explore takes a plain function, not the gen"),
    "its coroutine": (lambda: explore(lambda: awaits())(), SimulationFailed, "a coroutine, and nothing of it has run"),
    "a name to allow": (lambda: explore(allow=ODD), TypeError, "allow must be a tuple of exception classes, not 'odd'"),
    "names to allow": (lambda: explore(allow=(ODD,)), TypeError, "allow must be a tuple of exception classes"),
    "the first seed": (lambda: explore(first_seed=ODD), TypeError, "first_seed must be a whole number, not 'odd'"),
}
IMPOSSIBLE: dict[str, tuple[Faults, int, type[Exception], str]] = {
    "no tuple": (Faults(crashes=ODD), 1, TypeError, "faults.crashes must be a tuple of Crash, not 'odd'"),
    "another fault": (Faults(control_crashes=(ODD,)), 2, TypeError, r"faults.control_crashes\[0\] must be of Control"),
    "no moment": (Faults(crashes=(Crash(ODD, ODD),)), 1, TypeError, r"faults.crashes\[0\].after must be a whole"),
    "no mode": (Faults(crashes=(Crash(1, ODD),)), 1, TypeError, r"\.mode must be of CrashMode, one of CrashMode.AT"),
    "back in time": (Faults(broken_links=(Break(1, -1.0),)), 1, ValueError, "silent_seconds must be .* zero or more"),
    "no seconds": (Faults(broken_links=(Break(1, ODD),)), 1, TypeError, "silent_seconds must be a number"),
    "less than never": (Faults(one_long_in=-1), 1, ValueError, "faults.one_long_in must be .* zero or more"),
    "no control store": (Faults(control_crashes=(ControlCrash(1),)), 1, ValueError, "no control store: give nodes=2"),
    "its links": (Faults(control_breaks=(1,)), 1, ValueError, "faults has control_breaks, .*: give nodes=2, or more"),
    "the driver's node": (Faults(node_strikes=(NodeStrike(StrikeMoment.TASK),)), 1, ValueError, "has node_strikes"),
    "twice": (Faults(heal_after=1, unhealed=(Unhealed(1, Lasting.DEAD),) * 2), 2, ValueError, "same node more than"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_one_error_that_names_it(what: str) -> None:
    call, kind, text = WRONG[what]
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_impossible_faults_are_named_by_their_field(what: str) -> None:
    faults, nodes, kind, text = IMPOSSIBLE[what]
    with pytest.raises(kind, match=text):
        simulate(int, nodes=nodes, faults=faults)


def test_a_strike_is_shrunk_like_every_fault(tmp_path: Path) -> None:
    strikes = tuple(NodeStrike(moment, 0) for moment in (StrikeMoment.TASK, StrikeMoment.READ))
    faults = Faults(node_strikes=strikes, one_long_in=5)

    @explore(seeds=1, nodes=3, num_cpus=1, folder=tmp_path, faults=faults, allow=())
    def program() -> None:
        once = miniray.remote(max_retries=0)(nap)
        miniray.get([once.remote(0.5) for _ in range(4)])

    with pytest.raises(SimulationFailed, match="deaths: [12]"):
        program()
    (file,) = tmp_path.iterdir()
    assert fault_of(read(file).faults) == Faults(node_strikes=strikes[:1])
