"""Which seeds: MINIRAY_SEEDS (how many) and MINIRAY_FIRST_SEED, or the options of these names.

    python -m pytest -q tests/sim --seeds 10000 --first-seed 0
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from miniray.testing import new_interpreters

SEEDS = 600  # a minute or two
CHUNK = 100


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known only when this folder is named on the command line; the environment works always."""
    parser.addoption("--seeds", type=int)
    parser.addoption("--first-seed", type=int)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        given = metafunc.config.getoption
        count = given("--seeds", None) or int(os.environ.get("MINIRAY_SEEDS", SEEDS))
        first = given("--first-seed", None) or int(os.environ.get("MINIRAY_FIRST_SEED", 0))
        chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
        metafunc.parametrize("seeds", chunks, ids=lambda chunk: f"{chunk.start}-{chunk.stop - 1}")


@pytest.fixture(autouse=True, scope="session")
def no_other_interpreters() -> Iterator[None]:
    """Or each failure would start three of them; `test_new_interpreters.py` has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(new_interpreters.INSIDE, "1")
        yield
