"""What `multiprocessing`'s own pickler knows: `ForkingPickler.register`, and descriptors, which travel as handles.

A type that a program or a library has registered there is reduced so here, too. Plain pickle does the same as the
standard library's own reducers, or raises and is done again by value (`by_value.py`), but for a pipe's end: it writes
down a bare number. So here it raises for that, too, by way of `copyreg`: to search each pickle for the module's name
would take longer the larger it is. Thus only types that others have registered keep values from `pickle.dumps`: a
Pickler with a table is slower.

Left alone, though registered:
- methods, their descriptors and partials: both picklers here do more than the standard library's reducers;
- arrays of NumPy and pyarrow, which leave the stream;
- what torch registers for its tensors: shared memory, whose handle is good for one reader. They are copied.

**A handle is good for one fetch** (`multiprocessing.resource_sharer`: a thread of the sender's serves it at a socket).
What is read once may hold some: arguments, results. What may be read by many may not: `put`, the definition of a
function. Pickling that fails gives its handles back. A pickle that is made, and that nobody reads, does not (a queued
call that is cancelled, a group that its pool pickles again for another worker): the sender holds them until it ends.
The key goes with each, so that any process of the session can fetch it: that of the sender's thread, which began with
the key that its process had then.
"""

from __future__ import annotations

import copyreg
import os
import sys
import threading
from collections.abc import Callable
from pickle import DEFAULT_PROTOCOL, PicklingError, UnpicklingError
from typing import Any

from miniray.core.ids import ObjectId

Reducers = dict[type[Any], Callable[[Any], Any]]
Found = dict[ObjectId, Any]  # refs, each once; under `_HANDLES` the keys of descriptors

_HANDLES = ObjectId(b"handles")
_OUT_OF_BAND = ("numpy", "pyarrow.lib")
_READ_ONCE = (
    "a pipe's end, or a socket, can be received once, and this may be read more often: it travels in arguments and "
    "results, not in what is put or raised, nor in the definition of a function"
)


class Collecting(threading.local):
    """What this thread's pickle has found so far."""

    refs: Found | None = None


collecting = Collecting()


class ReadOnceError(PicklingError):
    """What may be read more than once holds a descriptor."""


# ---- which reducers there are ----


_registered: Reducers | None = None  # `ForkingPickler`'s own; None: its module was not imported yet
_seen: Reducers = {}  # what it had when it was last looked at
_others: Reducers = {}
_used: Reducers = {}


def others_reducers() -> Reducers:
    """Those of types for which plain pickle might do something else, and not say so. New types are seen by their
    number, which is looked at for each pickle."""
    global _registered
    if _registered is None:
        kind: Any = getattr(sys.modules.get("multiprocessing.reduction"), "ForkingPickler", None)
        if kind is None:  # or another thread is importing it
            return _others
        _registered = kind._extra_reducers
    if len(_registered) != len(_seen):
        _look(_registered.copy())
    return _others


def used_reducers() -> Reducers:
    """For the pickler by value, which has to do what plain pickle cannot."""
    others_reducers()
    if _registered is None:
        return _used
    if _registered != _seen:
        _look(_registered.copy())
    used = _used  # another thread may look meanwhile
    if _reduce_descriptor not in used.values():
        from multiprocessing.resource_sharer import DupFd  # it comes with the first descriptor, which is too late

        used[DupFd] = _reduce_descriptor
    return used


def _look(registered: Reducers) -> None:
    global _seen, _others, _used
    others: Reducers = {}
    used: Reducers = {}
    for kind, reduce in registered.items():
        module = getattr(reduce, "__module__", None) or ""
        is_callable = module == "multiprocessing.reduction" and kind.__module__ != "socket"
        if is_callable or module.startswith("torch.") or kind.__module__ in _OUT_OF_BAND:
            continue
        used[kind] = reduce
        if not module.startswith("multiprocessing."):
            others[kind] = reduce
        elif kind.__module__ == "multiprocessing.connection":
            copyreg.dispatch_table.setdefault(kind, _leave_to_by_value)
    _others, _used, _seen = others, used, registered


def _leave_to_by_value(end: Any) -> Any:
    if collecting.refs is None:  # somebody else's pickle
        return end.__reduce_ex__(DEFAULT_PROTOCOL)
    raise PicklingError("plain pickle would write down a bare number")


# ---- descriptors ----


class Descriptor:
    """Arrives for a `resource_sharer.DupFd`: the reducers of pipes' ends and sockets ask it for theirs."""

    def __init__(self, address: Any, number: int, key: bytes) -> None:
        self._address = address
        self._number = number
        self._key = key

    def detach(self) -> int:
        from multiprocessing.connection import Client
        from multiprocessing.reduction import recv_handle

        try:
            with Client(self._address, authkey=self._key) as link:
                link.send((self._number, os.getpid()))
                return recv_handle(link)
        except (EOFError, OSError) as error:
            raise UnpicklingError(
                "a pipe's end, or a socket, cannot be received: either it was already, which can be done once, or the "
                "process that has sent it has ended"
            ) from error


def _reduce_descriptor(shared: Any) -> Any:
    address, number = shared._id
    found = collecting.refs
    if found is None:
        _give_back(number)
        raise ReadOnceError(_READ_ONCE)
    found.setdefault(_HANDLES, []).append(number)
    return Descriptor, (address, number, bytes(_sharer()._listener._authkey))


def refs_of(found: Found) -> tuple[ObjectId, ...]:
    return tuple([one for one in found if one is not _HANDLES])


def refuse_handles(found: Found) -> None:
    """The pickle may be read more than once."""
    if _HANDLES in found:
        raise ReadOnceError(_READ_ONCE)


def give_back(found: Found) -> None:
    """Nobody will read the pickle."""
    for number in found.get(_HANDLES, ()):
        _give_back(number)


def _give_back(number: int) -> None:
    entry = _sharer()._cache.pop(number, None)
    if entry is not None:
        close = entry[1]
        close()


def _sharer() -> Any:
    from multiprocessing import resource_sharer

    return vars(resource_sharer)["_resource_sharer"]
