"""What was there before a simulated run is not looked at by the collector: each run collects, more than once.

With a million objects in the process a run of 4 ms took 90 ms and more. `gc.freeze` and `gc.unfreeze` cost nothing,
but are about all that there is: so a block inside of a block does nothing, nor does one where somebody else has frozen
what there is.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

_MOST_LEFT = 8  # clusters that outlived their runs, with two open files each: a failure's traceback keeps its own
_bound = _MOST_LEFT  # what is held by somebody stays, and is not looked for each time
clusters: WeakSet[Any] = WeakSet()


@contextmanager
def frozen_heap() -> Iterator[None]:
    """For one thread at a time. What is garbage already is frozen with the rest, until the end of the block."""
    global _bound
    if gc.get_freeze_count():
        yield
        return
    if len(clusters) > _bound:
        gc.collect()
        _bound = len(clusters) + _MOST_LEFT
    try:
        gc.freeze()
        yield
    finally:
        try:
            gc.collect()  # of what was made inside alone: the next run is not to freeze what is left of this one
        finally:
            gc.unfreeze()  # also where Ctrl-C has come meanwhile
