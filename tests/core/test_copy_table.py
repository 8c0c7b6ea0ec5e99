"""Copies of a stored value at its owner: who is told which place, what is freed, and what a death leaves."""

from __future__ import annotations

from typing import Any

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import ProcessId, process_id, process_on, return_id, task_id
from miniray.core.machine import PeerLost, Received, Send
from miniray.core.messages import (
    AddHolder,
    CopyFailed,
    CopyMade,
    CopyRefused,
    DropHolders,
    FreeOrphans,
    FreePlaces,
    MakeCopy,
    NodeDied,
    RefGone,
    ValueIs,
    WhereIs,
)
from miniray.core.owner.events import CopyWanted, FreeStored, Ready, RefsDropped, ValuePut
from miniray.core.owner.owner import Owner
from miniray.core.record import Effect, Event, Message
from miniray.core.task_spec import Failed, Inline, Place, Stored

HERE, THERE, THIRD = (process_id(b"test", index << 20) for index in range(3))
ME = process_on(HERE, 1)
READER, OTHER = process_on(THERE, 2), process_on(THERE, 3)
FAR = process_on(THIRD, 2)
X = return_id(task_id(ME, 1))
FULL = Failure(FailureKind.STORE_FULL, "", "no room")


class Session:
    """An owner, and x, which lies where the test says and is held by all."""

    def __init__(self, holder: ProcessId = ME) -> None:
        self.owner = Owner(ME, HERE)
        self.x = Stored(Place(holder, 4096, 100))
        self.does(ValuePut(X, self.x))
        for reader in (READER, OTHER, FAR):
            self.hears(AddHolder(X, 1), reader)

    def does(self, event: Event) -> list[Effect]:
        effects = self.owner.step(1.0, event)
        self.owner.check()
        return effects

    def hears(self, message: Message, peer: ProcessId) -> list[Effect]:
        return self.does(Received(peer, message))

    def copied(self, number: int, node: ProcessId, offset: int = 0) -> Stored:
        """That node has made its copy."""
        self.hears(CopyMade(number, X, Place(node, offset, 100)), node)
        return Stored(Place(node, offset, 100))

    def left(self) -> dict[str, Any]:
        return {name: value for name, value in self.owner.statistics().items() if value}


def test_a_reader_of_the_same_node_is_told_at_once() -> None:
    session = Session(process_on(THERE, 7))
    assert session.hears(WhereIs(X), READER) == [Send(READER, ValueIs(X, session.x))]


def test_one_copy_is_made_for_all_who_ask_on_a_node() -> None:
    session = Session()
    assert session.hears(WhereIs(X), READER) == [Send(THERE, MakeCopy(1, X, session.x.place))]
    assert session.hears(WhereIs(X), OTHER) == []
    place = Place(THERE, 0, 100)
    told = session.hears(CopyMade(1, X, place), THERE)
    assert told == [Send(reader, ValueIs(X, Stored(place))) for reader in (READER, OTHER)]
    assert session.hears(WhereIs(X), READER) == [Send(READER, ValueIs(X, Stored(place)))]
    assert session.hears(WhereIs(X), FAR) == [Send(THIRD, MakeCopy(2, X, session.x.place))]


def test_what_the_owner_reads_becomes_the_primary() -> None:
    session = Session(FAR)
    assert X in session.owner.elsewhere
    assert session.does(CopyWanted([X])) == [Send(HERE, MakeCopy(1, X, session.x.place))]
    assert session.hears(CopyMade(1, X, Place(HERE, 0, 100)), HERE) == [Ready([X])]
    assert session.owner.values[X] == Stored(Place(HERE, 0, 100)) and not session.owner.elsewhere
    assert session.hears(WhereIs(X), FAR) == [Send(FAR, ValueIs(X, session.x))], "the old one is a copy as well"


def test_with_the_value_all_its_copies_are_freed() -> None:
    session = Session()
    session.hears(WhereIs(X), READER)
    copy = session.copied(1, THERE)
    for reader in (READER, OTHER, FAR):
        session.hears(DropHolders([X]), reader)
    assert session.does(RefsDropped([X])) == [
        Send(THERE, FreeOrphans([(X, copy.place)])),
        FreeStored([(X, session.x.place)]),
    ]
    assert session.left() == {}


def test_a_copy_that_lands_after_the_value_was_freed_is_freed() -> None:
    session = Session(process_on(HERE, 2))
    session.hears(WhereIs(X), READER)
    for reader in (READER, OTHER, FAR):
        session.hears(DropHolders([X]), reader)
    freed = session.does(RefsDropped([X]))
    assert freed == [Send(READER, RefGone(X, 0)), Send(process_on(HERE, 2), FreePlaces([(X, session.x.place)]))]
    assert session.left() == {}
    late = CopyMade(1, X, Place(THERE, 0, 100))
    assert session.hears(late, THERE) == [Send(THERE, FreeOrphans([(X, late.place)]))]


def test_a_secondary_saves_the_value() -> None:
    session = Session(FAR)
    session.hears(WhereIs(X), READER)
    copy = session.copied(1, THERE)
    session.hears(NodeDied(THIRD), HERE)
    assert session.owner.values[X] == copy
    assert session.hears(WhereIs(X), OTHER) == [Send(OTHER, ValueIs(X, copy))]
    session.hears(NodeDied(THERE), HERE)
    value = session.owner.values[X]
    assert isinstance(value, Failed) and value.failure.kind is FailureKind.OBJECT_LOST


def test_nothing_is_lost_while_a_copy_is_under_way() -> None:
    session = Session(FAR)
    session.hears(WhereIs(X), READER)
    session.hears(NodeDied(THIRD), HERE)
    assert session.owner.values[X] == session.x, "the copy may have been read before the death"
    assert session.does(CopyWanted([X])) == [], "from a dead node nothing is copied"
    copy = Stored(Place(THERE, 0, 100))
    assert session.hears(CopyMade(1, X, copy.place), THERE) == [
        Send(READER, ValueIs(X, copy)),
        Send(HERE, MakeCopy(2, X, copy.place)),
    ]
    assert session.owner.values[X] == copy


def test_a_copy_that_failed_is_news_of_the_death_and_the_last_one_loses_the_value() -> None:
    session = Session(FAR)
    session.hears(WhereIs(X), READER)
    session.does(CopyWanted([X]))
    session.hears(CopyFailed(1), THERE)
    assert session.owner.values[X] == session.x, "one is under way still"
    told = session.hears(CopyFailed(2), HERE)
    value = session.owner.values[X]
    assert isinstance(value, Failed) and value.failure.kind is FailureKind.OBJECT_LOST
    assert told == [Send(READER, ValueIs(X, value)), Ready([X])]
    assert session.hears(NodeDied(THIRD), HERE) == [], "it has been taken in"


def test_a_copy_that_failed_is_made_from_another_one() -> None:
    session = Session(FAR)
    session.hears(WhereIs(X), READER)
    session.does(CopyWanted([X]))
    copy = session.copied(2, HERE)
    assert session.hears(CopyFailed(1), THERE)[-1] == Send(THERE, MakeCopy(3, X, copy.place))


def test_a_node_without_room_fails_its_own_readers_alone() -> None:
    session = Session()
    session.hears(WhereIs(X), READER)
    assert session.hears(CopyFailed(1, FULL), THERE) == [Send(READER, CopyRefused(X, FULL))]
    assert session.owner.values[X] == session.x
    far = Session(FAR)
    far.does(CopyWanted([X]))
    assert far.hears(CopyFailed(1, FULL), HERE) == [Ready([X])]
    assert far.owner.elsewhere == {X: Failed(FULL)} and far.owner.values[X] == far.x
    assert far.does(CopyWanted([X])) == [Send(HERE, MakeCopy(2, X, far.x.place))], "another wait, another try"


def test_with_the_readers_node_its_copies_are_forgotten() -> None:
    session = Session()
    session.hears(WhereIs(X), READER)
    session.hears(WhereIs(X), FAR)
    session.copied(2, THIRD)
    session.does(PeerLost(READER, "cut"))
    session.hears(NodeDied(THERE), HERE)
    session.hears(NodeDied(THIRD), HERE)
    assert session.left().get("copies", 0) == session.left().get("copies_under_way", 0) == 0
    assert session.hears(WhereIs(X), OTHER) == [], "nobody is there to be told"


def test_small_values_have_no_copies() -> None:
    session = Session()
    session.does(ValuePut(Y := return_id(task_id(ME, 2)), Inline(b"y")))
    session.hears(AddHolder(Y, 1), READER)
    assert session.hears(WhereIs(Y), READER) == [Send(READER, ValueIs(Y, Inline(b"y")))]
