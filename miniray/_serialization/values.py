"""Values to bytes and back (DESIGN.md sections 5 and 6).

**Inline form.** A value without out-of-band buffers *is* its pickle: it starts with 0x80. Any other value has the
stored form, whose first byte is `M`.

**Stored form.** Little-endian; every buffer begins at a multiple of 64 bytes from the start of the object, as Arrow
asks for (the arena places objects on pages, so they are aligned in memory, too):

       0  8s   magic "MINIRAY1"
       8  u32  number of buffers         12  u32  0
      16  u64  offset of the pickle      24  u64  its length
      32  u64  offset of the descriptor  40  u64  its length (0: none)
      48  u64  size of the object        56  u64  0
      64  for each buffer: u64 offset, u64 size
          the descriptor, the pickle, padding, the buffers

The descriptor is JSON for programs that have no pickle; `arrow.py` says what it may hold.

**Views.** Buffers of a loaded value are views of the memory that it was loaded from, read-only unless asked
otherwise. At the bottom of each lies a `_Pinned`, a ctypes array laid over that memory which holds the caller's pin:
views of views keep it alive (an attribute of an ndarray subclass would be lost under `np.asarray(x)[1:]`). One
array type of absurd size serves all: a type for each size costs 20 us and feeds ctypes' cache.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from pickle import PickleBuffer, dumps, loads
from typing import Any

from miniray._serialization import arrow, pickles
from miniray._serialization.culprit import SerializationError, explain
from miniray._serialization.pickles import IN_BAND_BYTES, PROTOCOL, OutOfBandBytes
from miniray._serialization.strikes import raised_by_handler
from miniray.core.ids import ObjectId

ALIGNMENT_BYTES = 64
MAGIC = b"MINIRAY1"

_HEADER = struct.Struct("<8sIIQQQQQQ")
_ENTRY = struct.Struct("<QQ")
_PICKLE_START = 0x80
_READ_ONLY_BUFFER = b"\x97\x98"  # the opcodes NEXT_BUFFER, READONLY_BUFFER
_SCALARS = frozenset({int, str, float, bool, type(None)})  # plain pickle is always right for these
_BYTES_PICKLE = dumps(OutOfBandBytes(b""), PROTOCOL, buffer_callback=lambda buffer: None)


class Serialized:
    """A value as bytes: `data` is the pickle, `buffers` what left it, `refs` what it refers to (in order, once)."""

    __slots__ = ("buffers", "data", "descriptor", "refs")

    def __init__(
        self, data: bytes, buffers: list[memoryview], refs: tuple[ObjectId, ...] = (), descriptor: bytes = b""
    ) -> None:
        self.data = data
        self.buffers = buffers
        self.refs = refs
        self.descriptor = descriptor

    @property
    def size_bytes(self) -> int:
        return len(self.data) + sum(map(len, self.buffers))

    @property
    def stored_size_bytes(self) -> int:
        end = _HEADER.size + _ENTRY.size * len(self.buffers) + len(self.descriptor) + len(self.data)
        for buffer in self.buffers:
            end = _aligned(end) + len(buffer)
        return end

    def to_bytes(self) -> bytes:
        """The inline form."""
        return b"".join(self.pieces()) if self.buffers else self.data

    def pieces(self) -> list[bytes | memoryview]:
        """The stored form in the order of its bytes, for `pwritev`."""
        descriptor_at = _HEADER.size + _ENTRY.size * len(self.buffers)
        pickle_at = descriptor_at + len(self.descriptor)
        end = pickle_at + len(self.data)
        table: list[bytes] = []
        body: list[bytes | memoryview] = []
        for buffer in self.buffers:
            start = _aligned(end)
            table.append(_ENTRY.pack(start, len(buffer)))
            body += (bytes(start - end), buffer)
            end = start + len(buffer)
        header = _HEADER.pack(
            MAGIC, len(self.buffers), 0, pickle_at, len(self.data), descriptor_at, len(self.descriptor), end, 0
        )
        return [header, *table, self.descriptor, self.data, *body]


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def serialize(value: object, namespace: str = "", *, is_kept: bool = False) -> Serialized:
    """The value as bytes. Functions and classes by value share the globals of `namespace`. `is_kept`: it may be read
    more than once, as what is put may be.

    Raises:
        SerializationError: names the object that cannot be pickled, and the path to it.
    """
    kind = type(value)
    if kind in _SCALARS or (kind is tuple and _SCALARS.issuperset(map(type, value))):  # type: ignore[call-overload]
        return Serialized(dumps(value, PROTOCOL), [])
    if isinstance(value, bytes) and kind is bytes:
        if len(value) < IN_BAND_BYTES:
            return Serialized(dumps(value, PROTOCOL), [])
        return Serialized(_BYTES_PICKLE, [memoryview(value)])
    prepared, descriptor = arrow.prepare(value)
    done = _serialize(prepared, namespace, "value", is_kept)
    if descriptor and len(done.buffers) == 1:
        done.descriptor = descriptor
    return done


def serialize_plain(value: object) -> bytes | None:
    """The inline form of a number, a string, a boolean, None or a tuple of these, as most small results are; None for
    all else."""
    kind = type(value)
    if kind in _SCALARS or (kind is tuple and _SCALARS.issuperset(map(type, value))):  # type: ignore[call-overload]
        return dumps(value, PROTOCOL)
    return None


def serialize_call(args: tuple[Any, ...], kwargs: dict[str, Any], namespace: str = "") -> bytes | Serialized:
    """The arguments of a call, as `deserialize` gives them back: (args, kwargs).

    Plain bytes when they are numbers, strings, booleans, None and slots, as most are: nothing else is made then.

    Raises:
        SerializationError: as `serialize`; the path begins with the argument's position or name.
    """
    if _PLAIN.issuperset(map(type, args)) and (not kwargs or _PLAIN.issuperset(map(type, kwargs.values()))):
        return dumps((args, kwargs), PROTOCOL)
    prepared = tuple([_out_of_band(value) for value in args])
    named = {name: _out_of_band(value) for name, value in kwargs.items()} if kwargs else kwargs
    return _serialize((prepared, named), namespace, "call")


def _out_of_band(value: Any) -> Any:
    if type(value) is bytes:
        return OutOfBandBytes(value) if len(value) >= IN_BAND_BYTES else value
    return value


def _serialize(value: Any, namespace: str, what: str, is_kept: bool = False) -> Serialized:
    buffers: list[memoryview] = []
    try:
        if not pickles.some_module_goes_by_value():
            dumped = pickles.dumps(value, taker(buffers, IN_BAND_BYTES), is_kept=is_kept)
            if dumped is not None:
                data, refs = dumped
                return Serialized(data, buffers, refs)
    except RecursionError as error:
        raise SerializationError(what, [], error) from error
    except Exception as error:  # whatever it is, the other pickler may do it, and its error is then the better one
        if raised_by_handler(error):
            raise
    return serialize_by_value(value, namespace, what, is_kept=is_kept)


def serialize_by_value(
    value: Any, namespace: str, what: str, *, is_kept: bool = False, **how: Any
) -> Serialized:
    """`serialize` for what plain pickle cannot do; `how` is for `functions.py`."""
    kept: list[memoryview] = []
    try:
        data, refs = pickles.dumps_by_value(value, namespace, taker(kept, IN_BAND_BYTES), is_kept=is_kept, **how)
    except Exception as error:
        if raised_by_handler(error):
            raise
        raise explain(value, what, error) from error
    return Serialized(data, kept, refs)


def taker(buffers: list[memoryview], in_band_bytes: int) -> Callable[[PickleBuffer], bool]:
    """What a pickler asks of each buffer; those that leave the stream are found in `buffers`."""

    def take(buffer: PickleBuffer) -> bool:
        """Whether it stays in the stream. There a read-only one would stay read-only."""
        raw = buffer.raw()
        if len(raw) < in_band_bytes and not raw.readonly:
            return True
        buffers.append(raw)
        return False

    return take


# ---- back ----------------------------------------------------------------------------------------------


def deserialize(data: bytes | memoryview, pin: object | None = None, writable: bool = False) -> Any:
    """The value that `data` holds in its inline or stored form.

    Views into `data` keep `pin` alive, and are read-only; with `writable` they may be changed: `data` is then a
    private mapping of the caller's, or gets copied when it cannot be written. Unpickling runs users' code and raises
    whatever it raises.

    Raises:
        ValueError: `data` is neither form.
    """
    if data[0] == _PICKLE_START:
        return loads(data)
    if data[:8] != MAGIC:
        raise ValueError(f"not an object of ours: it begins with {bytes(data[:8])!r}")
    view = memoryview(data)
    _, count, _, pickle_at, pickle_size, *_ = _HEADER.unpack_from(view)
    stream = view[pickle_at : pickle_at + pickle_size]
    if not count:
        return loads(stream)
    base = view if pin is None else _pinned(view, pin)
    if not writable:
        base = base.toreadonly()
    places = [_ENTRY.unpack_from(view, _HEADER.size + _ENTRY.size * index) for index in range(count)]
    buffers: list[Any] = [base[offset : offset + size] for offset, size in places]
    if writable:
        if view.readonly:
            buffers = [memoryview(bytearray(buffer)) for buffer in buffers]
        if _READ_ONLY_BUFFER in bytes(stream):
            return loads(without_read_only(bytes(stream)), buffers=buffers)
    return loads(stream, buffers=buffers)


def without_read_only(stream: bytes) -> bytes:
    """The pickle with buffers of read-only arrays loaded as writable ones: they are the caller's own copies.

    What `get` gave is read-only, and may be passed to a function under `Pool`, which may change its arguments. The
    opcode is cut out, and zeros after the end keep the lengths of frames within the data.
    """
    from pickletools import genops

    cuts = [at for opcode, _, at in genops(stream) if opcode.name == "READONLY_BUFFER" and at is not None]
    ends = [*cuts, len(stream)]
    starts = [0, *(at + 1 for at in cuts)]
    parts = [stream[start:end] for start, end in zip(starts, ends, strict=True)]
    return b"".join([*parts, bytes(len(cuts))])


class _Pinned(ctypes.c_ubyte * (1 << 46)):  # type: ignore[misc]  # only its address is used, never its length
    pin: object
    source: memoryview


class _Buffer(ctypes.Structure):
    """`Py_buffer`, of which only the first field is read."""

    _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_byte * 128))


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.c_void_p,)
_release_buffer.restype = None


def _pinned(view: memoryview, pin: object) -> memoryview:
    """The same memory; whatever views it holds `pin`. 2.5 us."""
    if not view.nbytes:
        return view
    raw = _Buffer()
    where = ctypes.addressof(raw)
    _get_buffer(view, where, 0 if view.readonly else 1)
    address = raw.address
    _release_buffer(where)
    bottom = _Pinned.from_address(address)
    bottom.pin = pin
    bottom.source = view  # the mapping itself: closing it while views live fails, instead of leaving them dangling
    return PickleBuffer(memoryview(bottom)).raw()[: view.nbytes]


# ---- arguments that are refs -----------------------------------------------------------------------------


class Slot:
    """Stands in an argument list for the value of a ref; `fill_slots` replaces it before the call."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[type[Slot], tuple[int]]:
        return Slot, (self.index,)


_PLAIN = _SCALARS | {Slot}


def fill_slots(
    args: tuple[Any, ...], kwargs: dict[str, Any], values: Sequence[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with each top-level Slot replaced by its value."""
    filled = tuple([values[value.index] if type(value) is Slot else value for value in args])
    return filled, {name: values[value.index] if type(value) is Slot else value for name, value in kwargs.items()}


__all__ = [
    "SerializationError", "Serialized", "Slot", "deserialize", "fill_slots", "serialize", "serialize_by_value",
    "serialize_call", "serialize_plain", "taker", "without_read_only",
]
