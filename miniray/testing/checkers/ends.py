"""Invariant 3: every wait ends; and after the faults have stopped, all ends in bounded time.

That a wait has no end shows by itself: nothing is left to happen (`SimulatedCluster`). Tasks that wait behind one that
waits are for `Worker.check`. Here is the liveness phase: the faults of a run stop at some step (`Faults.heal_after`),
and from then on nothing is excused.
"""

from __future__ import annotations

from miniray.testing.checkers.checker import BrokenInvariant, Checker

HEALED_SECONDS = 60.0  # of virtual time: more than any program sleeps, and than any timeout of the protocol


class Ends(Checker):
    def look(self) -> None:
        healed_at = self.cluster.healed_at
        if healed_at is not None and self.cluster.timeline.now > healed_at + HEALED_SECONDS:
            raise BrokenInvariant(3, f"no fault for {HEALED_SECONDS:g} seconds, and the run has not come to its end")
