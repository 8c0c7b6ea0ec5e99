"""What users try, and what must not hang, differ by chance, or be accepted in silence."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time

import pytest

import miniray
import miniray.pool.crew
from miniray._runtime.driving import ReentrantWaitError
from miniray.errors import SessionError


@pytest.fixture
def small_session():
    miniray.shutdown()
    miniray.init(num_cpus=1, object_store_memory=64 << 20)
    yield
    miniray.shutdown()


class Thing:
    def value(self):
        return 1


def test_a_future_of_an_ended_session_says_so(small_session):
    ref = miniray.remote(time.sleep).remote(30)
    miniray.shutdown()
    with pytest.raises(SessionError, match="shutdown"):
        ref.future().result(10)


def test_a_large_put_in_a_finaliser_of_the_collection_that_makes_room(small_session):
    """It ran in the very thread that waits for room, and waited for itself."""
    errors = []

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            try:
                miniray.put(bytes(60_000_000))
            except Exception as error:
                errors.append(error)

    kept = [miniray.put(bytes(10_000_000)) for _ in range(4)]
    gc.disable()
    try:
        Cycle()
        with pytest.raises(miniray.errors.ObjectStoreFullError):
            miniray.put(bytes(50_000_000))
    finally:
        gc.enable()
    assert [type(error) for error in errors] == [ReentrantWaitError]
    assert miniray.get(miniray.put(1)) == 1 and len(kept) == 4


def test_a_timeout_is_checked_also_when_nothing_has_to_be_waited_for(small_session):
    with pytest.raises(ValueError, match="timeout"):
        miniray.get(miniray.put(1), timeout="1")


@pytest.mark.parametrize("seconds", [float("inf"), 1e12, 3e6, 10**400])
def test_a_timeout_beyond_what_the_system_can_wait_is_none(small_session, seconds):
    soon = miniray.remote(lambda: time.sleep(0.3))
    assert miniray.get(soon.remote(), timeout=seconds) is None
    assert miniray.wait([soon.remote()], timeout=seconds)[1] == []


@pytest.mark.parametrize(
    ("word", "argument"),
    [("cancel", "force"), ("cancel", "recursive"), ("cancel", "running"), ("kill", "no_restart"), ("get", "writable"),
     ("wait", "fetch_local"), ("init", "ignore_reinit_error")],
)  # fmt: skip
@pytest.mark.parametrize("given", ["yes", 1, None])
def test_a_bool_that_is_none_is_refused(small_session, word, argument, given):
    """Any text is true: `force="no"` ended the process."""
    ref = miniray.put(1)
    subject = {"kill": [miniray.remote(Thing).remote()], "wait": [[ref]], "init": []}.get(word, [ref])
    with pytest.raises(TypeError, match=f"{word}: {argument} must be True or False, not .*{given}"):
        getattr(miniray, word)(*subject, **{argument: given})


def test_so_many_returns_that_they_find_no_room_are_refused_at_once():
    with pytest.raises(ValueError, match="num_returns must be at most"):
        miniray.remote(lambda: None).options(num_returns=10**9)


def test_an_actors_handle_has_no_state(small_session):
    thing = miniray.remote(Thing).remote()
    with pytest.raises(AttributeError, match="by its methods only"):
        thing.value = 3
    assert miniray.get(thing.value.remote()) == 1


async def coroutine():
    return 1


def generator():
    yield 1


@pytest.mark.parametrize("function", [coroutine, generator])
def test_what_cannot_travel_is_refused_when_it_is_made_remote(function):
    with pytest.raises(TypeError, match=f"{function.__name__} is a generator or async function"):
        miniray.remote(function)


class RunsLater:
    def lines(self):
        yield from self.numbers()

    def numbers(self):
        yield 1

    async def waits(self):
        return 1

    def total(self):
        return sum(self.lines()) + asyncio.run(self.waits())


@pytest.mark.parametrize("method", ["lines", "waits"])
def test_a_method_that_runs_later_cannot_be_called_from_outside(small_session, method):
    thing = miniray.remote(RunsLater).remote()
    with pytest.raises(AttributeError, match=f"no method '{method}' .* generator or async method returns cannot"):
        getattr(thing, method)
    assert miniray.get(thing.total.remote()) == 2


def test_init_inside_of_a_task(small_session):
    with pytest.raises(SessionError, match="inside of a task"):
        miniray.get(miniray.remote(lambda: miniray.init()).remote())


def test_a_call_that_could_not_be_sent_does_not_keep_a_pools_worker(small_session, monkeypatch):
    monkeypatch.setattr(sys.modules["miniray.pool.crew"], "JOIN_SECONDS", 60.0)
    with miniray.Pool(1) as pool:
        with pytest.raises(TypeError, match="lock"):
            pool.apply(abs, (threading.Lock(),))
        pool.close()
        began = time.monotonic()
        pool.join()
        assert time.monotonic() - began < 30, "it waits a minute for a worker that is held"

