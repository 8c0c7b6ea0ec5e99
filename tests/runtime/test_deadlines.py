"""How long one poll lasts: until the first of two deadlines, and not at all when that has passed."""

from __future__ import annotations

from typing import Any

import pytest

from miniray._runtime.driving import NEAR_SECONDS, Driving

NOW = 1000.0


class World:
    """A loop with a deadline, and a transport to which nothing arrives: a poll ends when its time is over."""

    def __init__(self, due: float | None) -> None:
        self.now, self.due = NOW, due
        self.polled: list[float | None] = []
        self.asleep: list[bool] = []
        self.ticks = self.spins = 0
        self.outboxes: dict[Any, Any] = {}
        loop: Any = self
        self.driving = Driving(loop, loop, lambda: self.now, list, lambda: False, self._may_spin, self._on_broken)

    def _may_spin(self) -> bool:
        self.spins += 1
        return False

    def _on_broken(self, error: Exception) -> None:
        raise error

    def deadline(self) -> float | None:
        return self.due

    def receive(self, arrivals: list[Any]) -> None:
        assert not arrivals

    def tick(self) -> None:
        self.ticks += 1

    def poll(self, timeout: float | None) -> list[Any]:
        self.polled.append(timeout)
        self.asleep.append(self.driving.asleep)
        self.now += timeout or 0.0
        return []

    def poll_once(self, deadline: float | None) -> float | None:
        self.driving.asleep = True
        self.driving._poll_once(deadline, spin=True)
        (timeout,) = self.polled
        return timeout


@pytest.mark.parametrize(
    ("due", "deadline", "timeout"),
    [
        (None, None, None),
        (NOW + 5, None, 5.0),
        (None, NOW + 5, 5.0),
        (NOW + 3, NOW + 5, 3.0),
        (NOW + 5, NOW + 3, 3.0),
        (NOW + 2_000_000, None, 2_000_000.0),
        (NOW, None, 0.0),
        (NOW - 7, None, 0.0),  # it was held up: by a collection, by SIGSTOP
        (NOW - 7, NOW + 5, 0.0),
        (None, NOW - 7, 0.0),
        (NOW + 5, NOW - 7, 0.0),
    ],
)
def test_a_poll_ends_at_the_first_deadline(due: float | None, deadline: float | None, timeout: float | None) -> None:
    world = World(due)
    assert world.poll_once(deadline) == timeout
    assert world.ticks == (due is not None and due <= world.now), "the loop's own, and only that, is a tick"
    assert world.spins == (timeout != 0.0), "nobody looks twice at what is late already"


@pytest.mark.parametrize(("ahead", "asleep"), [(-1.0, False), (0.0, False), (NEAR_SECONDS / 2, False), (0.5, True)])
def test_who_polls_without_a_near_deadline_must_be_roused(ahead: float, asleep: bool) -> None:
    world = World(NOW + ahead)
    world.poll_once(None)
    assert world.asleep == [asleep]
