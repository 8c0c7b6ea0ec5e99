"""Named levels of faults: how much may go wrong in a run, for those who do not want to write `Faults` down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from miniray.core.record import replace
from miniray.testing import faults as _faults
from miniray.testing.faults import NO_FAULTS, Faults
from miniray.transport import Choices

Level = Literal["none", "delays", "crashes", "all"]


def _delays(choices: Choices) -> Faults:
    return replace(_faults.draw(choices), crashes=(), one_failed_start_in=0)


def _crashes(choices: Choices) -> Faults:
    return Faults(crashes=_faults.draw(choices).crashes)


LEVELS: dict[Level, Callable[[Choices], Faults]] = {
    "none": lambda choices: NO_FAULTS,
    "delays": _delays,  # long delays, slow links, processes that stand still: nobody dies
    "crashes": _crashes,  # of workers, none to four in a run
    "all": _faults.draw,
}


def faults_of(given: Level | Faults, choices: Choices) -> Faults:
    """Raises:
    ValueError: there is no such level.
    TypeError: neither a level nor `Faults`.
    """
    if isinstance(given, Faults):
        return given
    if not isinstance(given, str):
        raise TypeError(f"faults must be Faults or one of {', '.join(map(repr, LEVELS))}, not {given!r}")
    draw = LEVELS.get(given)
    if draw is None:
        raise ValueError(f"faults must be Faults or one of {', '.join(map(repr, LEVELS))}, not {given!r}")
    return draw(choices)
