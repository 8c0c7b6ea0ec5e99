"""The checkers can fail: each wrong version of the protocol is caught by some seed (`tests/sim/mutants/`)."""

from __future__ import annotations

import re
import warnings

import pytest

from miniray.testing.seeds import FailedSeed, run_seed
from tests.sim.mutants import MOST_SEEDS
from tests.sim.mutants.search import catch, first_then_all, hints, load_all

LEAST_MUTANTS = 30


@pytest.mark.filterwarnings("default:another seed")  # it is to be read, and fails nothing
@pytest.mark.parametrize("name", load_all())
def test_it_is_caught(name: str) -> None:
    failed = catch(load_all()[name], first_then_all(name))
    assert failed is not None, f"{name} survives {MOST_SEEDS} seeds: mend a checker, or what the programs do"
    if failed.seed != hints().get(name):  # it holds all the same, and has cost up to MOST_SEEDS seeds
        warnings.warn(f"another seed than its hint catches it; python -m tests.sim.mutants {name}", stacklevel=1)


def test_there_are_enough() -> None:
    assert len(load_all()) >= LEAST_MUTANTS
    assert not hints().keys() - load_all().keys(), "hints of mutants that are gone"


def test_a_mutant_leaves_nothing_behind() -> None:
    """What catches it passes when it is switched off again."""
    mutant = load_all()["a_holder_is_not_registered"]
    failed = catch(mutant, range(MOST_SEEDS))
    assert isinstance(failed, FailedSeed)
    run_seed(failed.seed)


def test_a_broken_invariant_brings_the_story_of_its_object() -> None:
    failed = catch(load_all()["a_push_is_run_whatever_its_lease"], range(MOST_SEEDS))
    assert failed is not None
    told = str(failed)
    assert "invariant 8 is broken" in told and "the story of p" in told
    story = told.split("the story of ")[1]
    assert "Submitted(" in story and "RunTask(" in story
    assert re.search(r"^ *[\d.]+ +\d+ +\d+ +worker p", story, re.MULTILINE), "each step stands beside its cause"
