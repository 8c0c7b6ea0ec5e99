"""Random small programs under random faults: every get ends, every result is right, and nothing is left."""

from __future__ import annotations

import pytest

from miniray.testing.seeds import FailedSeed, run_seed


def test_seeds(seeds: range) -> None:
    failed = []
    for seed in seeds:
        try:
            run_seed(seed)
        except FailedSeed as error:
            failed.append(str(error))
    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)
