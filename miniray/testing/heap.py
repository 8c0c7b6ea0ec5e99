"""What was there before a simulated run is not looked at by the collector: each run collects, more than once.

With a million objects in the process a run of 4 ms took 90 ms and more. `gc.freeze` and `gc.unfreeze` cost nothing,
but are about all that there is: so blocks inside of a block do nothing, and what somebody else has frozen stays frozen.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

_MANY = 20_000  # objects that were not frozen by who has frozen others; fewer are looked at in a millisecond
_MOST_LEFT = 8  # clusters that outlived their runs, with two open files each: a failure's traceback keeps its own
_bound = _MOST_LEFT  # what is held by somebody stays, and is not looked for each time
_inside = False
clusters: WeakSet[Any] = WeakSet()


@contextmanager
def frozen_heap() -> Iterator[None]:
    """For one thread at a time. What is garbage already is frozen with the rest, until the end of the block."""
    global _inside, _bound
    if _inside:
        yield
        return
    somebody_has = gc.get_freeze_count() > 0
    if not somebody_has:
        if len(clusters) > _bound:
            gc.collect()
            _bound = len(clusters) + _MOST_LEFT
        gc.freeze()
    elif len(gc.get_objects()) > _MANY:
        gc.collect()  # what is frozen now stays so, which is bearable for what lives
        gc.freeze()
    _inside = True
    try:
        yield
    finally:
        _inside = False
        gc.collect()  # of what was made inside alone: the next run is not to freeze what is left of this one
        if not somebody_has:
            gc.unfreeze()
