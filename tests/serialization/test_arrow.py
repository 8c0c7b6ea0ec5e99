"""What a program with nothing but pyarrow can read of a stored object."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import weakref

import numpy as np
import pyarrow as pa
import pytest

from miniray._serialization.values import deserialize, serialize


class Pin:
    pass


OUTSIDER = """
    import json, struct, sys
    import pyarrow as pa, pyarrow.ipc
    assert "miniray" not in sys.modules
    whole = pa.memory_map(sys.argv[1]).read_buffer()
    magic, count, _, _, _, at, size, total, _ = struct.unpack_from("<8sIIQQQQQQ", whole)
    offset, length = struct.unpack_from("<QQ", whole, 64)
    about = json.loads(whole[at : at + size].to_pybytes())
    buffer = whole.slice(offset, length)
    assert magic == b"MINIRAY1" and count == 1 and buffer.address % 64 == 0
    if about["kind"] == "numpy":
        assert about["shape"] == [50, 40] and about["order"] == "C" and about["dtype"] == "<f8"
        array = pa.Array.from_buffers(pa.float64(), 2000, [None, buffer])
        assert array.buffers()[1].address == buffer.address
        print(array.to_pylist()[:3])
    else:
        table = pa.ipc.open_stream(buffer).read_all()
        print(about["of"], table.num_rows, table.column(0).to_pylist()[:3])
"""


def outsider(value: object, tmp_path) -> str:
    done = serialize(value)
    place = bytearray().join(done.pieces())
    file = tmp_path / "object"
    file.write_bytes(place)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OUTSIDER), str(file)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_an_outsider_reads_arrays_and_tables(tmp_path) -> None:
    assert outsider(np.arange(2000.0).reshape(50, 40), tmp_path) == "[0.0, 1.0, 2.0]"
    table = pa.table({"n": range(2000), "s": [str(i) for i in range(2000)]})
    assert outsider(table, tmp_path) == "Table 2000 [0, 1, 2]"
    assert outsider(table.to_batches()[0], tmp_path) == "RecordBatch 2000 [0, 1, 2]"
    assert outsider(pa.array(range(2000)), tmp_path) == "Array 2000 [0, 1, 2]"


@pytest.mark.parametrize(
    "value",
    [
        pa.table({"n": range(2000), "s": [str(i) for i in range(2000)]}),
        pa.concat_tables([pa.table({"n": range(1000)}), pa.table({"n": range(1000)})]),
        pa.table({"n": range(100_000)}).slice(10, 2000),
        pa.record_batch({"n": list(range(2000))}),
        pa.array([None, 1.5] * 2000),
        pa.array(["a", "b"] * 4000).dictionary_encode(),
        pa.chunked_array([list(range(1000)), list(range(1000))]),
        pa.array([[1, 2], None, [3]] * 1000),
        pa.table({"n": [1]}),
        pa.table({"n": pa.array([], pa.int64())}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trip_without_copies(value) -> None:
    done = serialize(value)
    place = bytearray().join(done.pieces())
    pin = Pin()
    alive = weakref.ref(pin)
    again = deserialize(memoryview(place), pin)
    del pin
    again.validate(full=True)
    assert type(again) is type(value) and again.equals(value)
    if done.buffers:
        start = np.frombuffer(place, np.uint8).ctypes.data
        column = again.column(0) if hasattr(again, "column") else again
        chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        assert start <= chunk.buffers()[1].address < start + len(place)
        part = again[5:10]
        del again, column, chunk
        gc.collect()
        assert alive() is not None
        del part
        gc.collect()
    else:
        del again
        gc.collect()
    assert alive() is None


def test_a_slice_does_not_carry_its_table() -> None:
    assert serialize(pa.table({"n": range(100_000)}).slice(10, 1000)).size_bytes < 20_000


def test_tables_inside_other_values_are_zero_copy_too() -> None:
    value = {"t": pa.table({"n": np.arange(10_000)})}
    done = serialize(value)
    assert done.buffers and len(done.data) < 4000
    assert deserialize(done.to_bytes(), Pin())["t"].equals(value["t"])
