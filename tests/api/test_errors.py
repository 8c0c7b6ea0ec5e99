"""Bad input gets one clear error and loses nothing: after each test the tables are empty and the session works."""

from __future__ import annotations

import os
import pickle
import sys
import threading

import pytest

import miniray
from miniray.errors import (
    ResultSerializationError,
    SerializationError,
    TaskError,
    WorkerCrashedError,
)

pytestmark = pytest.mark.usefixtures("session", "still_works")


@miniray.remote
def echo(*values, **named):
    return values or named


@pytest.fixture
def still_works(session):
    yield
    assert miniray.get([echo.remote(i) for i in range(5)], timeout=20) == [(i,) for i in range(5)]


class TwoArguments(Exception):
    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")
        self.what, self.where = what, where


def test_errors_as_data():
    data, refs = miniray.pack_error(TwoArguments("a fire", "home"))
    again = miniray.unpack_error(data)
    assert type(again) is TwoArguments and (again.what, again.where, refs) == ("a fire", "home", [])
    held = KeyError(miniray.put("inside"))
    held.add_note("a note")
    data, refs = miniray.pack_error(held)
    del held
    assert miniray.get(refs) == ["inside"]
    again = miniray.unpack_error(data)
    del refs
    assert miniray.get(again.args[0]) == "inside" and again.__notes__ == ["a note"]
    stand_in = miniray.unpack_error(miniray.pack_error(HoldsALock())[0])
    assert type(stand_in) is not HoldsALock and "holds a lock" in str(stand_in)


class Unreadable(Exception):
    def __reduce__(self):
        return _refuse, ("this",)


class HoldsALock(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock, self.number = threading.Lock(), 7


class OnlyHere:
    """Pickles anywhere, unpickles nowhere but in the process that made it."""

    def __init__(self):
        self.pid = os.getpid()

    def __getstate__(self):
        return {"pid": self.pid}

    def __setstate__(self, state):
        if state["pid"] != os.getpid():
            raise ValueError("only there")
        self.pid = state["pid"]


def _refuse(what):
    raise RuntimeError(f"refuses to be read: {what}")


def test_an_argument_that_cannot_be_pickled_is_named_by_its_path():
    with pytest.raises(SerializationError) as caught:
        echo.remote(1, {"deep": [threading.Lock()]})
    text = str(caught.value)
    assert "echo" in text and "lock" in text and "argument 1 -> ['deep'] -> [0]" in text and "test_errors.py:" in text
    with pytest.raises(TypeError, match="file"):
        echo.remote(file=sys.stdout)


def test_what_a_function_or_an_actor_needs_and_cannot_be_pickled_names_the_line_that_wanted_it():
    held = threading.Lock()
    text = r"(?s)the closure's held.*lock.*\n  called    at \S*test_errors.py:\d+ in test_what"

    class Needs:
        def look(self):
            return held

    with pytest.raises(SerializationError, match=text):
        miniray.remote(lambda: held).remote()
    with pytest.raises(SerializationError, match=text):
        miniray.remote(Needs).remote()


def test_a_put_that_cannot_be_pickled():
    with pytest.raises(SerializationError, match=r"(?s)put: .*\[1\].*lock"):
        miniray.put([1, threading.Lock()])
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises((SerializationError, RecursionError), match="recursion"):
        miniray.put(deep)
    with pytest.raises((SerializationError, RecursionError), match="recursion"):
        echo.remote(deep)
    while deep:  # taken apart by hand: the interpreter's own way recurses
        deep = deep[0]
    with pytest.raises(TypeError, match="put takes a value, not an ObjectRef"):
        miniray.put(echo.remote(1))


def test_a_function_that_cannot_be_pickled():
    lock = threading.Lock()

    @miniray.remote
    def locked():
        with lock:
            return 1

    with pytest.raises(SerializationError, match=r"(?s)locked.*lock"):
        locked.remote()


def test_a_result_that_cannot_be_pickled():
    @miniray.remote
    def bad(kind):
        return {"lock": [threading.Lock(), 1], "generator": (i for i in ())}[kind]

    with pytest.raises(ResultSerializationError, match=r"(?s)bad has run, but .*\[0\].*lock"):
        miniray.get(bad.remote("lock"))
    with pytest.raises(ResultSerializationError, match="generator"):
        miniray.get(bad.remote("generator"))
    with pytest.raises(ResultSerializationError):
        miniray.get(bad.options(num_returns=2).remote("lock")[1])


def test_values_that_fail_to_unpickle():
    with pytest.raises(TaskError, match="only there"):
        miniray.get(echo.remote(OnlyHere()))
    ref = miniray.remote(lambda: OnlyHere()).remote()
    for _ in range(2):
        with pytest.raises(ResultSerializationError, match="cannot be unpickled here: ValueError: only there"):
            miniray.get(ref)


def test_exceptions_arrive_as_what_they_are():
    @miniray.remote
    def fail(kind, *args):
        raise kind(*args)

    text = r"(?s)fail\(\) raised ValueError: bad.*called +at .*test_errors.py:\d+ in"
    with pytest.raises(ValueError, match=text) as caught:
        miniray.get(fail.remote(ValueError, "bad"))
    assert isinstance(caught.value, TaskError) and type(caught.value.__cause__) is ValueError
    assert "Traceback" in str(caught.value) and "raise kind" in str(caught.value)
    with pytest.raises(TwoArguments) as two:
        miniray.get(fail.remote(TwoArguments, "oil", "home"))
    assert two.value.what == "oil" and two.value.where == "home"
    with pytest.raises(KeyError):
        miniray.get(fail.remote(KeyError, "key"))


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (lambda: open("/no such file"), ("errno", "strerror", "filename")),
        (lambda: __import__("no_such_module"), ("name", "msg")),
        (lambda: b"\xff".decode("utf-8"), ("encoding", "object", "start", "end", "reason")),
        (lambda: compile("1 +", "a file", "exec"), ("filename", "lineno", "offset", "text")),
        (lambda: next(iter(())), ("value",)),
    ],
)
def test_what_builtin_errors_know_is_known_here(wrong, names):
    """They keep it outside of `__dict__`."""
    with pytest.raises(Exception) as there:
        wrong()
    with pytest.raises(type(there.value)) as here:
        miniray.get(miniray.remote(wrong).remote())
    assert isinstance(here.value, TaskError)
    assert [getattr(here.value, name) for name in names] == [getattr(there.value, name) for name in names]


def test_exceptions_that_cannot_travel():
    @miniray.remote
    def fail(name):
        raise {"lock": HoldsALock, "unreadable": Unreadable}[name]()

    with pytest.raises(TaskError, match="holds a lock"):
        miniray.get(fail.remote("lock"))
    with pytest.raises(TaskError, match="Unreadable"):
        miniray.get(fail.remote("unreadable"))


def test_errors_of_miniray_can_be_pickled():
    with pytest.raises(ValueError) as caught:
        miniray.get(miniray.remote(lambda: int("x")).remote())
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ValueError) and isinstance(again, TaskError) and str(again) == str(caught.value)


def test_a_failed_argument_fails_the_task_without_running_it(tmp_path):
    @miniray.remote
    def touch(*_):
        (tmp_path / "ran").touch()

    bad = miniray.remote(lambda: 1 / 0).remote()
    with pytest.raises(ZeroDivisionError):
        miniray.get(touch.remote(1, touch.remote(bad)))
    assert not (tmp_path / "ran").exists()


def test_leaving_and_exiting_in_a_task():
    @miniray.remote
    def leave(how):
        how(5)

    with pytest.raises(TaskError, match="SystemExit: 5"):
        miniray.get(leave.remote(sys.exit))
    with pytest.raises(WorkerCrashedError, match=r"(?s)leave was lost: worker \d+ exited with code 5.*max_retries=0"):
        miniray.get(leave.options(max_retries=0).remote(os._exit))

    @miniray.remote
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(miniray.errors.MinirayError):
        miniray.get(interrupted.remote())


def test_recursion_in_a_task():
    @miniray.remote
    def recurse(n):
        return recurse.__wrapped__(n + 1)

    with pytest.raises(RecursionError):
        miniray.get(recurse.remote(0))

    @miniray.remote
    def deep():
        value = []
        for _ in range(50_000):
            value = [value]
        return value

    with pytest.raises(ResultSerializationError, match="recursion"):
        miniray.get(deep.remote())


def test_remote_functions_called_directly():
    with pytest.raises(TypeError, match=r"echo is a remote function: call echo.remote\(...\)"):
        echo(1)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"cpus": 1}, TypeError, "unknown option 'cpus'; there are: .*num_cpus"),
        ({"num_cpus": "1"}, TypeError, "num_cpus must be a number, not '1'"),
        ({"num_cpus": -1}, ValueError, "num_cpus must be zero or more, not -1"),
        ({"num_cpus": float("nan")}, ValueError, "num_cpus"),
        ({"num_returns": 1.5}, TypeError, "num_returns must be an int"),
        ({"num_returns": -1}, ValueError, "num_returns must be 0 or more"),
        ({"max_retries": -2}, ValueError, "max_retries must be -1 or more"),
        ({"max_retries": True}, TypeError, "max_retries must be an int"),
        ({"retry_exceptions": [int]}, TypeError, "retry_exceptions must be"),
        ({"retry_exceptions": "all"}, TypeError, "retry_exceptions must be"),
        ({"resources": ["a"]}, TypeError, "resources must be a dict"),
        ({"resources": {1: 1}}, TypeError, "named by a str"),
        ({"resources": {"CPU": 1}}, ValueError, "say num_cpus="),
        ({"resources": {"a": None}}, TypeError, r"resources\['a'\] must be a number"),
        ({"name": 3}, TypeError, "name must be a str"),
    ],
)
def test_options_are_checked_when_they_are_given(given, error, text):
    with pytest.raises(error, match=text):
        miniray.remote(**given)(echo.__wrapped__)
    with pytest.raises(error, match=text):
        echo.options(**given)


def test_what_cannot_be_remote():
    with pytest.raises(TypeError, match="makes functions and classes remote, not 3"):
        miniray.remote(3)
    with pytest.raises(TypeError, match="is remote already"):
        miniray.remote(echo)
    with pytest.raises(TypeError, match="options by name"):
        miniray.remote(echo.__wrapped__, 3)
    with pytest.raises(TypeError, match="kill takes an actor's handle, not int 3"):
        miniray.kill(3)


def test_wrong_arguments_of_the_function_are_its_error():
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        miniray.get(miniray.remote(lambda x: x).remote())
