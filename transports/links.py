"""One link over a stream socket: its queue of what the kernel did not take, and what was read of a frame so far.

- One system call a frame: a frame is sent at once when nothing waits before it. What the kernel does not take is
  queued, EPOLLOUT is armed, and `flush` (called by whoever polls) goes on.
- `send` and `flush` may run in two threads: `lock` covers both (60 ns beside a send of 1500). It can be taken again
  by its holder, since a signal handler that runs inside `flush` may send.
- A signal handler may raise after any call. So `flush` receives the count of sent bytes by `list.extend(map(...))`,
  which is one call and stores before any handler runs, and accounts for it in statements that make no call (the
  interpreter runs handlers only at calls and backward jumps). Else Ctrl-C could send the same bytes twice.
  `send` itself is made under the runtime's state lock, where handlers only set a flag (DESIGN.md section 6).
- A send that fails tells nobody: it shuts the socket down, so whoever polls reads what had arrived and then the end.
"""

from __future__ import annotations

import errno
import socket
import threading
from array import array
from collections import deque
from collections.abc import Callable
from itertools import islice
from select import EPOLLIN, EPOLLOUT, epoll
from typing import Any

from miniray.core.ids import ProcessId
from miniray.transport import LINK_BUFFER_BYTES, Arrival, LinkDrained, LinkFull

from .frames import DATA, HEADER_BYTES, pack_header

JOIN_BYTES = 64 << 10  # up to here header and frame are joined by a copy (cheaper than a gather); above, gathered
BATCH_PIECES = 64  # queued pieces given to one sendmsg


class Passing(bytes):
    """A frame that carries a descriptor; the socket is ours to close once the kernel has taken the first byte."""

    connection: socket.socket


class Link:
    """The link to `peer`; without a socket while it is being made."""

    __slots__ = (
        "peer", "lock", "connection", "write", "gather", "read", "read_message", "queue", "queued_bytes", "stopped",
        "armed", "full", "greeted", "carries_descriptors", "descriptors", "tail", "assembly", "assembled_bytes",
        "_sent", "_epoll", "_notice",
    )  # fmt: skip

    def __init__(self, peer: ProcessId, poller: epoll, notice: Callable[[Arrival], None]) -> None:
        self.peer = peer
        self.lock = threading.RLock()
        self.connection: socket.socket | None = None
        self.write: Callable[[Any], int] | None = None  # None: every frame is queued, or dropped once stopped
        self.gather: Any = None
        self.read: Any = None
        self.read_message: Any = None
        self.queue: deque[bytes | memoryview] = deque()
        self.queued_bytes = 0
        self.stopped = False
        self.armed = False
        self.full = False
        self.greeted = True  # False: its first frame must be a hello
        self.carries_descriptors = False
        self.descriptors: list[int] = []  # arrived, their frames not yet; -1: one that this process had no room for
        self.tail = b""  # the read part of a frame that fits the kept buffer
        self.assembly: bytearray | None = None  # a frame that does not
        self.assembled_bytes = 0
        self._sent: list[int] = []  # the result of the last gather, until it is accounted for
        self._epoll = poller
        self._notice = notice

    def open(self, connection: socket.socket, first: bytes = b"") -> None:
        """Use this connection; `first` precedes whatever was queued."""
        connection.setblocking(False)
        with self.lock:
            if first:
                self.queue.appendleft(first)
                self.queued_bytes += len(first)
            self.connection = connection
            self.gather, self.write = connection.sendmsg, connection.send
            self.read, self.read_message = connection.recv_into, connection.recvmsg_into
            self.armed = bool(self.queue)
            self._epoll.register(connection, EPOLLIN | EPOLLOUT if self.armed else EPOLLIN)

    def send(self, data: bytes) -> None:
        """Queue or send one data frame."""
        with self.lock:
            size = len(data)
            if self.queue or self.write is None:
                if size <= JOIN_BYTES:
                    self._keep(pack_header(size, DATA) + data)
                else:
                    self._keep(pack_header(size, DATA), data)
                return
            try:
                if size <= JOIN_BYTES:
                    whole = pack_header(size, DATA) + data
                    sent = self.write(whole)
                    if sent != size + HEADER_BYTES:
                        self._keep(memoryview(whole)[sent:])
                    return
                header = pack_header(size, DATA)
                sent = self.gather((header, data))
            except BlockingIOError:
                self._keep(pack_header(size, DATA), data)
            except OSError:
                self.stop()
            else:
                if sent < HEADER_BYTES:
                    self._keep(header[sent:], data)
                elif sent != size + HEADER_BYTES:
                    self._keep(memoryview(data)[sent - HEADER_BYTES :])

    def send_control(self, *frames: bytes) -> None:
        """Queue frames that are no messages, and send what can be sent."""
        with self.lock:
            self._keep(*frames)
            if self.write is not None:
                self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the kernel takes it."""
        with self.lock:
            while self.queue and self.write is not None:
                if not self._sent and not self._send_batch():
                    return
                self._account()
            if self.connection is not None and not self.stopped:
                self.armed = False  # before the call: if it is interrupted, the next EPOLLOUT comes here again
                self._epoll.modify(self.connection, EPOLLIN)
            self._tell_if_drained()

    def stop(self) -> None:
        """Nothing more is sent; whoever polls will read the end."""
        with self.lock:
            self.stopped = True
            self.write = None
            for piece in self.queue:
                if isinstance(piece, Passing):
                    piece.connection.close()
            self.queue.clear()
            self.queued_bytes = 0
            if self.connection is not None:
                try:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self._epoll.modify(self.connection, EPOLLIN)
                except (OSError, ValueError):
                    pass  # the other end was faster, or the transport is closed

    def close(self) -> None:
        """Release every descriptor."""
        self.stop()
        for descriptor in self.descriptors:
            if descriptor >= 0:
                socket.close(descriptor)
        self.descriptors = []
        if self.connection is not None:
            self.connection.close()

    def _send_batch(self) -> bool:
        """One system call; its result lies in `_sent`. False: the kernel takes nothing now, or never again."""
        head = self.queue[0]
        try:
            if isinstance(head, Passing):
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [head.connection.fileno()]))]
                self._sent.extend(map(self.gather, ((head,),), (rights,)))
            else:
                batch: list[bytes | memoryview] = []
                for piece in islice(self.queue, BATCH_PIECES):
                    if isinstance(piece, Passing):
                        break
                    batch.append(piece)
                self._sent.extend(map(self.gather, (batch,)))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ETOOMANYREFS):  # the latter: its peer must first accept some
                self._arm()
                self._tell_if_drained()
            else:
                self.stop()
            return False
        return True

    def _account(self) -> None:
        """Take what was sent off the queue; between the marked lines no handler can run."""
        sent, queue = self._sent, self.queue
        while sent:
            head = queue[0]
            if isinstance(head, Passing):
                head.connection.close()
            size = len(head)
            if sent[0] < size:
                rest = memoryview(head)[sent[0] :]
                queue[0] = rest  # --
                self.queued_bytes -= sent[0]
                del sent[:]  # --
            elif sent[0] == size:
                del queue[0]  # --
                self.queued_bytes -= size
                del sent[:]  # --
            else:
                del queue[0]  # --
                self.queued_bytes -= size
                sent[0] -= size  # --

    def _keep(self, *pieces: bytes | memoryview) -> None:
        if self.stopped:
            return
        for piece in pieces:
            self.queue.append(piece)
            self.queued_bytes += len(piece)
        if self.connection is not None:
            self._arm()
        if self.queued_bytes > LINK_BUFFER_BYTES and not self.full:
            self.full = True
            self._notice(LinkFull(self.peer))

    def _tell_if_drained(self) -> None:
        if self.full and self.queued_bytes <= LINK_BUFFER_BYTES // 2 and not self.stopped:
            self.full = False
            self._notice(LinkDrained(self.peer))

    def _arm(self) -> None:
        if not self.armed and self.connection is not None:
            self._epoll.modify(self.connection, EPOLLIN | EPOLLOUT)
            self.armed = True
