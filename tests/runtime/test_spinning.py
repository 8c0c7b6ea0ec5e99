"""Looking before sleeping: only alone, only while it pays, and never for long."""

from __future__ import annotations

from miniray._runtime.spinning import MAX_PAUSE_WAITS, SPIN_SECONDS, Spinner
from miniray.core.ids import process_id
from miniray.transport import Frame

FRAME = Frame(process_id(b"test", 2), b"")


class World:
    """A transport and a clock: each look takes `cost`, and something arrives `after` so many."""

    def __init__(self, after: int | None, cost: float = SPIN_SECONDS / 10) -> None:
        self.after, self.cost = after, cost
        self.now, self.looks, self.alone = 0.0, 0, True
        self.spinner = Spinner(self, lambda: self.now, lambda: self.alone)  # type: ignore[arg-type]

    def poll(self, timeout: float) -> list[Frame]:
        assert timeout == 0.0
        self.looks += 1
        self.now += self.cost
        return [FRAME] if self.after is not None and self.looks % self.after == 0 else []


def test_what_arrives_in_time_is_found_each_time() -> None:
    world = World(after=3)
    assert [world.spinner.look() for _ in range(50)] == [[FRAME]] * 50


def test_it_does_not_look_when_more_is_under_way() -> None:
    world = World(after=1)
    world.alone = False
    assert world.spinner.look() == [] and world.looks == 0


def test_a_look_that_does_not_pay_is_tried_ever_more_rarely() -> None:
    world = World(after=None)
    tries = []
    for wait in range(4 * MAX_PAUSE_WAITS):
        before = world.looks
        assert world.spinner.look() == []
        assert world.looks - before <= 11, "no longer than it may"
        if world.looks > before:
            tries.append(wait)
    gaps = [later - earlier for earlier, later in zip(tries, tries[1:], strict=False)]
    assert gaps[:4] == [2, 3, 5, 9] and max(gaps) == MAX_PAUSE_WAITS + 1
    assert len(tries) < 20


def test_what_is_found_late_is_handed_out_and_does_not_count_as_paying() -> None:
    world = World(after=1, cost=2 * SPIN_SECONDS)  # the thread had lost its core
    assert world.spinner.look() == [FRAME]
    assert world.spinner.look() == [] and world.looks == 1


def test_one_that_pays_again_is_tried_each_time_again() -> None:
    world = World(after=None)
    for _ in range(100):
        world.spinner.look()
    world.after = 1
    while not world.spinner.look():
        pass
    assert [world.spinner.look() for _ in range(10)] == [[FRAME]] * 10
