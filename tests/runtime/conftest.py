"""What the tests of threads get."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.runtime.driven_world import World, explored


@pytest.fixture
def tried(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[..., int]:
    """Explore a scenario; pytest's summary says how many interleavings there were."""

    def run(scenario: Callable[[World], None], deviations: int = 2) -> int:
        count = explored(monkeypatch, scenario, deviations)
        record_property("interleavings", f"{request.node.name}: {count:,}")
        return count

    return run
