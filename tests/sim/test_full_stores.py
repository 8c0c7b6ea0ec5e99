"""Stores with room for a few large values: programs go on, or end with the error that says so, and nothing is left."""

from __future__ import annotations

from collections import Counter

import pytest

from miniray.testing import programs, seeds


def test_random_programs_fill_their_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every checker looks on, as in any other run."""
    met: Counter[int] = Counter()
    classify = programs.classify

    def counted(error: BaseException) -> int:
        kind = classify(error)
        met[kind] += 1
        return kind

    monkeypatch.setattr(programs, "classify", counted)
    monkeypatch.setattr(seeds, "_SMALL_ONE_IN", 1)
    for seed in range(40):
        seeds.run_seed(seed)
    assert met[programs.FULL] > 10


def test_an_error_of_a_full_store_is_legal_in_a_small_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle of all other runs is as strict as it was."""
    monkeypatch.setattr(seeds, "_SMALL_ONE_IN", 1)
    monkeypatch.setattr(seeds, "ARENA_BYTES", 1 << 20)  # which counts as large
    monkeypatch.setattr("miniray.testing.cluster.ARENA_BYTES", 1)
    failed = 0
    for seed in range(60):
        try:
            seeds.run_seed(seed)
        except seeds.FailedSeed as error:
            assert "no room" in str(error) or "something before it has failed" in str(error)
            failed += 1
    assert failed
