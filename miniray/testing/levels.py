"""Named levels of faults: how much may go wrong in a run, for those who do not want to write `Faults` down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from miniray.core.record import replace
from miniray.testing import faults as _faults
from miniray.testing.arguments import check_faults
from miniray.testing.choices import SeededChoices
from miniray.testing.faults import NO_FAULTS, Faults
from miniray.transport import Choices

_MORE = 1 << 44

Level = Literal["none", "delays", "crashes", "all"]


def _delays(choices: Choices, nodes: int) -> Faults:
    return replace(_faults.draw(choices, nodes), crashes=(), one_failed_start_in=0, node_crashes=())


def _crashes(choices: Choices, nodes: int) -> Faults:
    drawn = _faults.draw(choices, nodes)
    return Faults(crashes=drawn.crashes, node_crashes=drawn.node_crashes)


def _more(drawn: Faults, more: Choices, nodes: int) -> Faults:
    """What only a cluster of several nodes knows."""
    drawn = replace(drawn, broken_links=_faults.draw_links(more, between_nodes=True))
    if drawn.heal_after:
        drawn = replace(drawn, unhealed=_faults.draw_unhealed(more, nodes))
    return _faults.draw_strikes(more, _faults.draw_control(more, drawn), nodes)


LEVELS: dict[Level, Callable[[Choices, int], Faults]] = {
    "none": lambda choices, nodes: NO_FAULTS,
    "delays": _delays,  # long delays, slow links, processes that stand still: nobody dies
    "crashes": _crashes,  # of workers, none to four in a run; of several nodes, each but the driver's
    # and, of several nodes: links between them break, some nodes never heal, the control store crashes, and nodes die
    # when it matters (`strikes.py`)
    "all": _faults.draw,
}


def more_choices(seed: int) -> SeededChoices:
    """What kinds of faults that were thought of later are drawn from, so that the seed means what it meant."""
    return SeededChoices(seed + _MORE)


def faults_of(given: Level | Faults, choices: Choices, nodes: int, more: Choices) -> Faults:
    """
    Args:
        more: another source, of what only several nodes know.

    Raises:
        ValueError: there is no such level, or something of the `Faults` can never happen (`arguments.py`).
        TypeError: neither a level nor `Faults`, or something in it is of a wrong type.
    """
    if isinstance(given, Faults):
        check_faults(given, nodes)
        return given
    if not isinstance(given, str):
        raise TypeError(f"faults must be Faults or one of {', '.join(map(repr, LEVELS))}, not {given!r}")
    draw = LEVELS.get(given)
    if draw is None:
        raise ValueError(f"faults must be Faults or one of {', '.join(map(repr, LEVELS))}, not {given!r}")
    drawn = draw(choices, nodes)
    return _more(drawn, more, nodes) if given == "all" and nodes > 1 else drawn
