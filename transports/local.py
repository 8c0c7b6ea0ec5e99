"""Links of one host: socketpairs, handed out by the node process. No path, no listener, nothing to clean up.

The node process is the *broker*: it has a link to every process. A process that wants a link to another sends the
broker a dial; the broker makes a socketpair and sends one end to each side (SCM_RIGHTS), inside its own `poll` and in
order with the data frames of those links.

- Two that dial each other at once get one link. The broker numbers the introductions that it sends on a link, and a
  dial says how many its sender had seen: a dial that crosses the introduction of the same pair is answered already.
- A link that is made anew waits at the far side until the old one has been read to its end (`_successors`).
- Hot path: one `send` and one `recv_into` (a kept buffer; `recv(262144)` costs 30 us) a frame, one epoll_wait a poll.
  Only a process's link to its broker may carry descriptors, so only that one pays for recvmsg.
- A signal handler may raise out of `poll` after any call, and nothing that was read is lost: results of system calls
  are stored by `list.extend(map(...))` (one call; handlers run only between calls), parsed without side effects,
  and committed in statements that make no call (marked `--`). The next poll goes on from there.
- `disconnect` only shuts a socket down; the thread that polls closes it, so that no descriptor number is reused
  under a read.
"""

from __future__ import annotations

import os
import socket
import threading
from array import array
from collections import deque
from select import EPOLLET, EPOLLIN, EPOLLOUT, epoll
from time import monotonic
from typing import Any

from miniray.core.ids import PROCESS_ID_BYTES, ProcessId, show
from miniray.transport import MAX_FRAME_BYTES, Arrival, Frame, LinkLost, LinkUp, Readable

from . import frames
from .frames import DATA, HEADER_BYTES, LAST_KIND, BadFrameError, unpack_header
from .links import Link, Passing

BUFFER_BYTES = 256 << 10
LARGE_FRAME_BYTES = 128 << 10  # an incomplete frame of this size gets memory of its own
READ_ROOM_BYTES = 16 << 10  # a link is not read with less room than this; the next poll has all of it
CONTROL_FRAME_BYTES = 4 << 10
EVENTS_PER_POLL = 64
_ANCILLARY_BYTES = socket.CMSG_SPACE(array("i").itemsize * 4)
_LARGE = -1


class LocalTransport:
    """Joins the processes of one host (see `miniray.transport.Transport` for what is promised).

    Args:
        me: the id of this process.
        broker, broker_socket: the node process and a connected stream socket to it; none in the node process itself,
            which is given its links by `adopt`.
    """

    def __init__(
        self, me: ProcessId, broker: ProcessId | None = None, broker_socket: socket.socket | None = None
    ) -> None:
        if (broker is None) != (broker_socket is None):
            raise ValueError("broker and broker_socket belong together")
        self._me = me
        self._broker = broker
        self._closed = False
        self._epoll = epoll()
        self._wait = self._epoll.poll
        self._wake_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_descriptor, EPOLLIN | EPOLLET)  # an edge per write: nobody has to read it
        self._table_lock = threading.RLock()  # the tables of links; taken when links come and go, never per frame
        self._links: dict[ProcessId, Link] = {}
        self._by_descriptor: dict[int, Link] = {}
        self._successors: dict[ProcessId, socket.socket] = {}
        self._abandoned: dict[ProcessId, None] = {}  # dialled, then disconnected before the answer
        self._introductions_seen = 0
        self._introductions_sent: dict[ProcessId, dict[ProcessId, int]] = {}  # broker: per link, the last of each peer
        self._introduction_count: dict[ProcessId, int] = {}
        self._watched: dict[int, Any] = {}
        self._notices: deque[Arrival] = deque()  # found outside of poll
        self._arrivals: list[Arrival] = []
        self._woken = False
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._whole_buffer = (self._view,)
        self._used = 0
        self._got: list[Any] = []  # result of the last read, until it is in `_unparsed`
        self._reading: tuple[Link, int, int] | None = None  # the link, where its bytes begin, where the new ones do
        self._unparsed: tuple[Link, int, int] | None = None
        self._control: tuple[Link, int, bytes] | None = None
        if broker is not None and broker_socket is not None:
            self._add(broker, broker_socket).carries_descriptors = True

    # ---- the interface

    def adopt(self, peer: ProcessId, connection: socket.socket) -> None:
        """Use this connected stream socket as the link to `peer` (the broker does so for each process it starts)."""
        with self._table_lock:
            if peer in self._links:
                raise ValueError(f"there is a link to {show(peer)} already")
            self._introductions_sent[peer] = {}
            self._introduction_count[peer] = 0
            self._add(peer, connection)

    def connect(self, peer: ProcessId) -> None:
        with self._table_lock:
            if self._closed or peer in self._links:
                return
            broker = self._links.get(self._broker) if self._broker is not None else None
            if peer == self._me or broker is None:
                reason = "it is this process" if peer == self._me else "no link to the node process"
                self._notice(LinkLost(peer, reason, refused=True))
                return
            self._abandoned.pop(peer, None)
            self._links[peer] = Link(peer, self._epoll, self._notice)
            broker.send_control(frames.dial(peer, self._introductions_seen))

    def send(self, peer: ProcessId, frame: bytes) -> None:
        link = self._links.get(peer)
        if link is not None:
            link.send(frame)

    def disconnect(self, peer: ProcessId) -> None:
        """As the interface says; what the kernel has not taken yet is dropped."""
        with self._table_lock:
            link = self._links.pop(peer, None)
            successor = self._successors.pop(peer, None)
            if successor is not None:
                successor.close()
            if link is None:
                return
            if link.connection is None:
                self._abandoned[peer] = None
            link.stop()
            self._forget_introductions(peer)

    def poll(self, timeout_seconds: float | None) -> list[Arrival]:
        if self._got or self._unparsed or self._control:
            self._resume()
        if self._arrivals or self._notices or self._closed:
            return self._hand_out()
        if timeout_seconds is not None and timeout_seconds < 0:
            timeout_seconds = 0
        end = monotonic() + timeout_seconds if timeout_seconds else 0.0
        while True:
            self._used = 0
            by_descriptor = self._by_descriptor
            for descriptor, mask in self._wait(timeout_seconds, EVENTS_PER_POLL):
                link = by_descriptor.get(descriptor)
                if link is None:
                    self._on_other(descriptor)
                    continue
                if mask & EPOLLOUT:
                    link.flush()
                if mask & ~EPOLLOUT:
                    self._receive(link)
            if self._arrivals or self._notices or self._woken:
                return self._hand_out()
            if timeout_seconds is not None:
                timeout_seconds = end - monotonic()
                if timeout_seconds <= 0:
                    return []

    def wake(self) -> None:
        if not self._closed:
            os.eventfd_write(self._wake_descriptor, 1)

    def watch(self, descriptor: int, token: Any) -> None:
        if self._closed:
            return
        self._watched[descriptor] = token
        self._epoll.register(descriptor, EPOLLIN)

    def fileno(self) -> int:
        """Readable when `poll(0)` would find something (for another event loop's sake)."""
        return self._epoll.fileno()

    def close(self) -> None:
        """As the interface says; not while another thread polls."""
        with self._table_lock:
            if self._closed:
                return
            self._closed = True
            for link in (*self._by_descriptor.values(), *self._links.values()):
                link.close()
            self._release()

    def forget(self) -> None:
        """In a forked child: release every descriptor without breaking the links, which are the parent's."""
        self._closed = True
        for link in self._by_descriptor.values():
            if link.connection is not None:
                link.connection.close()
        self._release()

    # ---- links come and go

    def _release(self) -> None:
        for successor in self._successors.values():
            successor.close()
        self._links.clear()
        self._by_descriptor.clear()
        self._successors.clear()
        self._watched.clear()
        self._epoll.close()
        os.close(self._wake_descriptor)

    def _add(self, peer: ProcessId, connection: socket.socket, first: bytes = b"") -> Link:
        """Open the link to `peer`, the one that was being made or a new one."""
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = Link(peer, self._epoll, self._notice)
        link.greeted = not first
        self._by_descriptor[connection.fileno()] = link
        link.open(connection, first)
        return link

    def _lose(self, link: Link, reason: str, *, refused: bool = False) -> None:
        """Close a link and report it, unless `disconnect` was called."""
        with self._table_lock:
            peer = link.peer
            if known := self._links.get(peer) is link:
                lost = [LinkLost(peer, reason, refused)]
                del self._links[peer]  # --
                self._arrivals += lost  # --
            if link.connection is not None:
                self._by_descriptor.pop(link.connection.fileno(), None)
                try:
                    self._epoll.unregister(link.connection)
                except (OSError, ValueError):
                    pass
            link.close()
            if not known:
                return
            self._forget_introductions(peer)
            successor = self._successors.pop(peer, None)
            if successor is not None:
                self._add(peer, successor, frames.hello(self._me))
                self._arrivals += [LinkUp(peer)]
            if peer == self._broker:
                for dialled in [one for one in self._links.values() if one.connection is None]:
                    self._lose(dialled, "no link to the node process", refused=True)

    def _forget_introductions(self, peer: ProcessId) -> None:
        if self._introductions_sent.pop(peer, None) is not None:
            del self._introduction_count[peer]
            for sent in self._introductions_sent.values():
                sent.pop(peer, None)

    def _on_control(self, link: Link, kind: int, payload: bytes) -> None:
        """A frame that makes links. Raises BadFrameError where it has no place."""
        if not link.greeted:
            if kind != frames.HELLO or payload != link.peer:
                raise BadFrameError(f"it led not to {show(link.peer)}, or began without a hello")
            link.greeted = True
        elif kind == frames.DIAL and link.peer in self._introductions_sent:
            self._on_dial(link, *frames.read_dial(payload))
        elif kind == frames.INTRODUCE and link.carries_descriptors:
            self._on_introduce(link, frames.read_peer(payload))
        elif kind == frames.REFUSED and link.carries_descriptors:
            peer, reason = frames.read_refused(payload)
            self._abandoned.pop(peer, None)
            dialled = self._links.get(peer)
            if dialled is not None and dialled.connection is None:
                self._lose(dialled, reason, refused=True)
        else:
            raise BadFrameError(f"a frame of kind {kind} has no place here")

    def _on_dial(self, link: Link, peer: ProcessId, seen: int) -> None:
        """Broker: introduce the dialler and `peer` to each other."""
        with self._table_lock:
            dialler = link.peer
            other = self._links.get(peer)
            if other is None or other is link or peer not in self._introductions_sent or other.stopped:
                link.send_control(frames.refused(peer, f"the node process has no link to {show(peer)}"))
                return
            if self._introductions_sent[dialler].get(peer, 0) > seen:
                return  # it crossed the introduction that the other's dial has caused
            try:
                ends = socket.socketpair()
            except OSError as error:
                link.send_control(frames.refused(peer, f"no descriptors left in the node process: {error}"))
                return
            for to, about, end in ((link, peer, ends[0]), (other, dialler, ends[1])):
                self._introduction_count[to.peer] += 1
                self._introductions_sent[to.peer][about] = self._introduction_count[to.peer]
                frame = Passing(frames.introduce(about))
                frame.connection = end
                to.send_control(frame)

    def _on_introduce(self, link: Link, peer: ProcessId) -> None:
        """A link to `peer`, which one of us has dialled, is in our hands."""
        with self._table_lock:
            self._introductions_seen += 1
            descriptor = link.descriptors.pop(0) if link.descriptors else -1
            present = self._links.get(peer)
            try:
                connection = socket.socket(fileno=descriptor) if descriptor >= 0 else None
            except OSError:
                connection = None
            if connection is None:  # this process is out of descriptors (pytorch 973)
                if present is None or present.connection is not None:
                    return  # the other end sees the link break
                self._lose(present, "it came without its descriptor: the limit of open files is reached", refused=True)
            elif peer in self._abandoned:
                del self._abandoned[peer]
                connection.close()
            elif present is not None and present.connection is not None:
                old = self._successors.pop(peer, None)
                if old is not None:
                    old.close()
                self._successors[peer] = connection
            else:
                self._add(peer, connection, frames.hello(self._me))
                self._arrivals += [LinkUp(peer)]

    # ---- reading

    def _receive(self, link: Link) -> None:
        """One read of one link."""
        start, place = self._used, 0
        if link.assembly is not None:
            start = _LARGE
            arguments: Any = (memoryview(link.assembly)[link.assembled_bytes :],)
        elif start or link.tail:
            place = start + len(link.tail)
            if place > BUFFER_BYTES - READ_ROOM_BYTES:
                return  # epoll says it again
            self._view[start:place] = link.tail
            arguments = (self._view[place:],)
        else:
            arguments = self._whole_buffer
        self._reading = (link, start, place)
        try:
            if link.carries_descriptors and start != _LARGE:
                self._got.extend(map(link.read_message, (arguments,), (_ANCILLARY_BYTES,), (socket.MSG_CMSG_CLOEXEC,)))
            else:
                self._got.extend(map(link.read, arguments))
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(link, error.strerror or "the link broke")
            return
        self._take()

    def _resume(self) -> None:
        """Go on where an exception out of a signal handler has struck."""
        if self._got:
            self._take()
        if self._control:
            self._perform_control()
        if self._unparsed:
            self._parse()

    def _take(self) -> None:
        """What was read becomes `_unparsed`, or a piece of a large frame."""
        assert self._reading is not None
        link, start, place = self._reading
        count = self._got[0]
        descriptors: list[int] = []
        if link.carries_descriptors and start != _LARGE:
            descriptors = _descriptors_in(count) if count[1] or count[2] else descriptors
            count = count[0]
        elif count > HEADER_BYTES and not place and link.greeted and start != _LARGE:  # the common case: one frame
            length, kind = unpack_header(self._view, start)
            if length == count - HEADER_BYTES and kind == DATA and self._links.get(link.peer) is link:
                found = Frame(link.peer, self._view[HEADER_BYTES:count])
                self._used = count  # --
                del self._got[:]
                self._arrivals += [found]  # --
                return
        if self._links.get(link.peer) is not link or count == 0:
            link.descriptors += descriptors  # to be closed with it  --
            del self._got[:]  # --
            self._lose(link, "the other end closed the link")
        elif start == _LARGE:
            frame = Frame(link.peer, memoryview(link.assembly or b""))
            complete = link.assembled_bytes + count == len(frame.data)
            del self._got[:]  # --
            link.assembled_bytes += count
            if complete:
                link.assembly = None
                self._arrivals += [frame]  # --
        else:
            link.descriptors += descriptors  # --
            self._unparsed = (link, start, place + count)
            del self._got[:]  # --
            self._parse()

    def _parse(self) -> None:
        """Turn `_unparsed` into arrivals; stop at each control frame to perform it in its place."""
        view = self._view
        while self._unparsed is not None:
            link, cursor, end = self._unparsed
            peer, found, control = link.peer, [], None
            length = kind = 0
            while end - cursor >= HEADER_BYTES:
                length, kind = unpack_header(view, cursor)
                stop = cursor + HEADER_BYTES + length
                if stop > end or kind or not link.greeted:
                    break
                found.append(Frame(peer, view[cursor + HEADER_BYTES : stop]))
                cursor = stop
            else:
                length = kind = 0
            if (
                length > MAX_FRAME_BYTES
                or kind > LAST_KIND
                or (length > CONTROL_FRAME_BYTES and (kind != DATA or not link.greeted))
            ):
                self._arrivals += found  # --
                self._unparsed = None  # --
                self._lose(link, f"not a frame: kind {kind}, {length} bytes")
                return
            if end - cursor >= HEADER_BYTES + length:
                control = (link, kind, bytes(view[cursor + HEADER_BYTES : cursor + HEADER_BYTES + length]))
                following = (link, cursor + HEADER_BYTES + length, end)
                self._arrivals += found  # --
                self._unparsed = following
                self._control = control  # --
                self._perform_control()
                continue
            tail, assembly = b"", None
            if HEADER_BYTES + length > LARGE_FRAME_BYTES:
                assembly = bytearray(length)
                assembly[: end - cursor - HEADER_BYTES] = view[cursor + HEADER_BYTES : end]
            elif cursor != end:
                tail = bytes(view[cursor:end])
            self._arrivals += found  # --
            link.tail, link.assembly, link.assembled_bytes = tail, assembly, end - cursor - HEADER_BYTES
            self._used = end
            self._unparsed = None  # --

    def _perform_control(self) -> None:
        """Once: a handler that raises in between costs the link that was being made, never a silence."""
        assert self._control is not None
        link, kind, payload = self._control
        self._control = None
        try:
            self._on_control(link, kind, payload)
        except BadFrameError as error:
            self._unparsed = None
            self._lose(link, str(error))
        except BaseException as error:
            about = link if kind == frames.HELLO else self._links.get(ProcessId(payload[:PROCESS_ID_BYTES]))
            if about is not None and kind != frames.DIAL:
                self._lose(about, f"interrupted while it was being made: {error!r}")
            raise

    def _on_other(self, descriptor: int) -> None:
        """Something that is no link is readable."""
        if descriptor == self._wake_descriptor:
            self._woken = True
            return
        if descriptor in self._watched:
            arrival = [Readable(self._watched[descriptor])]
            del self._watched[descriptor]  # --
            self._arrivals += arrival  # --
        try:
            self._epoll.unregister(descriptor)
        except (OSError, ValueError):
            pass  # its owner has closed it

    def _hand_out(self) -> list[Arrival]:
        while self._notices:
            self._arrivals += [self._notices[0]]  # --
            del self._notices[0]  # --
        self._woken = False
        arrivals = self._arrivals
        self._arrivals = []
        return arrivals

    def _notice(self, arrival: Arrival) -> None:
        """An arrival found by a thread that may not be the one that polls."""
        self._notices.append(arrival)
        self.wake()


def _descriptors_in(result: Any) -> list[int]:
    """The descriptors of one recvmsg; -1 for what this process had no room for."""
    _, ancillary, flags, _ = result
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return [*found] if found or not flags & socket.MSG_CTRUNC else [-1]
