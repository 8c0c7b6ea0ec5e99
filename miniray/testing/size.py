"""What a simulated cluster is made of. The words are those of `miniray.init`; each node has as much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miniray._api.options import demand_of
from miniray._api.session import MIN_STORE_BYTES, check_bytes
from miniray.core.ids import CONTROL_INDEX
from miniray.core.owner.lineage import MAX_LINEAGE_BYTES
from miniray.core.record import Record
from miniray.core.resources import UNIT
from miniray.testing.arguments import check_whole

STORE_BYTES = 1 << 30  # of addresses: memory is taken where values lie
MEMORY_BYTES = (1 << 40) - 1  # as much as a task can ask for: none is real, so it is never short


class Size(Record, frozen=True):
    """As a user has said it, not looked at yet."""

    num_cpus: Any = 2
    nodes: Any = 1
    num_gpus: Any = 0
    object_store_memory: Any = None
    resources: Any = None
    max_lineage_bytes: Any = MAX_LINEAGE_BYTES

    def check(self, word: str) -> None:
        """
        Raises:
            TypeError, ValueError: something is wrong; `word` is who was told so.
        """
        check_whole("num_cpus", self.num_cpus, 0)
        check_whole("nodes", self.nodes, 1)
        if self.nodes > CONTROL_INDEX:
            raise ValueError(f"nodes must be {CONTROL_INDEX} at most, not {self.nodes}")
        check_bytes("object_store_memory", self.object_store_memory, MIN_STORE_BYTES)
        check_whole("max_lineage_bytes", self.max_lineage_bytes, 0)
        self.total(word)

    def total(self, word: str = "simulate") -> Mapping[str, float]:
        """The resources of one node."""
        asked = {name: getattr(self, name) for name in ("num_cpus", "num_gpus", "resources")}
        return {name: quantity / UNIT for name, quantity in demand_of(word, {**asked, "memory": MEMORY_BYTES})}

    @property
    def store_bytes(self) -> int:
        """Of one node."""
        given: int | None = self.object_store_memory
        return STORE_BYTES if given is None else given

    def words(self) -> dict[str, Any]:
        """The arguments of `simulate` that say it; those that say what is so anyway are left out."""
        usual = {"num_cpus": self.num_cpus, "nodes": self.nodes}
        new = {name: getattr(self, name) for name in self.__struct_fields__}
        more = {name: value for name, value in new.items() if name not in usual and value != getattr(_USUAL, name)}
        return {**usual, **{name: dict(value) if name == "resources" else value for name, value in more.items()}}

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.words().items())


_USUAL = Size()
