"""What the tests of threads get."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.runtime.driven_world import World, explored


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., int]:
    """Explore a scenario; prints how many interleavings there were."""

    def run(scenario: Callable[[World], None], deviations: int = 2) -> int:
        count = explored(monkeypatch, scenario, deviations)
        with capsys.disabled():
            print(f" [{count:,} interleavings]", end="")
        return count

    return run
