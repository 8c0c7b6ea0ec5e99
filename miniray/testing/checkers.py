"""Truths about a whole simulated cluster (PROTOCOL.md section 9); those of one machine are in its `check()`."""

from __future__ import annotations

from miniray.core.ids import ObjectId, owner_of, show
from miniray.core.task_spec import Stored
from miniray.testing.cluster import SimulatedCluster
from miniray.testing.simulated import SimulatedProcess


def assert_quiet(cluster: SimulatedCluster) -> None:
    """Invariant 2: the driver holds nothing, so nothing is left anywhere: no entry, hold, lease, place or wait.

    Invariant 5 follows: the node's own check is that free + granted = total + lent, and nothing is granted.
    """
    left = []
    for home in cluster.processes.values():
        if home.alive:
            figures = _figures(home)
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


def what_is_held_lives(cluster: SimulatedCluster) -> None:
    """Invariant 1: a ref that some process holds is known to its living owner, also while it is handed over.

    When somebody has died, a hand-off may have broken with it; then `get` tells (the programs' oracle checks that).
    """
    if cluster.disturbed:
        return
    owners = {me: home.process.owner for me, home in cluster.processes.items() if home.process is not None}
    for home in cluster.processes.values():
        if home.alive and home.process is not None:
            for object_id in home.process.owner.held_of_others():
                owner = owners.get(owner_of(object_id))
                known = owner is None or owner.knows(object_id)
                assert known, f"{home.name} holds {show(object_id)}, which its owner has freed"


def places_are_what_they_were(cluster: SimulatedCluster) -> None:
    """Invariant 10: what a living process may read still lies where its owner said, and nothing else does."""
    for home in cluster.processes.values():
        if home.alive and home.process is not None:
            for object_id, value in home.process.values.items():
                if isinstance(value, Stored):
                    _lies_there(cluster, home, object_id, value)


def _lies_there(cluster: SimulatedCluster, home: SimulatedProcess, object_id: ObjectId, value: Stored) -> None:
    holder = cluster.processes.get(value.place.holder)
    if holder is None or not holder.alive or holder.process is None or holder.process.store is None:
        return  # then the node keeps the place, by the holder's ledger
    lying = holder.process.store.places_owned_by(owner_of(object_id))
    assert (object_id, value.place) in lying, f"{home.name} may read {show(object_id)}, whose place is free"
