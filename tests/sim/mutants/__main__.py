"""The full search, in two processes: which seed is the first to catch each mutant (see the package's head)."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from time import monotonic

from tests.sim.mutants import MOST_SEEDS
from tests.sim.mutants.search import HINTS, catch, hints, load_all


def _search(name: str) -> tuple[str, int | None, str]:
    began = monotonic()
    failed = catch(load_all()[name], range(MOST_SEEDS))
    seconds = f"{monotonic() - began:.1f} s"
    if failed is None:
        return name, None, f"SURVIVES ({seconds})"
    return name, failed.seed, f"({seconds}) {' '.join(str(failed).split())[:400]}"


def main(names: list[str]) -> int:
    wanted = names or list(load_all())
    found = hints()
    survived = 0
    with ProcessPoolExecutor(2) as pool:
        for name, seed, said in pool.map(_search, wanted):
            print(f"{name}: {said}", flush=True)
            found.pop(name, None)
            if seed is None:
                survived += 1
            else:
                found[name] = seed
    known = {name: found[name] for name in load_all() if name in found}
    HINTS.write_text(json.dumps(known, indent=1) + "\n")
    print(f"{len(wanted)} mutants, {survived} survive {MOST_SEEDS} seeds")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
