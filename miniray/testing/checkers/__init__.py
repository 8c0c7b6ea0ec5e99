"""Checkers: the invariants of PROTOCOL.md section 9, a file each, over every step of a simulated cluster.

    watch = Watch(cluster)       # from now on it sees every step
    cluster.run(program)
    cluster.settle()
    watch.at_end()

What one machine can see alone is in its `check()`. Of the thirteen, and of one that came with forks:

| | invariant | where |
|---|---|---|
| 1 | what is reachable is not freed | `held.py` |
| 2 | nothing is left at quiescence | `quiet.py` |
| 3 | every wait ends | `SimulatedCluster` (nothing is left to happen; no end), `ends.py` |
| 4 | one owner, one outcome | `outcomes.py` |
| 5 | resources | `LeaseQueue.check`, and from the messages alone `leases.py` |
| 6 | calls of one caller start in order | `call_order.py` |
| 7 | max_retries=0 is started at most once; what has not started pays nothing | `starts.py` |
| 8 | no message of the dead changes a table | `stale.py`; of dead nodes `fences.py`, `registry.py` |
| 9 | freed ids do not come back | `freed_ids.py` |
| 10 | no place is reused while it is lent | `places.py` |
| 11 | limits | `limits.py` |
| 12 | a worker runs one task at a time | `one_task.py` |
| 13 | same seed, same trace | `tests/sim/test_replay.py`: it takes two runs |
| 14 | what was forked for one actor serves that actor alone, and ends with it | `forks.py` |

That results are right, and every error legal, is the programs' oracle (`programs.py`). `spread.py` counts how far a
run has used its nodes.
"""

from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.checkers.watch import Watch

__all__ = ["BrokenInvariant", "Checker", "Watch"]
