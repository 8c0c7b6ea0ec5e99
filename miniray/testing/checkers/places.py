"""Invariant 10: what a living process may read lies on its node, where its owner said, and nothing else does.

After the holder of an extent has died the node keeps its places, by the holder's ledger: while somebody may read one,
its extent is given to nobody else.
"""

from __future__ import annotations

from miniray.core.ids import ObjectId, node_of, owner_of, same_node, show
from miniray.core.task_spec import Stored
from miniray.testing.checkers.checker import BrokenInvariant, Checker
from miniray.testing.simulated import SimulatedProcess


class Places(Checker):
    def look(self) -> None:
        for home in self.cluster.processes.values():
            if home.alive and home.process is not None:
                for object_id, value in home.process.values.items():
                    if isinstance(value, Stored):
                        self._lies_there(home, object_id, value)

    def _lies_there(self, home: SimulatedProcess, object_id: ObjectId, value: Stored) -> None:
        place = value.place
        if not same_node(place.holder, home.me):
            return  # it reads a copy of its own node only
        holder = self.cluster.processes.get(place.holder)
        if holder is None or not holder.alive or holder.process is None or holder.process.store is None:
            for offset, size_bytes in self.cluster.hosts[node_of(place.holder)].allocator.extents_of(place.holder):
                if offset <= place.offset < offset + size_bytes:
                    return
        elif (object_id, place) in holder.process.store.places_owned_by(owner_of(object_id)):
            return
        raise BrokenInvariant(10, f"{home.name} may read {show(object_id)}, whose place is free", object_id)
