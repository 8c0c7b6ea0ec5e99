"""`session`: one of two CPUs for the whole module. After each test that uses it the tables are empty."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from quiescence import assert_quiet

import miniray


@pytest.fixture(scope="module")
def session_of_module() -> Iterator[None]:
    miniray.shutdown()
    miniray.init(num_cpus=2, object_store_memory=200 << 20)
    yield
    miniray.shutdown()


@pytest.fixture
def session(session_of_module: None, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    sys.last_value = sys.last_traceback = None  # a traceback that is kept keeps refs
    assert_quiet()
