"""Records: everything that crosses a border is data (DESIGN.md, law 2).

- A `Record` is frozen and compares by value. Events, effects, messages and failures are records.
- A `Row` is one mutable line of one table inside one machine; it never leaves that machine.
- msgspec makes both: an eight-field record costs 71 ns against 881 ns as a frozen dataclass (measured), and
  the same classes encode themselves. This is the only file of core that imports it; `wire.py` gets its
  encoder and decoder here.
- `gc=False`: records form no cycles, and a driver with 100,000 pending tasks must not pay for the collector
  walking them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value: immutable, compared by content."""


class Event(Record, frozen=True):
    """Something that happened; named in the past tense."""


class Effect(Record, frozen=True):
    """Something to do; named in the imperative."""


class Message(Record, frozen=True, tag=True):
    """What one role says to another; its wire tag is its class name, so that a dump of a frame can be read."""


class Row(msgspec.Struct, gc=False, eq=False):
    """One mutable line of a table; compared by identity, so that looking for one in a queue stays cheap."""


def make_encoder() -> Callable[[Any], bytes]:
    return msgspec.msgpack.Encoder().encode


def make_decoder(of: Any) -> Callable[[bytes | memoryview], Any]:
    """A decoder of the type `of`; it raises `DecodeError` (a ValueError) for anything else."""
    return msgspec.msgpack.Decoder(of).decode


replace = msgspec.structs.replace  # a record with some fields changed
DecodeError = msgspec.DecodeError  # ValidationError is one, too
EncodeError = (msgspec.EncodeError, TypeError, OverflowError)
