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
import uuid
from random import Random

from miniray._serialization import namespaces


class Fixed:
    """Between `begin` and `end`. Runs do not nest."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._active = False

    def begin(self) -> None:
        draw = Random(self._name).getrandbits
        self._environ = dict(os.environ)
        self._uuid4, self._origin = uuid.uuid4, namespaces.versions.origin
        self._origins = namespaces.process_table().origins
        uuid.uuid4 = lambda: uuid.UUID(int=draw(128), version=4)
        namespaces.versions.origin = self._name.hex()
        namespaces.process_table().origins = {namespaces.versions.origin: None}
        from miniray._serialization.by_value import begin_anew  # loads cloudpickle

        self._go_back = begin_anew()
        gc.collect()
        gc.disable()
        self._active = True

    def end(self) -> None:
        if self._active:
            self._active = False
            self._go_back()
            uuid.uuid4 = self._uuid4
            namespaces.versions.origin = self._origin
            namespaces.process_table().origins = self._origins
            for name in [one for one in os.environ if one not in self._environ]:
                del os.environ[name]
            os.environ.update({name: old for name, old in self._environ.items() if os.environ.get(name) != old})
            gc.enable()
