"""Resources: what a task asks of a node, in whole ten-thousandths.

A quantity is an int of 1/10,000 (Ray's granularity), so that 0.1 + 0.2 is 0.3 and sums return exactly to
where they began. A demand is a tuple of (name, quantity) sorted by name: it hashes, compares and encodes.
"""

from __future__ import annotations

from collections.abc import Mapping

UNIT = 10_000

Demand = tuple[tuple[str, int], ...]


def demand(quantities: Mapping[str, float]) -> Demand:
    """`{"CPU": 0.5}` as a demand; zeros are left out."""
    return tuple(sorted((name, whole) for name, value in quantities.items() if (whole := round(value * UNIT))))


class ResourcePool:
    """What a node has in all, and what is free of it.

    Free may fall below zero: a worker that stops blocking takes its CPU again without waiting (PROTOCOL.md
    5.5: short oversubscription rather than deadlock); nothing is granted until the debt is paid.
    """

    def __init__(self, total: Demand) -> None:
        self.total: dict[str, int] = dict(total)
        self.free: dict[str, int] = dict(total)

    def could_ever_fit(self, wanted: Demand) -> bool:
        return all(self.total.get(name, 0) >= quantity for name, quantity in wanted)

    def fits(self, wanted: Demand) -> bool:
        return all(self.free.get(name, 0) >= quantity for name, quantity in wanted)

    def take(self, wanted: Demand) -> None:
        for name, quantity in wanted:
            self.free[name] -= quantity

    def give(self, wanted: Demand) -> None:
        for name, quantity in wanted:
            self.free[name] += quantity


def cpu_part(wanted: Demand) -> Demand:
    """What a blocked worker gives back: its CPU; not its memory, not its GPU."""
    return tuple(item for item in wanted if item[0] == "CPU")
