"""Which seeds: MINIRAY_SEEDS (how many) and MINIRAY_FIRST_SEED, or the options of these names.

    python -m pytest -q tests/sim --seeds 10000 --first-seed 0
"""

from __future__ import annotations

import os

import pytest

from miniray.testing.seeds import prepare

SEEDS = 2000
CHUNK = 100


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=int(os.environ.get("MINIRAY_SEEDS", SEEDS)))
    parser.addoption("--first-seed", type=int, default=int(os.environ.get("MINIRAY_FIRST_SEED", 0)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        count, first = metafunc.config.getoption("--seeds"), metafunc.config.getoption("--first-seed")
        chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
        metafunc.parametrize("seeds", chunks, ids=lambda chunk: f"{chunk.start}-{chunk.stop - 1}")


@pytest.fixture(autouse=True, scope="session")
def prepared() -> None:
    prepare()
