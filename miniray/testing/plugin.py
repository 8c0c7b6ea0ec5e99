"""pytest's plugin: a test that takes the fixture `simulated_cluster` is explored, as one under `@explore`.

    def test_total(simulated_cluster):
        assert miniray.get(total.remote([1, 2])) == 3

- Installing miniray installs it, and every run of pytest loads it: so it imports nothing before a test asks for it.
- Only the test's own body runs in the cluster, once a seed; fixtures are set up once, outside, where there is none.
- `@pytest.mark.simulated(seeds=, faults=, ...)` gives the arguments of `explore`; `--miniray-seeds N` is for all tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

FIXTURE = "simulated_cluster"
MARK = "simulated"
SEEDS = 20  # a whole suite may run so; `explore` tries more
_OUTSIDE = (
    "a fixture began a session beside simulated_cluster: the cluster lives while the body of the test runs, so make "
    "actors and call tasks there, or in functions that it calls"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    told = f"seeds of each test that takes {FIXTURE} (default: what its mark says, or {SEEDS})"
    parser.getgroup("miniray").addoption("--miniray-seeds", type=int, metavar="N", help=told)


def pytest_configure(config: pytest.Config) -> None:
    told = f"{MARK}(seeds=, faults=, ...): arguments of miniray.testing.explore for a test that takes {FIXTURE}"
    config.addinivalue_line("markers", told)


@pytest.fixture
def simulated_cluster() -> Iterator[None]:
    """The body of the test runs in simulated clusters, one a seed: miniray.testing.explore."""
    from miniray.testing.exploration import no_session

    with no_session(_OUTSIDE):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What cannot be: told before Hypothesis says what it makes of the fixture."""
    why = ""
    test: Any = getattr(item, "obj", None)
    if FIXTURE not in getattr(item, "fixturenames", ()):
        if item.get_closest_marker(MARK) is not None:
            why = f"the mark {MARK!r} is for tests that take the fixture {FIXTURE}"
    elif hasattr(test, "hypothesis"):
        why = f"{FIXTURE} is not for @given: draw schedules() and call simulate (README.md of miniray.testing)"
    elif hasattr(test, "explores"):
        why = f"{FIXTURE} and @explore are the same; leave one out"
    if why:
        pytest.fail(why, pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    if FIXTURE not in pyfuncitem.fixturenames:
        return
    from miniray.testing.exploration import explore

    mark = pyfuncitem.get_closest_marker(MARK)
    given: dict[str, Any] = {"seeds": SEEDS, **(mark.kwargs if mark is not None else {})}
    seeds = pyfuncitem.config.getoption("miniray_seeds")
    if seeds is not None:
        given["seeds"] = seeds
    pyfuncitem.obj = explore(**given)(pyfuncitem.obj)
