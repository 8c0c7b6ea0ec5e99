"""What the driver tells every process of its session, and the runtime's own numbers, with their units."""

from __future__ import annotations

from miniray.core.owner.lineage import MAX_LINEAGE_BYTES
from miniray.core.record import Record, make_decoder, make_encoder
from miniray.core.resources import Demand

INLINE_BYTES = 100_000  # values of this size and more lie in the arena
SWITCH_SECONDS = 0.0005  # the interpreter's switch interval in workers: their background thread must get the GIL
MAX_WORKERS = 4000  # below the number of status words; each is a process
SHUTDOWN_GRACE_SECONDS = 0.25  # then processes are killed


class Config(Record, frozen=True):
    """What the driver tells every process of its session."""

    resources: Demand
    imports: tuple[str, ...]  # modules that every worker needs: the words of the API, and how refs are unpickled
    max_workers: int = MAX_WORKERS
    max_lineage_bytes: int = MAX_LINEAGE_BYTES  # of the specs that each process keeps so as to make lost values again


_encode = make_encoder()
_decode = make_decoder(Config)


def to_bytes(config: Config) -> bytes:
    return _encode(config)


def from_bytes(data: bytes) -> Config:
    config: Config = _decode(data)
    return config
