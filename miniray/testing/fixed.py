"""What would differ from run to run is fixed while a simulated run lasts.

- The collector is off, so objects die when their last reference goes, or at the run's own calls of `gc.collect`.
- `uuid.uuid4` is drawn from the session's name: classes that travel by value are named by it.
- So is the name of this process as the origin of functions that travel by value; and it has pickled nothing yet, so
  that a second run numbers classes and globals as the first one did.
- What simulated code does to the environment is undone, so that the next run does not find it.
"""

from __future__ import annotations

import gc
import os
import threading
import uuid
from random import Random

from miniray._serialization import namespaces
from miniray.testing.fibers import inside_fiber


class Fixed:
    """Between `begin` and `end`. Runs do not nest."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def begin(self) -> None:
        global _active
        _active = self
        self._draw = Random(self._name).getrandbits
        self._runner = threading.get_ident()
        self._environ = dict(os.environ)
        self._uuid4, self._origin = uuid.uuid4, namespaces.versions.origin
        self._origins = namespaces.process_table().origins
        uuid.uuid4 = _uuid4
        namespaces.versions.origin = self._name.hex()
        namespaces.process_table().origins = {namespaces.versions.origin: None}
        from miniray._serialization.by_value import begin_anew  # loads cloudpickle

        self._go_back = begin_anew()
        gc.collect()
        self._collects = gc.isenabled()
        gc.disable()

    def uuid4(self) -> uuid.UUID | None:
        """None to a thread that is no part of the run."""
        ours = inside_fiber() or threading.get_ident() == self._runner
        return uuid.UUID(int=self._draw(128), version=4) if ours else None

    def end(self) -> None:
        global _active
        if _active is self:
            _active = None
            self._go_back()
            uuid.uuid4 = self._uuid4
            namespaces.versions.origin = self._origin
            namespaces.process_table().origins = self._origins
            for name in [one for one in os.environ if one not in self._environ]:
                del os.environ[name]
            os.environ.update({name: old for name, old in self._environ.items() if os.environ.get(name) != old})
            if self._collects:
                gc.enable()


_active: Fixed | None = None
_real_uuid4 = uuid.uuid4


def _uuid4() -> uuid.UUID:
    # A module that is imported in a run may bind this for ever: it is of the run that lasts now.
    drawn = _active.uuid4() if _active is not None else None
    return _real_uuid4() if drawn is None else drawn


_uuid4.__name__ = _uuid4.__qualname__ = "uuid4"  # pickled by this name, as the real one
_uuid4.__module__ = "uuid"
