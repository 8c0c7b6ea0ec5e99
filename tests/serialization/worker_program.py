"""The smallest worker: reads (definition, arguments) frames from stdin, answers with results (see `two_processes`)."""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO

from miniray._runtime.functions import FunctionImporter
from miniray._serialization.exceptions import deserialize_exception, serialize_exception
from miniray._serialization.values import deserialize, serialize


def read_frame(stream: BinaryIO) -> bytes | None:
    head = stream.read(4)
    return stream.read(struct.unpack("<I", head)[0]) if head else None


def write_frame(stream: BinaryIO, data: bytes) -> None:
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()


def work(requests: BinaryIO, answers: BinaryIO, importer: FunctionImporter) -> None:
    functions: dict[bytes, object] = {}
    while (definition := read_frame(requests)) is not None:
        call = read_frame(requests)
        assert call is not None
        try:
            if definition not in functions:
                functions[definition] = importer.load(definition)
            args, kwargs = deserialize(call)
            answer = b"v" + serialize(functions[definition](*args, **kwargs)).to_bytes()  # type: ignore[operator]
        except Exception as error:
            answer = b"e" + serialize_exception(error)[0]
        write_frame(answers, answer)


def read_answer(answer: bytes) -> object:
    if answer[:1] == b"e":
        raise deserialize_exception(answer[1:])
    return deserialize(answer[1:])


if __name__ == "__main__":
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    work(sys.stdin.buffer, answers, FunctionImporter())
