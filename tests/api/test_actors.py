"""Actors: order, state, errors, death, handles that travel, and the end with the last handle."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import pytest
from quiescence import assert_quiet, await_end

import miniray
from miniray.errors import ActorDiedError, TaskCancelledError, TaskError

pytestmark = pytest.mark.usefixtures("session")


@miniray.remote
class Counter:
    def __init__(self, start=0):
        self.value = start
        self.seen = []

    def add(self, amount=1):
        self.value += amount
        return self.value

    def note(self, item):
        self.seen.append(item)

    def notes(self):
        return self.seen

    def pid(self):
        return os.getpid()

    def fail(self, kind=ValueError):
        raise kind("told to")

    def pair(self):
        return 1, 2

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self):
        os._exit(7)

    def nap(self, seconds):
        time.sleep(seconds)


@miniray.remote
class Refuses:
    def __init__(self):
        raise LookupError("no such thing")

    def call(self):
        return 1


def call_from_a_task(counter, times):
    return miniray.get([counter.add.remote() for _ in range(times)])


def test_state_is_kept_and_calls_run_in_order():
    counter = Counter.remote(10)
    assert miniray.get([counter.add.remote() for _ in range(300)]) == list(range(11, 311))
    for i in range(500):
        counter.note.remote(i)
    assert miniray.get(counter.notes.remote()) == list(range(500))


def test_order_is_kept_when_arguments_are_not_ready():
    @miniray.remote
    def slow(value):
        time.sleep(0.1)
        return value

    counter = Counter.remote()
    for i in range(6):
        counter.note.remote(slow.remote(i) if i % 3 == 0 else i)
    assert miniray.get(counter.notes.remote()) == list(range(6))


def test_a_failed_argument_leaves_no_gap():
    @miniray.remote
    def broken():
        raise ValueError("broken")

    counter = Counter.remote()
    bad = counter.add.remote(broken.remote())
    good = counter.add.remote(5)
    assert miniray.get(good) == 5
    with pytest.raises(ValueError, match="broken"):
        miniray.get(bad)


def test_each_caller_has_its_own_order():
    counter = Counter.remote()

    def call(name):
        for i in range(100):
            counter.note.remote((name, i))

    threads = [threading.Thread(target=call, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    @miniray.remote
    def call_there(counter):
        return miniray.get([counter.note.remote(("task", i)) for i in range(100)]) and None

    miniray.get(call_there.remote(counter))
    notes = miniray.get(counter.notes.remote())
    assert len(notes) == 300
    for name in ("a", "b", "task"):
        assert [i for who, i in notes if who == name] == list(range(100))


def test_exceptions_of_methods_leave_the_actor_as_it_is():
    counter = Counter.remote(1)
    with pytest.raises(ValueError, match=r"Counter.fail\(\) raised ValueError: told to"):
        miniray.get(counter.fail.remote())
    with pytest.raises(KeyError):
        miniray.get(counter.fail.remote(KeyError))
    assert miniray.get(counter.add.remote()) == 2


def test_an_exception_of_the_constructor():
    refuses = Refuses.remote()
    for _ in range(2):
        with pytest.raises(ActorDiedError, match="LookupError: no such thing") as caught:
            miniray.get(refuses.call.remote())
        assert isinstance(caught.value.__cause__, LookupError)


def test_num_returns_and_names_of_methods():
    counter = Counter.remote()
    assert miniray.get(counter.pair.options(num_returns=2).remote()) == [1, 2]
    with pytest.raises(ValueError, match="my call"):
        miniray.get(counter.fail.options(name="my call").remote())


def test_retry_exceptions_of_a_call():
    @miniray.remote
    class Flaky:
        def __init__(self):
            self.tries = 0

        def work(self):
            self.tries += 1
            if self.tries < 3:
                raise OSError("not yet")
            return self.tries

    flaky = Flaky.remote()
    assert miniray.get(flaky.work.options(retry_exceptions=[OSError]).remote()) == 3


def test_handles_passed_to_tasks_and_to_other_actors():
    counter = Counter.remote()
    task = miniray.remote(call_from_a_task)
    results = miniray.get([task.remote(counter, 10) for _ in range(3)])
    assert sorted(sum(results, [])) == list(range(1, 31))

    @miniray.remote
    class Forwards:
        def __init__(self, target):
            self.target = target

        def add(self):
            return miniray.get(self.target.add.remote())

        def hand_out(self):
            return {"target": self.target}

    forwards = Forwards.remote(counter)
    assert miniray.get(forwards.add.remote()) == 31
    again = miniray.get(forwards.hand_out.remote())["target"]
    assert again == counter and hash(again) == hash(counter) and miniray.get(again.add.remote()) == 32


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
        with pytest.raises(ActorDiedError, match="Counter"):
            miniray.get(ref)
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


def test_the_handle_is_helpful():
    counter = Counter.remote()
    assert repr(counter).startswith("ActorHandle(Counter, ") and repr(Counter) == "ActorClass(Counter)"
    assert "add" in dir(counter)
    with pytest.raises(AttributeError, match="has no method 'value'.*add.*note"):
        counter.value  # noqa: B018
    with pytest.raises(TypeError, match=r"call Counter.remote\(...\)"):
        Counter(1)
    with pytest.raises(TypeError, match=r"add.*remote\(...\)"):
        counter.add()


def test_many_actors_at_once():
    actors = [Counter.remote(i) for i in range(8)]
    assert miniray.get([actor.add.remote() for actor in actors]) == list(range(1, 9))
    assert len(set(miniray.get([actor.pid.remote() for actor in actors]))) == 8
    del actors
    assert_quiet()


def test_actors_wait_for_each_other():
    @miniray.remote
    class Tree:
        def __init__(self, depth):
            self.children = [Tree.remote(depth - 1) for _ in range(2)] if depth else []

        def count(self):
            return 1 + sum(miniray.get([child.count.remote() for child in self.children]))

    tree = Tree.remote(2)
    assert miniray.get(tree.count.remote()) == 7


def test_actors_take_no_cpu_but_what_they_ask_for():
    greedy = Counter.options(num_cpus=2).remote()
    assert miniray.get(greedy.add.remote()) == 1
    blocked = miniray.remote(lambda: 1).remote()
    assert miniray.wait([blocked], timeout=0.1) == ([], [blocked])
    del greedy
    gc.collect()
    assert miniray.get(blocked, timeout=10) == 1


def test_an_error_of_a_nested_call_has_its_cause():
    counter = Counter.remote()

    @miniray.remote
    def outer(counter):
        return miniray.get(counter.fail.remote())

    with pytest.raises(TaskError) as caught:
        miniray.get(outer.remote(counter))
    assert isinstance(caught.value, ValueError) and "told to" in str(caught.value)
