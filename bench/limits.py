"""The bare limits: what the machine gives to a program that does nothing else."""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import struct
import threading
from collections.abc import Callable
from time import perf_counter

RECORDS_PER_FRAME = 64
FRAMES_IN_FLIGHT = 16
BUFFER_BYTES = 1 << 18


class Forked:
    """A child that serves one end of a socketpair until the other is closed."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.link, theirs = socket.socketpair()
        for end in (self.link, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.link.close()
                serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def pin(self, core: int) -> None:
        os.sched_setaffinity(self.pid, {core})

    def close(self) -> None:
        self.link.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class PingPong(Forked):
    """Two processes with pickles over a socketpair: the least that a call and its answer can cost."""

    def __init__(self) -> None:
        super().__init__(_echo)

    def roundtrip(self, count: int) -> float:
        send, receive = self.link.send, self.link.recv
        dumps, loads = pickle.dumps, pickle.loads
        began = perf_counter()
        for i in range(count):
            send(dumps((i,)))
            loads(receive(4096))
        return perf_counter() - began


def _echo(link: socket.socket) -> None:
    send, receive = link.send, link.recv
    dumps, loads = pickle.dumps, pickle.loads
    while data := receive(4096):
        send(dumps(loads(data)))


def records(count: int) -> float:
    """Seconds for `count` msgspec records to a process and as many back, 64 to a frame, 16 frames in flight.

    Sent, decoded, answered, decoded: what tasks cost when nothing is decided about them.
    """
    peer = Forked(_answer_frames)
    record_type = _record_type()
    encode, decode = _codec(record_type)
    frames = -(-count // RECORDS_PER_FRAME)
    room = threading.Semaphore(FRAMES_IN_FLIGHT)

    def read() -> None:
        stream = peer.link.makefile("rb", BUFFER_BYTES)
        for _ in range(frames):
            decode(_read_frame(stream))
            room.release()

    try:
        reader = threading.Thread(target=read)
        began = perf_counter()
        reader.start()
        for frame in range(frames):
            room.acquire()
            first = frame * RECORDS_PER_FRAME
            batch = [record_type(i.to_bytes(14, "big"), 1, b"f" * 16, b"p" * 20, i) for i in range(first, first + 64)]
            _write_frame(peer.link, encode(batch))
        reader.join()
        return perf_counter() - began
    finally:
        peer.close()


def _record_type() -> type:
    import msgspec

    fields = [("task_id", bytes), ("attempt", int), ("function", bytes), ("payload", bytes), ("sequence", int)]
    return msgspec.defstruct("Task", fields, frozen=True, array_like=True, gc=False)


def _codec(record_type: type) -> tuple[Callable, Callable]:
    import msgspec

    return msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list[record_type]).decode


def _answer_frames(link: socket.socket) -> None:
    encode, decode = _codec(_record_type())
    stream = link.makefile("rb", BUFFER_BYTES)
    while frame := _read_frame(stream):
        _write_frame(link, encode(decode(frame)))


def _write_frame(link: socket.socket, frame: bytes) -> None:
    link.sendall(struct.pack("<I", len(frame)) + frame)


def _read_frame(stream) -> bytes:
    header = stream.read(4)
    return stream.read(struct.unpack("<I", header)[0]) if header else b""


class TouchedMemory:
    """A shared map (memfd) whose pages this process has touched; a copy into it is the least that a put can cost."""

    def __init__(self, size_bytes: int) -> None:
        import numpy

        descriptor = os.memfd_create("bench")
        os.ftruncate(descriptor, size_bytes)
        self._map = mmap.mmap(descriptor, size_bytes)
        os.close(descriptor)
        self._target = numpy.frombuffer(self._map, numpy.uint8)
        self._target[:] = 1

    def copy(self, source) -> float:
        began = perf_counter()
        self._target[:] = source.view("uint8")
        return perf_counter() - began
