"""Looking for the first seed that catches a mutant."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from miniray.testing.seeds import FailedSeed, run_seed
from tests.sim.mutants import ALL, MOST_SEEDS, Mutant

FAMILIES = ("counting", "leases", "tasks", "lives", "nodes", "copies", "sessions", "control", "forks")
HINTS = Path(__file__).with_name("first_seeds.json")


def load_all() -> dict[str, Mutant]:
    for family in FAMILIES:
        import_module(f"tests.sim.mutants.{family}")
    return ALL


def hints() -> dict[str, int]:
    return dict(json.loads(HINTS.read_text())) if HINTS.exists() else {}


def catch(mutant: Mutant, seeds: Iterable[int]) -> FailedSeed | None:
    """What the first seed that fails says; None: the mutant survives them all."""
    with mutant.on():
        for seed in seeds:
            try:
                run_seed(seed, nodes=mutant.nodes, tasks=mutant.tasks)
            except FailedSeed as failed:
                assert not _is_its_own(failed), f"{mutant.name} does not fit the protocol any more: {failed}"
                return failed
    return None


def _is_its_own(failed: FailedSeed) -> bool:
    """Whether the code of the mutant raised it: it names something that is not there."""
    error: BaseException | None = failed
    while error is not None:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        if last is not None and Path(last.tb_frame.f_code.co_filename).parent == Path(__file__).parent:
            if isinstance(error, AttributeError | NameError | TypeError | ImportError):
                return True
        error = error.__cause__
    return False


def first_then_all(name: str) -> list[int]:
    """The hint, then every seed that counts."""
    hint = hints().get(name)
    return ([] if hint is None else [hint]) + list(range(MOST_SEEDS))
