"""What workers print lands in the notebook, in the output of the cell that runs.

The kernel reads its descriptors 1 and 2 in a thread, so a line may come after its cell's end: a live notebook shows it
there all the same. `nbclient` would have stopped listening, so this asks the kernel itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

pytest.importorskip("ipykernel")
manager = pytest.importorskip("jupyter_client.manager")

SECONDS = 30
DEFINITIONS = """
import sys
import miniray

@miniray.remote
def speak(x):
    print("hello", x)
    print("aside", x, file=sys.stderr)

def square(x):
    print("square", x)
    return x * x

miniray.init(num_cpus=1)
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # a kernel that sees it does not capture descriptors
    running, client = manager.start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    running.shutdown_kernel()


def outputs_of(client: Any, cell: str, awaited: dict[str, list[str]]) -> dict[str, list[str]]:
    """The lines of each stream that belong to this cell, when all are there or time is up."""
    asked = client.execute(cell)
    told = {"stdout": "", "stderr": ""}
    idle, deadline = False, monotonic() + SECONDS
    while True:
        lines = {name: re.sub(r"pid=\d+", "pid=N", text).splitlines() for name, text in told.items()}
        if (idle and lines == awaited) or monotonic() > deadline:
            return lines
        message = client.get_iopub_msg(timeout=SECONDS)
        if message["parent_header"].get("msg_id") == asked:
            content = message["content"]
            if message["msg_type"] == "stream":
                told[content["name"]] += content["text"]
            idle = idle or content.get("execution_state") == "idle"
            assert message["msg_type"] != "error", content


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_prints_land_in_the_cell(kernel: Any) -> None:
    expected: dict[str, list[str]] = {"stdout": [], "stderr": []}
    assert outputs_of(kernel, DEFINITIONS, expected) == expected
    for x in (1, 2):
        expected = {"stdout": [f"(speak pid=N) hello {x}"], "stderr": [f"(speak pid=N) aside {x}"]}
        assert outputs_of(kernel, f"miniray.get(speak.remote({x}))", expected) == expected
    expected = {"stdout": ["square 0", "square 1"], "stderr": []}
    assert outputs_of(kernel, "with miniray.Pool(1) as pool:\n    pool.map(square, range(2));", expected) == expected
    outputs_of(kernel, "miniray.shutdown()", {"stdout": [], "stderr": []})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_workers_are_forked_where_the_notebook_logs_and_not_because_its_kernel_does(kernel: Any) -> None:
    asks = "with miniray.Pool(1) as pool:\n    print(pool._dispatcher.crew.is_forked)"
    for cell, forked in (("import logging, miniray", "False"), ("logging.basicConfig()", "True")):
        expected = {"stdout": [forked], "stderr": []}
        assert outputs_of(kernel, f"{cell}\n{asks}", expected) == expected
    outputs_of(kernel, "miniray.shutdown()", {"stdout": [], "stderr": []})
