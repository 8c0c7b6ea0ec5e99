"""What is around a process of users' code: its environment, `sys.path` and working directory.

Workers begin with what the driver had at `init`. An actor's process, and so each worker of a pool, becomes like the
process that makes it: what has changed there since travels with the creation, first among its arguments, and is in
place before the others and the class are loaded. So a pool that is made later sees what a forked one would. Tasks
share processes, and theirs stay as they were.
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


class Surroundings:
    """Those with which a worker begins, as this process had them."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._path = search_path()
        self._directory = _directory()

    def changes(self) -> Changes | None:
        before, now = self._environment, dict(os.environ)
        path, directory = search_path(), _directory()
        if now == before and path == self._path and directory == self._directory:
            return None
        return Changes(
            {name: value for name, value in now.items() if before.get(name) != value},
            tuple(name for name in before if name not in now),
            None if path == self._path else path,
            None if directory == self._directory else directory,
        )


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


def search_path() -> list[str]:
    """`sys.path` as it means the same in another directory."""
    return [path if path else _directory() for path in sys.path if isinstance(path, str)]


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""  # somebody has removed it
