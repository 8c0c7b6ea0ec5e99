"""What tests of pools and executors share, for a module each; nothing of it is there unasked.

A module that only needs a session for what it makes itself says `pytestmark = pytest.mark.usefixtures("session")`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest

import miniray


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    miniray.init(num_cpus=2)
    yield
    miniray.shutdown()


@pytest.fixture(scope="module")
def pool(session: None) -> Iterator[Any]:
    with miniray.Pool(2) as made:
        yield made


@pytest.fixture(scope="module")
def executor(session: None) -> Iterator[miniray.Executor]:
    with miniray.Executor(2) as made:
        yield made


@pytest.fixture(scope="module")
def standard() -> Iterator[Any]:
    """The pool that ours is compared with."""
    with multiprocessing.get_context("spawn").Pool(1) as made:
        yield made
