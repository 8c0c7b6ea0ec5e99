"""Lines of users' code: whole, with a prefix, in one write each."""

from __future__ import annotations

import io
import os
import threading

import pytest

from miniray._runtime import output
from miniray._runtime.output import PIPE_BUF, LineOutput, Speaker


class Heard(LineOutput):
    """Keeps what it would write, a write each."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__(1, speaker)
        self.writes: list[bytes] = []

    def _write(self, data: bytes) -> None:
        self.writes.append(data)


def f() -> None: ...


@pytest.fixture
def speaker() -> Speaker:
    made = Speaker()
    made.begins(f, raw=False)
    return made


def stream_of(speaker: Speaker) -> tuple[io.TextIOWrapper, list[bytes], bytes]:
    heard = Heard(speaker)
    return io.TextIOWrapper(heard, "utf-8", write_through=True), heard.writes, speaker.prefix()


def test_a_line_is_one_write(speaker: Speaker) -> None:
    stream, writes, prefix = stream_of(speaker)
    assert prefix == b"(f pid=%d) " % os.getpid()
    print("a", 1, file=stream)
    print(file=stream)
    stream.write("b\nc\n")
    print("d", end="", file=stream)
    print("e", end="\nf", file=stream)
    print("ä", file=stream)
    expected = [prefix + b"a 1\n", prefix + b"\n", prefix + b"b\n" + prefix + b"c\n", prefix + b"de\n"]
    assert writes == [*expected, prefix + "fä\n".encode()]
    speaker.finish()
    assert len(writes) == 5


def test_raw_lines_and_those_of_nobody_have_no_prefix() -> None:
    nobody = Speaker()
    stream, writes, _ = stream_of(nobody)
    print("a", file=stream)
    nobody.begins(f, raw=True)
    print("b", end="", file=stream)
    nobody.finish()
    nobody.finish()
    assert writes == [b"a\n", b"b"]


def test_a_part_waits_for_its_end_or_a_flush_or_the_end_of_the_task(speaker: Speaker) -> None:
    stream, writes, prefix = stream_of(speaker)
    print("1", end="", file=stream)
    assert writes == []
    print("2", end="", file=stream, flush=True)
    print("3", end="", file=stream, flush=True)
    print("4", file=stream)
    print("5", file=stream)
    assert writes == [prefix + b"12", b"3", b"4\n", prefix + b"5\n"]
    writes.clear()
    print("6", end="", file=stream)
    speaker.finish()
    assert writes == [prefix + b"6\n"]
    writes.clear()
    print("7", end="", file=stream, flush=True)
    speaker.finish()
    print("8", file=stream)
    speaker.finish()
    assert writes == [prefix + b"7", b"\n", prefix + b"8\n"]


def test_threads_have_lines_of_their_own(speaker: Speaker) -> None:
    stream, writes, prefix = stream_of(speaker)
    print("main", end=" ", file=stream)

    def speak() -> None:
        print("other", file=stream)
        print("its part", end="", file=stream)

    thread = threading.Thread(target=speak)
    thread.start()
    thread.join()
    print("again", file=stream)
    speaker.finish()
    assert writes == [prefix + b"other\n", prefix + b"main again\n", prefix + b"its part\n"]


def test_lines_go_together_while_a_write_of_them_cannot_be_torn(speaker: Speaker) -> None:
    stream, writes, prefix = stream_of(speaker)
    lines = [b"x" * 999 + b"\n"] * 10 + [b"y" * 2 * PIPE_BUF + b"\n", b"z\n"]
    stream.buffer.write(b"".join(lines))
    assert b"".join(writes) == b"".join(prefix + line for line in lines)
    assert all(len(text) <= PIPE_BUF or text.count(b"\n") == 1 for text in writes)
    assert all(text.startswith(prefix) and text.endswith(b"\n") for text in writes)
    assert len(writes) == 5


def test_a_line_without_an_end_is_written_when_it_is_long(speaker: Speaker) -> None:
    stream, writes, prefix = stream_of(speaker)
    for _ in range(output.MAX_WAITING_BYTES + 1):
        stream.write("x")
    assert writes == [prefix + b"x" * (output.MAX_WAITING_BYTES + 1)]


def test_a_reader_that_is_slow_or_gone(speaker: Speaker) -> None:
    """Somebody has made the pipe non-blocking: the writer waits all the same. Later nobody reads it."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.set_blocking(reader, True)
    stream = io.TextIOWrapper(LineOutput(writer, speaker), "utf-8", write_through=True)
    found: list[bytes] = []

    def read() -> None:
        while sum(map(len, found)) < 1_000_001:
            found.append(os.read(reader, 10_000))

    thread = threading.Thread(target=read)
    thread.start()
    speaker.raw = True
    print("x" * 1_000_000, file=stream)
    thread.join(20)
    assert b"".join(found) == b"x" * 1_000_000 + b"\n"
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        print("y", file=stream)
    print("z", end="", file=stream)
    speaker.finish()  # says nothing
    os.close(writer)
