"""Actors that are restarted after their process died, and calls that are made again."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from quiescence import assert_quiet, await_end, eventually

import miniray
from miniray.errors import ActorDiedError

pytestmark = pytest.mark.usefixtures("session")


@miniray.remote(max_restarts=2)
class Fragile:
    """Its lives, and the calls of all of them, are lines of a file."""

    def __init__(self, log: Path, given: Any = None) -> None:
        self.log, self.given, self.value = log, given, 0
        self._note("life")

    def _note(self, line: Any) -> None:
        with self.log.open("a") as file:
            file.write(f"{line}\n")

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def note(self, item: Any) -> Any:
        self._note(item)
        return item

    def die_once(self, mark: Path) -> str:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self._note("survived")
        return "survived"

    def die(self) -> None:
        self._note("dying")
        os.kill(os.getpid(), signal.SIGKILL)

    def pid(self) -> int:
        return os.getpid()

    def look(self) -> int:
        return int(self.given.sum())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def lines(log: Path) -> list[str]:
    return log.read_text().split()


def test_it_begins_anew_until_no_restart_is_left(log: Path) -> None:
    actor = Fragile.remote(log)
    for life in range(1, 4):
        assert miniray.get([actor.add.remote(), actor.add.remote()]) == [1, 2]
        assert lines(log).count("life") == life
        with pytest.raises(ActorDiedError, match=r"(?s)signal 9.*max_task_retries=0"):
            miniray.get(actor.die.remote())
    with pytest.raises(ActorDiedError, match="signal 9"):
        miniray.get(actor.add.remote())
    assert lines(log).count("dying") == 3, "a call without retries is made once"


def test_calls_are_made_again_in_their_order(log: Path, tmp_path: Path) -> None:
    actor = Fragile.options(max_task_retries=1).remote(log)
    miniray.get(actor.note.remote("first"))
    died = actor.die_once.remote(tmp_path / "mark")
    notes = [actor.note.remote(i) for i in range(400)]
    assert miniray.get(died) == "survived" and miniray.get(notes) == list(range(400))
    assert lines(log) == ["life", "first", "life", "survived", *map(str, range(400))]


def test_the_retries_of_a_call_are_counted(log: Path) -> None:
    actor = Fragile.options(max_restarts=-1, max_task_retries=5).remote(log)
    with pytest.raises(ActorDiedError, match="signal 9"):
        miniray.get(actor.die.options(max_task_retries=2).remote())
    assert lines(log).count("dying") == 3
    assert miniray.get(actor.add.remote()) == 1


def test_only_calls_that_were_under_way_fail(log: Path, tmp_path: Path) -> None:
    @miniray.remote
    def late() -> int:
        while not (tmp_path / "go").exists():
            time.sleep(0.005)
        return 5

    actor = Fragile.remote(log)
    miniray.get(actor.add.remote())
    died, waits = actor.die.remote(), actor.add.remote(late.remote())
    with pytest.raises(ActorDiedError):
        miniray.get(died)
    (tmp_path / "go").touch()
    assert miniray.get(waits) == 5


def test_borrowers_of_the_handle_find_the_next_life(log: Path, tmp_path: Path) -> None:
    @miniray.remote
    class Caller:
        def __init__(self, actor: Any) -> None:
            self.actor = actor

        def add(self) -> int:
            return miniray.get(self.actor.add.remote())

        def provoke(self, mark: Path) -> list[Any]:
            died = self.actor.die_once.remote(mark)
            return miniray.get([died, *[self.actor.add.remote() for _ in range(3)]])

    actor = Fragile.options(max_task_retries=-1).remote(log)
    callers = [Caller.remote(actor) for _ in range(2)]
    assert sorted(miniray.get([caller.add.remote() for caller in callers])) == [1, 2]
    assert miniray.get(callers[0].provoke.remote(tmp_path / "mark")) == ["survived", 1, 2, 3]
    assert miniray.get(callers[1].add.remote()) == 4
    assert miniray.get(actor.add.remote()) == 5


def test_a_borrower_learns_of_the_end(log: Path) -> None:
    @miniray.remote
    def use(actor: Any) -> int:
        return miniray.get(actor.add.remote())

    actor = Fragile.options(max_restarts=0).remote(log)
    assert miniray.get(use.remote(actor)) == 1
    with pytest.raises(ActorDiedError):
        miniray.get(actor.die.remote())
    with pytest.raises(ActorDiedError, match="signal 9"):
        miniray.get(use.remote(actor))


def test_what_the_constructor_was_given_is_kept_for_the_next_life(log: Path) -> None:
    import numpy as np

    actor = Fragile.remote(log, miniray.put(np.ones(200_000)))
    gc.collect()
    assert miniray.get(actor.look.remote()) == 200_000
    miniray.kill(actor, no_restart=False)
    eventually(lambda: lines(log).count("life") == 2, "it begins anew")
    assert miniray.get(actor.look.remote()) == 200_000
    pid = miniray.get(actor.pid.remote())
    del actor
    gc.collect()
    await_end(pid)
    assert_quiet()
    assert lines(log).count("life") == 2, "an actor that nobody holds is not restarted"


def test_kill_is_for_good_unless_it_says_otherwise(log: Path) -> None:
    actor = Fragile.remote(log)
    miniray.get(actor.add.remote())
    miniray.kill(actor)
    with pytest.raises(ActorDiedError, match=r"kill\(\)|signal 9"):
        miniray.get(actor.add.remote())
    assert lines(log) == ["life"]


def test_a_constructor_that_raises_in_a_later_life_ends_it(tmp_path: Path) -> None:
    @miniray.remote(max_restarts=-1)
    class Once:
        def __init__(self) -> None:
            (tmp_path / "made").touch(exist_ok=False)

        def die(self) -> None:
            os._exit(3)

    actor = Once.remote()
    for _ in range(2):
        with pytest.raises(ActorDiedError):
            miniray.get(actor.die.remote())
    with pytest.raises(ActorDiedError, match="FileExistsError"):
        miniray.get(actor.die.remote())


def test_exceptions_and_crashes_share_one_budget(log: Path, tmp_path: Path) -> None:
    @miniray.remote(max_restarts=-1, max_task_retries=2)
    class Flaky:
        def work(self) -> int:
            with log.open("a") as file:
                file.write("try\n")
            if len(lines(log)) == 1:
                os._exit(3)
            raise OSError("not yet")

    flaky = Flaky.remote()
    with pytest.raises(OSError, match="not yet"):
        miniray.get(flaky.work.options(retry_exceptions=True).remote())
    assert lines(log) == ["try"] * 3


def test_an_actor_that_keeps_its_own_handle_ends_with_the_last_other_one() -> None:
    @miniray.remote
    class Selfish:
        def keep(self, box: list[Any]) -> int:
            self.me = box[0]
            return os.getpid()

        def call(self) -> Any:
            return self.me.keep.remote([self.me])

    actor = Selfish.remote()
    pid = miniray.get(actor.keep.remote([actor]))
    assert miniray.get(miniray.get(actor.call.remote())) == pid
    del actor
    gc.collect()
    await_end(pid)
    assert_quiet()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_restarts": -2}, ValueError, "max_restarts must be -1 or more"),
        ({"max_task_retries": 1.5}, TypeError, "max_task_retries must be an int"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Fragile.options(**options)


def test_retries_of_exceptions_need_a_number(log: Path) -> None:
    actor = Fragile.remote(log)
    with pytest.raises(ValueError, match="retry_exceptions needs max_task_retries=N"):
        actor.add.options(retry_exceptions=True)
