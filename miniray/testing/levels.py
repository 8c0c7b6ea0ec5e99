"""Named levels of faults: how much may go wrong in a run, for those who do not want to write `Faults` down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from miniray.core.record import replace
from miniray.testing import faults as _faults
from miniray.testing.faults import NO_FAULTS, Faults
from miniray.transport import Choices

Level = Literal["none", "delays", "crashes", "all"]


def _delays(choices: Choices, nodes: int) -> Faults:
    return replace(_faults.draw(choices, nodes), crashes=(), one_failed_start_in=0, node_crashes=())


def _crashes(choices: Choices, nodes: int) -> Faults:
    drawn = _faults.draw(choices, nodes)
    return Faults(crashes=drawn.crashes, node_crashes=drawn.node_crashes)


LEVELS: dict[Level, Callable[[Choices, int], Faults]] = {
    "none": lambda choices, nodes: NO_FAULTS,
    "delays": _delays,  # long delays, slow links, processes that stand still: nobody dies
    "crashes": _crashes,  # of workers, none to four in a run; of several nodes, each but the driver's
    "all": _faults.draw,
}


def check_nodes(nodes: int) -> None:
    """Raises:
    TypeError: no whole number.
    ValueError: it is less than one.
    """
    if isinstance(nodes, bool) or not isinstance(nodes, int):
        raise TypeError(f"nodes must be a whole number, one or more, not {nodes!r:.80}")
    if nodes < 1:
        raise ValueError(f"nodes must be a whole number, one or more, not {nodes}")


def faults_of(given: Level | Faults, choices: Choices, nodes: int) -> Faults:
    """Raises:
    ValueError: there is no such level, or a node is to crash and there is but the driver's.
    TypeError: neither a level nor `Faults`.
    """
    if isinstance(given, Faults):
        if given.node_crashes and nodes == 1:
            raise ValueError("faults has node_crashes, but the driver's node never crashes: give nodes=2, or more")
        return given
    if not isinstance(given, str):
        raise TypeError(f"faults must be Faults or one of {', '.join(map(repr, LEVELS))}, not {given!r}")
    draw = LEVELS.get(given)
    if draw is None:
        raise ValueError(f"faults must be Faults or one of {', '.join(map(repr, LEVELS))}, not {given!r}")
    return draw(choices, nodes)
