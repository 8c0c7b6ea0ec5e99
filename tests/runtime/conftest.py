"""What the tests of threads get."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from tests.runtime.driven_world import World, explored


@pytest.fixture
def tried(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[..., int]:
    """Explore a scenario; pytest's summary says how many interleavings there were."""

    def run(scenario: Callable[[World], None], deviations: int = 2) -> int:
        gc.collect()  # else refs that earlier tests have left run watched lines in the middle
        count = explored(monkeypatch, scenario, deviations)
        record_property("interleavings", f"{request.node.name}: {count:,}")
        return count

    return run
