"""The end of actors: the last handle gone, `kill`, the death of the process, cancelled calls."""

from __future__ import annotations

import gc
import os
import signal
import time

import pytest
from quiescence import assert_quiet, await_end

import miniray
from miniray.errors import ActorDiedError, TaskCancelledError

pytestmark = pytest.mark.usefixtures("session")


@miniray.remote
class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, amount=1):
        self.value += amount
        return self.value

    def pid(self):
        return os.getpid()

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self):
        os._exit(7)

    def nap(self, seconds):
        time.sleep(seconds)


def test_an_actor_made_by_a_task_lives_on_with_its_handle():
    """Its owner is the worker that ran the task, which stays for it."""

    @miniray.remote
    def make():
        counter = Counter.remote(5)
        miniray.get(counter.add.remote())
        return [counter]

    counter = miniray.get(make.remote())[0]
    assert miniray.get(counter.add.remote()) == 7
    pid = miniray.get(counter.pid.remote())
    del counter
    gc.collect()
    await_end(pid)


def test_the_last_handle_gone_ends_the_process_after_its_calls(tmp_path):
    counter = Counter.remote()
    pid = miniray.get(counter.pid.remote())
    nap = counter.nap.remote(0.2)
    last = counter.add.remote(3)
    del counter
    assert miniray.get(last) == 3 and miniray.get(nap) is None
    await_end(pid)
    del last, nap
    assert_quiet()


def test_a_handle_held_elsewhere_keeps_the_actor():
    @miniray.remote
    class Holder:
        def hold(self, box):
            self.box = box

        def use(self):
            return miniray.get(self.box[0].add.remote())

        def drop(self):
            self.box = None

    counter, holder = Counter.remote(), Holder.remote()
    pid = miniray.get(counter.pid.remote())
    miniray.get(holder.hold.remote([counter]))
    del counter
    gc.collect()
    assert miniray.get([holder.use.remote() for _ in range(3)]) == [1, 2, 3]
    miniray.get(holder.drop.remote())
    await_end(pid)


def test_an_actor_whose_handle_goes_at_once():
    for _ in range(5):
        Counter.remote()
    assert_quiet()
    ref = Counter.remote(41).add.remote()
    assert miniray.get(ref) == 42


def test_kill():
    counter = Counter.remote()
    pid = miniray.get(counter.pid.remote())
    running = counter.nap.remote(60)
    queued = counter.add.remote()
    miniray.kill(counter)
    for ref in (running, queued, counter.add.remote()):
        with pytest.raises(ActorDiedError, match=r"Counter.* ended by kill\(\)") as caught:
            miniray.get(ref)
        assert "perhaps" not in str(caught.value), "who has killed it is known"
    await_end(pid)
    miniray.kill(counter)  # once more does no harm
    unborn = Counter.remote()
    miniray.kill(unborn)
    with pytest.raises(ActorDiedError):
        miniray.get(unborn.add.remote())


def test_kill_by_a_borrower():
    counter = Counter.remote()
    pid = miniray.get(counter.pid.remote())
    miniray.get(miniray.remote(lambda box: miniray.kill(box[0])).remote([counter]))
    await_end(pid)
    with pytest.raises(ActorDiedError):
        miniray.get(counter.add.remote())


@pytest.mark.parametrize(("method", "why"), [("die", "signal 9"), ("leave", "code 7")])
def test_a_process_that_dies_fails_its_calls(method, why):
    counter = Counter.remote()
    before = counter.add.remote()
    assert miniray.get(before) == 1
    pid = miniray.get(counter.pid.remote())
    dying = getattr(counter, method).remote()
    behind = counter.add.remote()
    for ref in (dying, behind, counter.add.remote()):
        with pytest.raises(ActorDiedError, match=f"{pid}.*{why}"):
            miniray.get(ref)
    assert miniray.get(before) == 1

    @miniray.remote
    def ask(box):
        try:
            return miniray.get(box[0].add.remote())
        except ActorDiedError as error:
            return str(error)

    assert why in miniray.get(ask.remote([counter]))


def test_cancel_of_calls():
    counter = Counter.remote()
    running = counter.nap.remote(60)
    queued = counter.add.remote(100)
    last = counter.add.remote(1)
    miniray.cancel(queued)
    with pytest.raises(TaskCancelledError):
        miniray.get(queued)
    miniray.cancel(running)
    with pytest.raises(TaskCancelledError):
        miniray.get(running)
    assert miniray.get(last) == 1


def test_many_actors_at_once():
    actors = [Counter.remote(i) for i in range(8)]
    assert miniray.get([actor.add.remote() for actor in actors]) == list(range(1, 9))
    assert len(set(miniray.get([actor.pid.remote() for actor in actors]))) == 8
    del actors
    assert_quiet()
