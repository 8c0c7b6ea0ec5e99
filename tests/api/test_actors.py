"""Actors: order, state, errors, death, handles that travel, and the end with the last handle."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest

import miniray
from miniray.errors import ActorDiedError, TaskError

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
    assert miniray.get(flaky.work.options(retry_exceptions=[OSError], max_task_retries=2).remote()) == 3


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
