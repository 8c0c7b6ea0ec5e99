"""Each class of `miniray.errors`, raised by real processes: what failed, where it was called, what the far end said."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import miniray
from miniray import errors

HERE = Path(__file__)
CALLED = rf"called    at \S*{HERE.name}:\d+ in [\w<]"
REMOTE = rf"Traceback \(most recent call last\):\n  File \"\S*{HERE.name}\", line \d+, in "
TOO_LARGE = 20_000_000  # of eight bytes each


@miniray.remote
def fail(error):
    raise error


@miniray.remote
def fail_below():
    return miniray.get(fail.remote(ValueError("below")))


@miniray.remote
def echo(value):
    return value


@miniray.remote(max_retries=1)
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@miniray.remote
def make(count):
    return np.ones(count)


@miniray.remote
def put(count):
    return miniray.put(np.ones(count))


@miniray.remote
def lock():
    return [threading.Lock()]


@miniray.remote
def endless():
    threading.Event().wait()


@miniray.remote
class Actor:
    def __init__(self, error=None):
        if error is not None:
            raise error

    def make(self):
        return [miniray.put(1)]

    def fail(self):
        raise LookupError("of a method")

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


def of_a_cancelled_task():
    ref = endless.remote()
    miniray.cancel(ref)
    return miniray.get(ref)


def of_a_late_task():
    ref = endless.remote()
    try:
        return miniray.get(ref, timeout=0.01)
    finally:
        miniray.cancel(ref)


def of_a_dead_owner():
    actor = Actor.remote()
    (ref,) = miniray.get(actor.make.remote())
    miniray.wait([actor.die.remote()])
    return miniray.get(ref)


def of_a_killed_actor():
    actor = Actor.remote()
    miniray.get(actor.make.remote())
    miniray.kill(actor)
    return miniray.get(actor.make.remote())


def _get(call):
    return lambda: miniray.get(call())


# What raises it, its class, and what its text says, in this order.
ROWS = {
    "task": (
        _get(lambda: fail.remote(ValueError("bad"))), errors.TaskError,
        [r"\Afail\(\) raised ValueError: bad", r"task      fail, attempt 1 of 4", CALLED, REMOTE + "fail"],
    ),
    "task of a task": (
        _get(lambda: fail_below.remote()), errors.TaskError,
        [r"\Afail_below\(\) raised .*fail\(\) raised ValueError: below", CALLED, REMOTE + "fail", CALLED, REMOTE],
    ),
    "argument": (
        _get(lambda: echo.remote(fail.remote(ValueError("bad")))), errors.TaskError,
        [r"\Afail\(\) raised", CALLED, REMOTE + "fail"],
    ),
    "method": (
        _get(lambda: Actor.remote().fail.remote()), errors.TaskError,
        [r"\AActor.fail\(\) raised LookupError: of a method", CALLED, REMOTE + "fail"],
    ),
    "crash": (
        _get(lambda: die.remote()), errors.WorkerCrashedError,
        [r"\Adie was lost: worker \d+ was ended by signal 9", "task      die, attempt 2 of 2", CALLED, "max_retries="],
    ),
    "constructor": (
        _get(lambda: Actor.remote(KeyError("no")).make.remote()), errors.ActorDiedError,
        [r"\AActor failed, for its actor is dead: KeyError: 'no'", CALLED, REMOTE + "__init__"],
    ),
    "call that kills": (
        _get(lambda: Actor.remote().die.remote()), errors.ActorDiedError,
        [r"\AActor.die failed, .* ended by signal 9; the call was under way, and max_task_retries=0", CALLED],
    ),
    "killed actor": (of_a_killed_actor, errors.ActorDiedError, [r"\AActor.make failed, .* ended by kill\(\)", CALLED]),
    "cancel": (of_a_cancelled_task, errors.TaskCancelledError, [r"\Aendless was cancelled", CALLED]),
    "timeout": (
        of_a_late_task, errors.GetTimeoutError, [r"\Anot ready after 0.01 s: ObjectRef\(p1.t\d+.0, pending\)\Z"],
    ),
    "owner": (
        of_a_dead_owner, errors.OwnerDiedError,
        [r"\Athe process that owns object p\d+.t1.0 has died, and with it all knowledge of the object\Z"],
    ),
    "result without room": (
        _get(lambda: make.remote(TOO_LARGE)), errors.ObjectStoreFullError,
        [r"\Ano room for the result of make: .* [\d,]+ of [\d,]+ bytes are free", CALLED],
    ),
    "put without room": (
        lambda: miniray.put(np.ones(TOO_LARGE)), errors.ObjectStoreFullError, [r"\Athe object store has no room"],
    ),
    "put of a task without room": (
        _get(lambda: put.remote(TOO_LARGE)), errors.ObjectStoreFullError,
        [r"\Aput\(\) raised ObjectStoreFullError: the object store has no room", CALLED, REMOTE + "put"],
    ),
    "argument that cannot travel": (
        lambda: echo.remote({"a": threading.Lock()}), errors.SerializationError,
        [r"\Aecho: argument 0 -> \['a'\]: cannot pickle", CALLED],
    ),
    "result that cannot travel": (
        _get(lambda: lock.remote()), errors.ResultSerializationError,
        [r"\Alock has run, but the result cannot be sent back: .*\[0\].*cannot pickle", CALLED],
    ),
    "demand": (
        _get(lambda: echo.options(num_cpus=99).remote(1)), errors.InfeasibleError,
        [r"\Aecho can never run: it asks for {'CPU': 99.0}, and the whole session has {'CPU': 2.0", CALLED],
    ),
}  # fmt: skip

# The others end a session, or need a special one.
ELSEWHERE = {
    errors.WorkerInitializerError: "integrations/test_pool_life.py",
    errors.ActorUnavailableError: "system/test_broken_links.py",
    errors.ObjectLostError: "api/test_session.py",  # of a lost value: sim/test_lost_for_good.py
    errors.SessionError: "api/test_session.py",
    errors.NodeDiedError: "system/test_kills.py",
    errors.InternalError: "system/test_broken.py",
    errors.ForkedDriverError: "api/test_session.py",
}
BASES = (errors.MinirayError, errors.ActorError)


@pytest.fixture(scope="module", autouse=True)
def session():
    miniray.init(num_cpus=2, object_store_memory=50 << 20)
    yield
    miniray.shutdown()


@pytest.mark.parametrize("row", ROWS)
def test_it_says_what_failed_and_where(row):
    raises, kind, says = ROWS[row]
    with pytest.raises(kind) as caught:
        raises()
    assert caught.type is kind or issubclass(caught.type, errors.TaskError)
    text, at = str(caught.value), 0
    for pattern in says:
        found = re.compile(pattern).search(text, at)
        assert found, f"{pattern} from {at} on in:\n{text}"
        at = found.end()


def test_every_class_is_raised_somewhere():
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.MinirayError)]
    raised = {kind for _, kind, _ in ROWS.values()}
    assert set(classes) == {*raised, *ELSEWHERE, *BASES}
    for kind, file in ELSEWHERE.items():
        assert kind.__name__ in (HERE.parent.parent / file).read_text(), f"{kind.__name__} in {file}"
