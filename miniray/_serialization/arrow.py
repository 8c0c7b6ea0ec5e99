"""What a program without pickle can read of a stored object.

One Arrow table, batch or array is stored as an Arrow IPC stream, one plain NumPy array as its elements; the object's
descriptor (JSON, see `values.py`) says which, and the one buffer of the object is the thing itself:

    {"kind": "arrow-stream", "of": "Table" | "RecordBatch" | "Array" | "ChunkedArray"}
        `pyarrow.ipc.open_stream(buffer).read_all()`; for arrays, the table's only column
    {"kind": "numpy", "dtype": "<f8", "shape": [1000, 3], "order": "C" | "F"}
        `pyarrow.Array.from_buffers(pyarrow.float64(), 3000, [None, buffer])`

- Reading copies nothing: Arrow's buffers are slices of the stream, 8 bytes aligned in it as its writer does.
- A stream costs one copy at the put more than pickle's out-of-band buffers, and drops what a slice does not show
  (pyarrow's pickle of ten rows of a large table carries the whole table).
- Deeper inside other values they travel as pickle has it: out of band, without copies, for us alone.
- Neither library is imported here: a value of theirs exists only when they are loaded.
"""

from __future__ import annotations

import sys
from pickle import PickleBuffer
from typing import Any

from miniray._serialization.pickles import IN_BAND_BYTES

_PLAIN_NUMPY = "biufcmM"  # kinds of dtype whose elements are plain memory


class _Stream:
    """Stands for an Arrow value while it is pickled; read back as that value."""

    __slots__ = ("kind", "stream")

    def __init__(self, kind: str, stream: Any) -> None:
        self.kind = kind
        self.stream = stream

    def __reduce_ex__(self, protocol: Any) -> Any:
        return read_stream, (self.kind, PickleBuffer(self.stream))


def prepare(value: Any) -> tuple[Any, bytes]:
    """What to pickle instead of `value`, and the descriptor of its only buffer (empty: none)."""
    module = type(value).__module__
    if module == "numpy":
        return _prepare_numpy(value)
    if module == "pyarrow.lib":
        return _prepare_arrow(value)
    return value, b""


def _prepare_numpy(value: Any) -> tuple[Any, bytes]:
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray or value.nbytes < IN_BAND_BYTES or value.dtype.hasobject:
        return value, b""
    flags = value.flags
    if not flags.c_contiguous and not flags.f_contiguous:
        value = numpy.ascontiguousarray(value)  # NumPy would copy it into the stream instead, where no view can be
        flags = value.flags
    if value.dtype.kind not in _PLAIN_NUMPY:
        return value, b""
    order = "C" if flags.c_contiguous else "F"
    about = {"kind": "numpy", "dtype": value.dtype.str, "shape": list(value.shape), "order": order}
    return value, _as_json(about)


def _prepare_arrow(value: Any) -> tuple[Any, bytes]:
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is None:
        return value, b""
    kinds: dict[str, Any] = {
        "Table": pyarrow.Table, "RecordBatch": pyarrow.RecordBatch, "ChunkedArray": pyarrow.ChunkedArray,
        "Array": pyarrow.Array,
    }
    kind = next((name for name, cls in kinds.items() if isinstance(value, cls)), "")
    if not kind or value.nbytes < IN_BAND_BYTES:
        return value, b""
    try:
        stream = _write_stream(pyarrow, kind, value)
    except (pyarrow.ArrowException, NotImplementedError):  # a type that IPC does not know: pickle may
        return value, b""
    return _Stream(kind, stream), _as_json({"kind": "arrow-stream", "of": kind})


def _write_stream(pyarrow: Any, kind: str, value: Any) -> Any:
    if kind == "Array":
        value = pyarrow.RecordBatch.from_arrays([value], names=[""])
    elif kind == "ChunkedArray":
        value = pyarrow.Table.from_arrays([value], names=[""])
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return sink.getvalue()


def _as_json(about: dict[str, Any]) -> bytes:
    import json  # 3 ms, for those who store arrays

    return json.dumps(about).encode()


def read_stream(kind: str, buffer: Any) -> Any:
    import pyarrow
    import pyarrow.ipc

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(buffer)) as reader:
        if kind == "Table":
            return reader.read_all()
        if kind == "ChunkedArray":
            return reader.read_all().column(0)
        batch = reader.read_next_batch()
    return batch if kind == "RecordBatch" else batch.column(0)
