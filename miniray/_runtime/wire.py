"""The one codec: messages to frames and back (DESIGN.md, law 3).

A frame is a msgpack array of messages, each an array that begins with its class name. Control messages are never
pickles: nothing is executed here. Whatever cannot be decoded is the peer's fault and becomes `BadMessageError`,
on which the loop breaks that link and no other.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from miniray.core import messages
from miniray.core.record import DecodeError, Message, make_decoder, make_encoder

_LOCAL = (
    messages.ArgumentsArrived,
    messages.ExecutionEnded,
    messages.CancelChildren,
    messages.AskDrained,
    messages.Drained,
)  # between the roles of one process
_WIRED = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message and kind not in _LOCAL
]

encode = make_encoder()
_decode = make_decoder(list[reduce(or_, _WIRED)])  # type: ignore[misc]


class BadMessageError(Exception):
    """A frame that is not a list of messages."""


def decode(frame: bytes | memoryview) -> list[Any]:
    try:
        messages: list[Any] = _decode(frame)
    except DecodeError as error:
        raise BadMessageError(str(error)) from error
    return messages
