"""An exception as bytes, for whoever sends outcomes of several calls in one answer, as `miniray.pool` does."""

from __future__ import annotations

from miniray._api.object_ref import ObjectRef
from miniray._runtime.context import current
from miniray._runtime.signals import unbroken
from miniray._serialization.exceptions import deserialize_exception, serialize_exception
from miniray.core.ids import ObjectId
from miniray.core.owner.events import RefsHeld


def pack_error(error: BaseException) -> tuple[bytes, list[ObjectRef[object]]]:
    """`error` for `unpack_error`, with its cause and its notes, whatever its class does when it is pickled; and the
    refs that it holds, which have to travel with it. Nothing of the exception's own is raised."""
    data, _, inner = serialize_exception(error)
    return data, _held(inner) if inner else []


@unbroken
def _held(inner: tuple[ObjectId, ...]) -> list[ObjectRef[object]]:
    process = current()
    process.post(RefsHeld([*inner]))
    return [ObjectRef(object_id, process) for object_id in inner]


def unpack_error(data: bytes) -> BaseException:
    """The exception; one of another type, with the same text, where it could not be packed or cannot be read here."""
    return deserialize_exception(data)
