"""Calls that travel together share nothing that they would not share under the standard pool.

There, each task is a pickle: a call, or a chunk of calls. A dict that is passed to two calls is two dicts in the
workers, and what a call returns is what it was then, whatever the function does to it later. Here a group of several
tasks is one message, so what they hold goes into it as parcels, a pickle each: one for each task on the way out, one
for each result on the way back. What cannot change needs none; what should not be copied (`miniray.Snapshots`) has a
group of its own, or ends the group that it comes of.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import miniray
from miniray.errors import MinirayError, ObjectStoreFullError

APPLY, MAP, STARMAP = range(3)  # an item is (args, kwargs), the argument, the arguments
ATOMS = frozenset({int, float, bool, complex, type(None), str, bytes})


class Parcel:
    """An item of the input, as it was when it was read."""

    __slots__ = ("data", "ref")

    def __init__(self, data: bytes | None, ref: Any = None) -> None:
        self.data = data  # the pickle of a list of one item
        self.ref = ref  # such a list, if it is stored: then it travels by itself

    @property
    def nbytes(self) -> int:
        return len(self.data or ())


def is_atomic(value: Any) -> bool:
    """Whether it cannot change, so that nobody can tell one from another like it."""
    kind = type(value)
    return kind in ATOMS or (kind is tuple and ATOMS.issuperset(map(type, value)))


def are_atomic(items: Sequence[Any], mode: int) -> bool:
    if mode == APPLY:
        return all([is_atomic(args) and (not named or _is_atomic_dict(named)) for args, named in items])
    return isinstance(items, range) or ATOMS.issuperset(map(type, items)) or all(map(is_atomic, items))


def _is_atomic_dict(value: Any) -> bool:
    return type(value) is dict and ATOMS.issuperset(map(type, value.values()))


def pack_item(item: Any) -> Any:
    """An item that has just been read from an input, which may change it in order to make the next one of it."""
    if is_atomic(item):
        return item
    data = miniray.Snapshots().take([item])
    if data is not None:
        return Parcel(data)
    try:
        return Parcel(None, miniray.put([item]))
    except ObjectStoreFullError:
        data = miniray.Snapshots(whole=True).take([item])
    except MinirayError:
        pass  # it cannot be pickled, or the session has ended: each call says so
    return item if data is None else Parcel(data)


def pack(items: Sequence[Any], ends: Sequence[int]) -> tuple[list[bytes], int]:
    """Parcels of the items up to each of the `ends`, as far as they go; how many items are in them."""
    take = miniray.Snapshots().take
    parcels: list[bytes] = []
    start = 0
    for end in ends:
        part = items[start:end]
        if any([type(item) is Parcel for item in part]):
            made = [item.data if type(item) is Parcel else take([item]) for item in part]
        else:
            made = [take(part)]
        whole = [data for data in made if data is not None]
        if len(whole) < len(made):
            break
        parcels += whole
        start = end
    return parcels, start


def unpack(parcels: Sequence[bytes]) -> list[Any]:
    return [item for data in parcels for item in pickle.loads(data)]


def unpack_with(function: bytes, parcels: Sequence[bytes]) -> list[tuple[Any, Any]]:
    """The items, each with the function of its parcel."""
    return [(own, item) for data in parcels for own in (pickle.loads(function),) for item in pickle.loads(data)]
