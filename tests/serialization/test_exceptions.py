"""Exceptions: whatever is raised, something useful arrives, and nothing here raises."""

from __future__ import annotations

import pathlib
import pickle
import re
import socket
import subprocess
import sys
import urllib.error

import pytest

from miniray._serialization.exceptions import SubstituteError, deserialize_exception, serialize_exception


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class Rewrites(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(f"error {text}")


class Holds(Exception):
    def __init__(self, text: str, thing: object) -> None:
        super().__init__(text)
        self.thing, self.number = thing, 7


class BadReduce(Exception):
    def __reduce__(self):
        raise RuntimeError("no")


class BadState(Exception):
    def __setstate__(self, state) -> None:
        raise RuntimeError("no")


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class BadEverything(Exception):
    def __reduce_ex__(self, protocol):
        raise RecursionError

    def __str__(self) -> str:
        raise MemoryError

    def __getattribute__(self, name: str):
        if name in ("__dict__", "args"):
            raise ValueError(name)
        return super().__getattribute__(name)


def travel(error: BaseException) -> tuple[BaseException, str]:
    try:
        raise error
    except BaseException as raised:
        data, text, _ = serialize_exception(raised)
    return deserialize_exception(data), text


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"), KeyError("k"), OSError(2, "no file", "name"), SystemExit(3), KeyboardInterrupt(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), StopIteration(4), TwoArguments(4, "gone"), Rewrites("5"),
        ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_these_arrive_as_themselves(error: BaseException) -> None:
    again, text = travel(error)
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
    assert type(error).__name__ in text and "test_exceptions.py" in text


def test_what_cannot_travel_is_replaced() -> None:
    with socket.socket() as held:
        again, _ = travel(Holds("with a socket", held))
    assert isinstance(again, SubstituteError) and again.attributes == {"number": 7}
    assert str(again) == f"{__name__}.Holds: with a socket" and "in travel" in again.traceback
    assert re.search(r"Holds -> \.\w+: .*socket", again.reason), again.reason
    http = urllib.error.HTTPError("http://x", 404, "gone", {}, None)  # type: ignore[arg-type]
    again, text = travel(http)
    http.close()
    assert "404" in str(again) and "HTTPError" in text
    for error in (BadReduce("a"), BadState("b")):
        error.note = 1  # type: ignore[attr-defined]
        again, _ = travel(error)
        assert "a" in str(again) or "b" in str(again)


def test_nothing_raises_whatever_the_exception_does() -> None:
    again, text = travel(BadText("x"))
    assert isinstance(again, BaseException) and "BadText" in text
    again, text = travel(BadEverything())
    assert isinstance(again, BaseException) and "BadEverything" in text
    odd = (b"", "T", "x", "", [], {}, 5, 5, 5)
    for junk in (b"", b"junk", pickle.dumps(3), pickle.dumps((b"x",) * 9), pickle.dumps(odd)):
        assert isinstance(deserialize_exception(junk), BaseException)


def test_causes_contexts_and_notes_travel() -> None:
    def fail() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise TwoArguments(1, "second")  # noqa: B904
        except TwoArguments as second:
            third = ValueError("third")
            third.add_note("a note")
            raise third from second

    try:
        fail()
    except ValueError as error:
        data, text, _ = serialize_exception(error)
    again = deserialize_exception(data)
    assert again.__notes__ == ["a note"]
    assert type(again.__cause__) is TwoArguments and type(again.__cause__.__context__) is KeyError
    assert "first" in text and "second" in text and "a note" in text and "in fail" in text


def test_a_cycle_of_causes_ends() -> None:
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    again, _ = travel(one)
    assert again.__cause__.__cause__.args == (1,)  # type: ignore[union-attr]


def test_local_classes_travel_by_value_and_come_home() -> None:
    class Local(Exception):
        pass

    again, _ = travel(Local("x"))
    assert type(again) is Local


def test_a_class_that_is_missing_here_becomes_a_substitute(tmp_path: pathlib.Path) -> None:
    (tmp_path / "only_there.py").write_text("class Odd(Exception): pass\n")
    code = (
        "import sys, only_there\nfrom miniray._serialization.exceptions import serialize_exception\n"
        "sys.stdout.buffer.write(serialize_exception(only_there.Odd('why'))[0])"
    )
    data = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path).stdout
    again = deserialize_exception(data)
    assert isinstance(again, SubstituteError) and str(again) == "only_there.Odd: why"
