"""What `multiprocessing`'s pickler knows: registered types, ends of pipes and sockets, what is good for one fetch."""

from __future__ import annotations

import copyreg
import functools
import multiprocessing
import pickle
import socket
import sys
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_sharer
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from miniray._serialization import forking, pickles, values
from miniray._serialization.exceptions import deserialize_exception, serialize_exception
from miniray._serialization.snapshots import Snapshots
from miniray._serialization.values import Serialized, SerializationError, deserialize, serialize, serialize_call

_sharer: Any = vars(resource_sharer)["_resource_sharer"]


class Made:
    def __init__(self, x: Any) -> None:
        self.x = x


def make_anew(x: Any) -> Made:
    return Made(("anew", x))


@pytest.fixture
def register() -> Iterator[Any]:
    extra: dict[Any, Any] = vars(ForkingPickler)["_extra_reducers"]
    before = dict(extra)
    yield ForkingPickler.register
    extra.clear()
    extra.update(before)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    here, there = multiprocessing.Pipe()
    monkeypatch.setattr(_sharer, "_cache", {})  # another test of this process may have left one that nobody fetched
    with here, there:
        yield here, there


def home(done: bytes | Serialized) -> Any:
    return deserialize(done if isinstance(done, bytes) else done.to_bytes())


@pytest.mark.parametrize("with_one_of_main", [False, True])
def test_a_registered_type_is_reduced_so(register: Any, with_one_of_main: bool) -> None:
    extra = [eval("lambda: 1", {"__name__": "__main__"})] if with_one_of_main else []
    register(Made, lambda made: (make_anew, (made.x,)))
    (args, named) = home(serialize_call(([Made(1)], *extra), {"key": Made(2)}))
    assert args[0][0].x == ("anew", 1) and named["key"].x == ("anew", 2)
    assert home(serialize({"in": Made(3)}))["in"].x == ("anew", 3)
    assert pickle.loads(Snapshots().take([Made(4)]) or b"")[0].x == ("anew", 4)
    register(Made, lambda made: (make_anew, (-made.x,)))
    assert home(serialize(Made(5))).x == ("anew", -5)


def test_what_is_done_better_here_is_left_alone(register: Any) -> None:
    def of_torch(made: Made) -> Any:
        raise AssertionError

    of_torch.__module__ = "torch.multiprocessing.reductions"
    register(Made, of_torch)
    register(np.ndarray, of_torch)
    assert home(serialize(Made(1))).x == 1
    done = serialize([np.arange(10_000)])
    assert len(done.buffers) == 1 and home(done)[0][-1] == 9_999
    partial = functools.partial(divmod, 7)
    partial.note = "kept"  # type: ignore[attr-defined]
    assert home(serialize([partial, lambda: 1]))[0].note == "kept"


def test_an_end_of_a_pipe_arrives_as_one(ends: tuple[Any, Any]) -> None:
    here, there = ends
    (args, _) = home(serialize_call(([there],), {}))
    with args[0][0] as arrived:
        assert arrived.fileno() != there.fileno()
        arrived.send("through")
        assert here.recv() == "through"
        there.close()
    with pytest.raises(EOFError):  # nobody holds the other end any more
        here.recv()


def test_a_socket_arrives_as_one() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, home(serialize({"in": theirs}))["in"] as arrived:
        arrived.sendall(b"through")
        assert ours.recv(10) == b"through"


def test_it_is_received_once(ends: tuple[Any, Any], capfd: Any) -> None:
    data = serialize(ends[1]).to_bytes()
    deserialize(data).close()
    with pytest.raises(pickle.UnpicklingError, match="already"):
        deserialize(data)


def test_the_key_is_that_of_the_thread_that_serves_it(ends: tuple[Any, Any]) -> None:
    me = multiprocessing.current_process()
    data, key = serialize(ends[1]).to_bytes(), me.authkey
    try:
        me.authkey = b"another"  # as a worker's changes when it becomes one of a pool's
        again = serialize(ends[1]).to_bytes()
        deserialize(data).close()
        deserialize(again).close()
    finally:
        me.authkey = key


def test_what_is_read_more_often_refuses_it(ends: tuple[Any, Any]) -> None:
    with pytest.raises(SerializationError, match=r"value -> \['in'\] -> \[0\]: a pipe's end") as refused:
        serialize({"in": [ends[1]]}, is_kept=True)
    assert isinstance(refused.value.cause, forking.ReadOnceError)
    with pytest.raises(SerializationError, match="a pipe's end"):
        values.serialize_by_value(lambda: ends, "", "function", is_kept=True)
    snapshots = Snapshots()
    assert snapshots.take([ends[1]]) is None and snapshots.met_descriptor
    assert snapshots.take([len]) is not None and not snapshots.met_descriptor
    data, _, _ = serialize_exception(ValueError(ends[1]))
    assert "Connection" in str(deserialize_exception(data))
    assert not _sharer._cache


def test_a_pickle_that_fails_gives_it_back(ends: tuple[Any, Any], register: Any) -> None:
    with pytest.raises(SerializationError, match=r"argument 1: cannot pickle"):
        serialize_call((ends[1], threading.Lock()), {})
    register(Made, lambda made: (make_anew, (made.x,)))  # now the first pickler makes one, too
    again = home(serialize_call((ends[1], eval("lambda: 1", {"__name__": "__main__"})), {}))
    again[0][0].close()
    assert not _sharer._cache


def test_a_module_that_another_thread_imports_is_not_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "_registered", None)
    monkeypatch.setitem(sys.modules, "multiprocessing.reduction", ModuleType("multiprocessing.reduction"))
    assert home(serialize([len, eval("lambda: 1", {"__name__": "__main__"})]))[0] is len


def test_another_thread_may_look_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    class Imported(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name == "DupFd":
                forking._look(dict(vars(ForkingPickler)["_extra_reducers"]))
                return resource_sharer.DupFd
            raise AttributeError(name)

    monkeypatch.setattr(forking, "_seen", {})
    monkeypatch.setitem(sys.modules, "multiprocessing.resource_sharer", Imported("multiprocessing.resource_sharer"))
    assert resource_sharer.DupFd in forking.used_reducers()


def test_plain_pickle_raises_for_an_end_and_not_for_its_module(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pickles.dumps(["multiprocessing.connection", connection.wait], None) is not None
    with pytest.raises(pickle.PicklingError, match="bare number"):
        pickles.dumps(ends, None)
    elsewhere = pickle.dumps(ends)
    monkeypatch.delitem(copyreg.dispatch_table, connection.Connection)
    assert pickle.dumps(ends) == elsewhere


def test_the_class_and_its_functions_are_pickled_by_name() -> None:
    assert home(serialize([connection.Connection, connection.wait])) == [connection.Connection, connection.wait]
