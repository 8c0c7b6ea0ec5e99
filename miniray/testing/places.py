"""Where users' code is: the innermost line of a stack that is neither miniray's nor the standard library's."""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import miniray

_PACKAGE = str(Path(miniray.__file__).parent)
_STANDARD = (sysconfig.get_path("stdlib"), "<frozen")
_INSTALLED = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))  # they lie in the standard library's folder


def is_own(file: str) -> bool:
    """Whether it is a file of the users' own: no package that is installed, and none of the above."""
    installed = "site-packages" in file or "dist-packages" in file
    return not installed and not file.startswith((*_STANDARD, *_INSTALLED, _PACKAGE))


def users_frames_of(frame: FrameType | None) -> Iterator[FrameType]:
    """The innermost first."""
    while frame is not None:
        file = frame.f_code.co_filename
        standard = file.startswith(_STANDARD) and not file.startswith(_INSTALLED)
        if not standard and not file.startswith(_PACKAGE):
            yield frame
        frame = frame.f_back


def place_of(frame: FrameType | None) -> str:
    """`file.py:31 in main`; "" if there is none."""
    found = next(users_frames_of(frame), None)
    return "" if found is None else f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_name}"


def line_of(frame: FrameType | None) -> str:
    """The same, with what stands there: `file.py:31 in main (time.sleep(1))`."""
    found = next(users_frames_of(frame), None)
    source = "" if found is None else linecache.getline(found.f_code.co_filename, found.f_lineno).strip()
    return place_of(found) + (f" ({source})" if source else "")
