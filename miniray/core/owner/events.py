"""What the owner is told by its own process, and what it asks its own process to do.

Events come from the API's threads (a call, a dropped ref, a wait) and from effects that have ended; what other
processes say is in `messages.py`.
"""

from __future__ import annotations

from miniray.core.ids import FunctionId, ObjectId, ProcessId
from miniray.core.record import Effect, Event
from miniray.core.task_spec import Place, TaskSpec, Value


class ProcessStarted(Event, frozen=True):
    """This process has begun; it registers with its node before it owns anything."""

    pid: int
    is_driver: bool


class SessionEnding(Event, frozen=True):
    """The driver shuts the session down."""


class Submitted(Event, frozen=True):
    """`f.remote(...)`, an actor's creation or a call: each return's ref exists once already."""

    spec: TaskSpec


class FunctionExported(Event, frozen=True):
    """A definition that tasks will name; told before the first of them, once for each handle."""

    function: FunctionId
    value: Value
    object_id: ObjectId | None = None  # the name under which a Stored value lies in the store


class FunctionDropped(Event, frozen=True):
    """A handle of this function is gone."""

    function: FunctionId


class ValuePut(Event, frozen=True):
    """`put`: the value lies inline or in this process's extents, and one ref to it exists."""

    object_id: ObjectId
    value: Value
    site: str = ""  # where it was called


class ValueOffered(Event, frozen=True):
    """`put(owner=)`: the same, under an id in the name of another owner, who is to adopt it."""

    object_id: ObjectId
    value: Value
    site: str = ""


class RefsHeld(Event, frozen=True):
    """Refs were unpickled here. They are kept alive until this event has been stepped."""

    object_ids: list[ObjectId]


class RefsDropped(Event, frozen=True):
    """Refs were collected (each occurrence is one)."""

    object_ids: list[ObjectId]


class ViewHeld(Event, frozen=True):
    """A value was read as a view; the ref through which it was read still exists."""

    object_id: ObjectId


class ViewsDropped(Event, frozen=True):
    object_ids: list[ObjectId]


class CopyWanted(Event, frozen=True):
    """Own values among these are to be read here, and may lie on another node: `Ready` says when they are here."""

    object_ids: list[ObjectId]


class CancelRequested(Event, frozen=True):
    object_id: ObjectId
    force: bool
    recursive: bool
    running: bool = True  # False: only if it has not started


class KillRequested(Event, frozen=True):
    actor: ObjectId
    restart: bool = False  # it begins anew, if a restart is left


class ExtentNeeded(Event, frozen=True):
    """No room in this process's extents for a value; `ExtentAdded` or `ExtentDenied` is the answer."""

    size_bytes: int


class ExtentsGivenBack(Event, frozen=True):
    """What `GiveBackExtents` found wholly free."""

    offsets: list[int]


class PlacesToldOf(Event, frozen=True):
    """What `TellPlacesOf` has found."""

    owner: ProcessId
    objects: list[tuple[ObjectId, Place]]


# ---- effects ----


class Ready(Effect, frozen=True):
    """These have a value now; whoever waits for them may look."""

    object_ids: list[ObjectId]


class FreeStored(Effect, frozen=True):
    """Free places in this process's own extents."""

    objects: list[tuple[ObjectId, Place]]


class FreeStoredOf(Effect, frozen=True):
    """Free all places in this process's extents whose objects belong to this dead owner."""

    owner: ProcessId


class TellPlacesOf(Effect, frozen=True):
    """All places in this process's extents of objects of this owner, but for those that it is still to be told of (a
    place that was freed twice could be that of the next attempt); `PlacesToldOf` comes back."""

    owner: ProcessId


class AddExtent(Effect, frozen=True):
    offset: int
    size_bytes: int


class DenyExtent(Effect, frozen=True):
    """The arena has no room: whoever asked raises, with these figures."""

    wanted_bytes: int
    free_bytes: int
    capacity_bytes: int


class GiveBackExtents(Effect, frozen=True):
    """Take wholly free extents out of this process's store; `ExtentsGivenBack` comes back."""


class DisconnectNode(Effect, frozen=True):
    """That node is dead: close every link to a process of it, and let none come any more; a `PeerLost` comes back for
    each."""

    node: ProcessId


class Disconnect(Effect, frozen=True):
    """The node says that this process is dead, and its link has not broken by itself (a forked grandchild keeps
    the descriptor open): close it after what has arrived; `PeerLost` comes back."""

    peer: ProcessId
