"""How frames lie in a byte stream: a five-byte header, then the payload.

    length of the payload, 4 bytes little-endian | kind, 1 byte | payload

- Only `DATA` carries messages; the other kinds make links (see `local.py`) and never leave the transports.
- A length above `miniray.transport.MAX_FRAME_BYTES` or an unknown kind is not a frame: whoever reads it closes that
  link, and only it.
- Nothing here unpickles or allocates by a peer's word alone: a payload is bytes until its reader says otherwise.
"""

from __future__ import annotations

from struct import Struct

from miniray.core.ids import PROCESS_ID_BYTES, ProcessId

HEADER = Struct("<IB")
HEADER_BYTES = HEADER.size
pack_header = HEADER.pack
unpack_header = HEADER.unpack_from

DATA = 0  # a message, opaque here
DIAL = 1  # process -> broker: peer, count of introductions that the sender has seen
INTRODUCE = 2  # broker -> process: peer; one descriptor travels with the frame
REFUSED = 3  # broker -> process: peer, reason
HELLO = 4  # first frame each way of an introduced link: the sender's id
LAST_KIND = HELLO

_SEEN = Struct("<Q")


class BadFrameError(Exception):
    """The peer sent what is no frame, or a frame that has no place here; says what."""


def frame(kind: int, payload: bytes) -> bytes:
    return pack_header(len(payload), kind) + payload


def dial(peer: ProcessId, seen: int) -> bytes:
    return frame(DIAL, peer + _SEEN.pack(seen))


def introduce(peer: ProcessId) -> bytes:
    return frame(INTRODUCE, peer)


def refused(peer: ProcessId, reason: str) -> bytes:
    return frame(REFUSED, peer + reason.encode())


def hello(me: ProcessId) -> bytes:
    return frame(HELLO, me)


def read_dial(payload: bytes) -> tuple[ProcessId, int]:
    if len(payload) != PROCESS_ID_BYTES + _SEEN.size:
        raise BadFrameError("a malformed dial")
    (seen,) = _SEEN.unpack_from(payload, PROCESS_ID_BYTES)
    return ProcessId(payload[:PROCESS_ID_BYTES]), seen


def read_peer(payload: bytes) -> ProcessId:
    """The id that an introduce or a hello names."""
    if len(payload) != PROCESS_ID_BYTES:
        raise BadFrameError("a malformed id")
    return ProcessId(payload)


def read_refused(payload: bytes) -> tuple[ProcessId, str]:
    if len(payload) < PROCESS_ID_BYTES:
        raise BadFrameError("a malformed refusal")
    return ProcessId(payload[:PROCESS_ID_BYTES]), payload[PROCESS_ID_BYTES:].decode("utf-8", "replace")
