"""What is around a process of users' code: its environment, `sys.path` and working directory.

Workers begin with what the driver had at `init`. An actor's process, and so each worker of a pool, becomes like the
process that makes it: what has changed there since travels with the creation, first among its arguments, and is in
place before the others and the class are loaded. So a pool that is made later sees what a forked one would.

Tasks share processes, whose environment and directory stay as they were. Of `sys.path` they get what it has more than
at `init`: it travels with the definitions of functions (`functions.py`), and is in place before a function and its
arguments are loaded. It only grows there, since what others have brought may be in use.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple


class Changes(NamedTuple):
    """Since the session began."""

    set: dict[str, str]  # variables of the environment
    removed: tuple[str, ...]
    path: list[str] | None  # the whole of it; None: as it was
    directory: str | None


class Additions(NamedTuple):
    """Places where modules are found now, and were not when the session began."""

    before: tuple[str, ...]  # all that were there then
    behind: tuple[str, ...]  # the first of these, at least

    def __bool__(self) -> bool:
        return bool(self.before or self.behind)


class Surroundings:
    """Those with which a worker begins, as this process had them."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._path = search_path()
        self._path_grew = False  # so workers may have more by now
        self._directory = _directory()

    def changes(self) -> Changes | None:
        before, now = self._environment, dict(os.environ)
        path, directory = search_path(), _directory()
        path_changed = self._path_grew or path != self._path
        if now == before and not path_changed and directory == self._directory:
            return None
        return Changes(
            {name: value for name, value in now.items() if before.get(name) != value},
            tuple(name for name in before if name not in now),
            path if path_changed else None,
            None if directory == self._directory else directory,
        )


    def additions(self) -> Additions:
        """To `sys.path`."""
        known, path = [_absolute(one) for one in self._path], [_absolute(one) for one in search_path()]
        start = next((index for index, one in enumerate(path) if one in known), len(path))
        found = Additions(tuple(path[:start]), tuple([one for one in path[start:] if one not in known]))
        self._path_grew |= bool(found)
        return found


class Carried:
    """Changes on their way: they are made where this is unpickled, and leave `ARRIVED` there."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def __reduce__(self) -> Any:
        return _arrive, tuple(self._changes)


ARRIVED = object()


def _arrive(changed: dict[str, str], removed: tuple[str, ...], path: list[str] | None, directory: str | None) -> object:
    os.environ.update(changed)
    for name in removed:
        os.environ.pop(name, None)
    if path is not None:
        sys.path[:] = path
    if directory is not None:
        os.chdir(directory)
    return ARRIVED


class Placed:
    """A function on its way, with the places that its modules and those of its arguments may need: where this is
    unpickled they are there first, and only the function arrives."""

    __slots__ = ("_additions", "_function")

    def __init__(self, additions: Additions, function: Any) -> None:
        self._additions = additions
        self._function = function

    def __reduce__(self) -> Any:
        return _second, (_Sought(self._additions), self._function)


class _Sought:
    __slots__ = ("_additions",)

    def __init__(self, additions: Additions) -> None:
        self._additions = additions

    def __reduce__(self) -> Any:
        return _seek_in, tuple(self._additions)


def _seek_in(before: tuple[str, ...], behind: tuple[str, ...]) -> None:
    sys.path[:0] = [one for one in before if one not in sys.path]
    sys.path += [one for one in behind if one not in sys.path]


def _second(first: object, second: object) -> object:
    return second


def search_path() -> list[str]:
    """`sys.path` as it means the same in another directory."""
    return [path if path else _directory() for path in sys.path if isinstance(path, str)]


def _absolute(path: str) -> str:
    """The directory of a worker may be another one."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:  # this one was removed
        return path


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""  # somebody has removed it
