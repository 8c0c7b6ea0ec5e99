"""The simulated transport: links over virtual time, with the delays and losses that a source of choices draws.

- Each direction of a link is a queue. A frame is planned no earlier than the one before it, so none overtakes another;
  links know nothing of each other, so there is no order across them.
- A process may begin again under its id. What was under way to the one before does not reach it.
- A process that crashes (or disconnects) cuts its links at a point of its choice: the first few frames that are under
  way still arrive, then the other end hears of the loss. What was under way to it is gone.
- A link may break between two that live (`break_link`), or first be dead in one direction only (`silence`): each end
  hears of it by itself, and has its own end of the old link until then. Whoever dials first makes the new one for both.
- A node may be cut off for ever (`cut_off`): nothing crosses any more, nobody is refused, and each end of a link, old
  or asked for anew, hears of its loss by itself, when the guarantee of `transport.py` says so.
- `poll` never waits: the world's scheduler calls it when `on_arrival` has said that there is something.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from miniray.core.ids import ProcessId, node_of
from miniray.core.record import replace
from miniray.transport import (
    LINK_BUFFER_BYTES,
    UNREACHABLE_SECONDS,
    UNREACHABLE_SPREAD_SECONDS,
    Arrival,
    Choices,
    Frame,
    LinkDrained,
    LinkFull,
    LinkLost,
    LinkUp,
)

from .timeline import Timeline

Delay = Callable[[ProcessId, ProcessId], float]

_SPREADS = 4  # moments, of which each end of a link draws the one when it hears that the other cannot be reached


class _Piece:
    """Something under way on a link."""

    __slots__ = ("arrival", "lost")

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.lost = False


class _Way:
    """One direction of a link."""

    def __init__(self) -> None:
        self.under_way: deque[_Piece] = deque()
        self.size_bytes = 0
        self.full = False
        self.silent = False


class _Link:
    def __init__(self, first: ProcessId, second: ProcessId) -> None:
        self.ways = {(first, second): _Way(), (second, first): _Way()}


class Network:
    """Joins the processes of one simulated world.

    Args:
        delay: seconds that a frame from one process to another takes.
        choices: how much of what is under way survives a cut.
    """

    def __init__(self, timeline: Timeline, delay: Delay, choices: Choices) -> None:
        self.timeline = timeline
        self._delay = delay
        self._choices = choices
        self._transports: dict[ProcessId, SimulatedTransport] = {}
        self._links: dict[tuple[ProcessId, ProcessId], _Link] = {}
        self._ends: dict[tuple[ProcessId, ProcessId], _Link] = {}  # what each process has, which may be broken
        self._lost: dict[tuple[ProcessId, ProcessId], None] = {}  # who has heard of a loss of a link to whom
        self._latest: dict[tuple[ProcessId, ProcessId], float] = {}
        self._cut_off: dict[ProcessId, None] = {}  # nodes

    def join(self, transport: SimulatedTransport) -> None:
        assert transport.me not in self._transports, "an id is never given twice"
        self._transports[transport.me] = transport

    def connect(self, me: ProcessId, peer: ProcessId) -> None:
        if (me, peer) in self._ends:
            return
        if self._apart(me, peer):
            self._ends[me, peer] = _Link(me, peer)
            self._lose_later(self._ends[me, peer], me, peer)
            return
        if peer not in self._transports:
            self._plan(peer, me, None, _Piece(LinkLost(peer, "no such process")))
            return
        link = self._links.get(self._key(me, peer))
        if link is None:
            link = self._links[self._key(me, peer)] = _Link(me, peer)
            self._plan(me, peer, link.ways[me, peer], _Piece(LinkUp(me)))
            if (me, peer) in self._lost:
                self._plan(peer, me, link.ways[peer, me], _Piece(LinkUp(peer)))
        self._ends[me, peer] = link

    def send(self, me: ProcessId, peer: ProcessId, data: bytes) -> None:
        link = self._ends.get((me, peer))
        if link is None or link is not self._links.get(self._key(me, peer)):
            return
        way = link.ways[me, peer]
        if way.silent:
            return
        way.size_bytes += len(data)
        if way.size_bytes > LINK_BUFFER_BYTES and not way.full:
            way.full = True
            self._transports[me].arrive(LinkFull(peer))
        self._plan(me, peer, way, _Piece(Frame(me, data)))

    def cut(self, me: ProcessId, peer: ProcessId, *, whole: bool) -> None:
        """End the link at this side. `whole`: all that was sent still arrives; else a beginning of it."""
        link = self._links.pop(self._key(me, peer), None)
        self._ends.pop((me, peer), None)
        if link is None:
            return
        for piece in link.ways[peer, me].under_way:
            piece.lost = True
        self._end_way(link, me, peer, whole=whole)

    def _end_way(self, link: _Link, source: ProcessId, target: ProcessId, *, whole: bool) -> None:
        under_way = link.ways[source, target].under_way
        kept = len(under_way) if whole else self._choices.choose(len(under_way) + 1, "frames that survive a cut")
        for index, piece in enumerate(under_way):
            piece.lost = index >= kept
        self._plan(source, target, None, _Piece(LinkLost(source, "the link was cut")))

    def break_link(self, me: ProcessId, peer: ProcessId) -> bool:
        """The link breaks, and both live. Whether there was one. An end that has not heard of the loss of the one
        before never hears of this one."""
        link = self._links.pop(self._key(me, peer), None)
        if link is None:
            return False
        for source, target in ((me, peer), (peer, me)):
            if self._ends.get((target, source), link) is link:
                self._end_way(link, source, target, whole=False)
            else:
                for piece in link.ways[source, target].under_way:
                    piece.lost = True
        return True

    def silence(self, source: ProcessId, target: ProcessId) -> bool:
        """Nothing more of that direction arrives, and nobody is told. Whether there is such a link."""
        link = self._links.get(self._key(source, target))
        if link is None:
            return False
        way = link.ways[source, target]
        way.silent = True
        for piece in way.under_way:
            piece.lost = True
        return True

    def cut_off(self, node: ProcessId) -> None:
        """Nothing passes between that node and all others, for ever."""
        self._cut_off[node] = None
        for key in [key for key in self._links if self._apart(*key)]:
            link = self._links.pop(key)
            for me, peer in (key, (key[1], key[0])):
                if self._ends.get((me, peer)) is link:
                    self._lose_later(link, me, peer)

    def reaches(self, one: ProcessId, other: ProcessId) -> bool:
        """Whether the network still joins the nodes of these two."""
        return not self._apart(one, other)

    def _apart(self, one: ProcessId, other: ProcessId) -> bool:
        if not self._cut_off:
            return False
        first, second = node_of(one), node_of(other)
        return first != second and (first in self._cut_off or second in self._cut_off)

    def _lose_later(self, link: _Link, me: ProcessId, peer: ProcessId) -> None:
        """This end hears that the other cannot be reached, unless it has given the link up by then."""

        def lose() -> None:
            if self._ends.get((me, peer)) is link and me in self._transports:
                lost = LinkLost(peer, "it cannot be reached", unreachable=True)
                self._transports[me].arrive(self._at_the_end(peer, me, lost))

        spread = UNREACHABLE_SPREAD_SECONDS / (_SPREADS - 1)
        early = self._choices.choose(_SPREADS, "when it is seen that a node is cut off") * spread
        self.timeline.after(UNREACHABLE_SECONDS - early, lose)

    def leave(self, me: ProcessId, *, whole: bool) -> None:
        self._transports.pop(me, None)
        for first, second in [key for key in self._links if me in key]:
            self.cut(me, second if first == me else first, whole=whole)
        for known in (self._ends, self._lost):  # another life knows nothing of it
            for key in [key for key in known if key[0] == me]:
                del known[key]

    @staticmethod
    def _key(one: ProcessId, other: ProcessId) -> tuple[ProcessId, ProcessId]:
        return (one, other) if one < other else (other, one)

    def _plan(self, source: ProcessId, target: ProcessId, way: _Way | None, piece: _Piece) -> None:
        if way is not None:
            way.under_way.append(piece)
        time = max(self._latest.get((source, target), 0.0), self.timeline.now + self._delay(source, target))
        self._latest[source, target] = time
        receiver = self._transports.get(target)
        self.timeline.at(time, lambda: self._deliver(source, target, receiver, way, piece))

    def _deliver(
        self,
        source: ProcessId,
        target: ProcessId,
        receiver: SimulatedTransport | None,
        way: _Way | None,
        piece: _Piece,
    ) -> None:
        if way is not None:
            way.under_way.popleft()
            if isinstance(piece.arrival, Frame):
                way.size_bytes -= len(piece.arrival.data)
            if way.full and way.size_bytes <= LINK_BUFFER_BYTES // 2:
                way.full = False
                if source in self._transports:
                    self._transports[source].arrive(LinkDrained(target))
        lost = piece.lost or (self._apart(source, target) and not isinstance(piece.arrival, LinkLost))
        if not lost and receiver is not None and receiver is self._transports.get(target):
            receiver.arrive(self._at_the_end(source, target, piece.arrival))

    def _at_the_end(self, source: ProcessId, target: ProcessId, arrival: Arrival) -> Arrival:
        """What it means for the receiver's end. Who is dead refuses another link at once."""
        if isinstance(arrival, LinkUp):
            link = self._links.get(self._key(source, target))
            if link is not None:
                self._ends.setdefault((target, source), link)
        elif isinstance(arrival, LinkLost):
            self._lost[target, source] = None
            end = self._ends.get((target, source))
            if end is not None and end is not self._links.get(self._key(source, target)):
                del self._ends[target, source]
            refused = source not in self._transports and not self._apart(source, target)
            return replace(arrival, refused=refused)
        return arrival


class SimulatedTransport:
    """One process's end of a simulated network.

    Args:
        on_arrival: called when there is something to `poll`.
    """

    def __init__(self, me: ProcessId, network: Network, on_arrival: Callable[[], None] | None = None) -> None:
        self.me = me
        self._network = network
        self._on_arrival = on_arrival
        self._arrivals: list[Arrival] = []
        self._closed = False
        network.join(self)

    @staticmethod
    def network(delay: Delay, choices: Choices) -> Network:
        """A world of its own, with time of its own, for transports that can reach each other."""
        return Network(Timeline(), delay, choices)

    def arrive(self, arrival: Arrival) -> None:
        self._arrivals.append(arrival)
        if self._on_arrival is not None:
            self._on_arrival()

    def connect(self, peer: ProcessId) -> None:
        if not self._closed:
            self._network.connect(self.me, peer)

    def send(self, peer: ProcessId, frame: bytes) -> None:
        if not self._closed:
            self._network.send(self.me, peer, frame)

    def disconnect(self, peer: ProcessId) -> None:
        self._network.cut(self.me, peer, whole=False)

    def poll(self, timeout_seconds: float | None) -> list[Arrival]:
        """What has arrived by now; never waits."""
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def wake(self) -> None:
        """Nothing ever sleeps in `poll`."""

    def watch(self, descriptor: int, token: Any) -> None:
        """There are no descriptors here: deaths are told by the simulated host."""

    def close(self) -> None:
        """An orderly end: what was sent still arrives."""
        self._end(whole=True)

    def crash(self) -> None:
        """A sudden end: of what was sent, a beginning arrives."""
        self._end(whole=False)

    def _end(self, *, whole: bool) -> None:
        if not self._closed:
            self._closed = True
            self._arrivals = []
            self._on_arrival = None
            self._network.leave(self.me, whole=whole)
