"""Invariant 2: when the driver holds nothing, nothing is left anywhere: no entry, hold, lease, place or wait.

Anywhere is wherever anything may happen yet. A node that was cut off for ever has ended itself by then.
"""

from __future__ import annotations

from miniray.testing.checkers.checker import Checker
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


class Quiet(Checker):
    def at_end(self) -> None:
        assert_quiet(self.cluster)


def assert_quiet(cluster: SimulatedCluster, *, but: tuple[str, ...] = ()) -> None:
    """`but` names figures that may stay."""
    left = []
    for home in cluster.processes.values():
        if home.may_act:
            figures = {name: figure for name, figure in _figures(home).items() if name not in but}
            if figures:
                left.append(f"  {home.name}: {figures}")
    for host in cluster.hosts.values():
        host.allocator.check()
    assert not left, "left at quiescence:\n" + "\n".join(left)


def _figures(home: SimulatedProcess) -> dict[str, int]:
    home.loop.check()
    figures = {name: figure for name, figure in home.loop.statistics().items() if figure}
    if home.process is not None and home.process.store is not None:
        home.process.store.check()
        places = home.process.store.statistics()["live_places"]
        if places:
            figures["live_places"] = places
    return figures
