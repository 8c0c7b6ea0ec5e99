"""Values to bytes and back: forms, views and pins, references, slots, errors."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniray._serialization import pickles, values
from miniray._serialization.values import (
    Serialized,
    SerializationError,
    Slot,
    deserialize,
    fill_slots,
    serialize,
    serialize_call,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=20_000),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


def stored(value: Serialized) -> bytearray:
    place = bytearray().join(value.pieces())
    assert len(place) == value.stored_size_bytes
    return place


class Pin:
    pass


@given(plain)
@settings(derandomize=True, deadline=None)
def test_both_forms_of_plain_values(value: object) -> None:
    done = serialize(value)
    assert deserialize(done.to_bytes()) == value
    assert deserialize(memoryview(stored(done)), Pin()) == value
    call = serialize_call((value, 1), {"x": value})
    data = call if isinstance(call, bytes) else call.to_bytes()
    assert deserialize(data) == ((value, 1), {"x": value})


def test_small_values_are_bare_pickles_and_calls_of_them_are_bytes() -> None:
    for value in (1, "a", 2.5, None, True, (1, "a"), b"small", [1], {"a": 1}):
        data = serialize(value).to_bytes()
        assert data[:1] == b"\x80" and pickle.loads(data) == value
    for args, kwargs in [((), {}), ((1, "a", None), {}), ((1,), {"k": 2.5})]:
        assert type(serialize_call(args, kwargs)) is bytes
    assert type(serialize_call((Slot(0),), {})) is bytes


def test_the_layout_is_as_documented() -> None:
    value = {"a": np.arange(1000), "b": np.ones((100, 100)), "small": np.zeros(3)}
    place = stored(serialize(value))
    assert place[:8] == b"MINIRAY1" and place[0] != 0x80
    assert int.from_bytes(place[8:12], "little") == 2
    assert int.from_bytes(place[48:56], "little") == len(place)
    for index in range(2):
        offset, size = (int.from_bytes(place[64 + 16 * index + 8 * k :][:8], "little") for k in (0, 1))
        assert offset % 64 == 0 and size in (8000, 80_000)
    assert serialize(value).to_bytes() == bytes(place)
    again = deserialize(memoryview(place), Pin())
    assert all((again[name] == value[name]).all() for name in value)


def test_what_is_no_object_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="not an object of ours"):
        deserialize(b"GET / HTTP/1.1")


@pytest.mark.parametrize("make", [lambda array: array, lambda array: [array], lambda array: pd.DataFrame({"a": array})])
def test_views_of_views_keep_the_pin(make) -> None:
    place = stored(serialize(make(np.arange(10_000))))
    pin = Pin()
    alive = weakref.ref(pin)
    value = deserialize(memoryview(place).toreadonly(), pin)
    del pin
    array = value["a"].to_numpy() if isinstance(value, pd.DataFrame) else value[0] if isinstance(value, list) else value
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(place, np.uint8))
    view = np.asarray(array)[1:][::2]
    del value, array
    gc.collect()
    assert alive() is not None and view[0] == 1
    del view
    gc.collect()
    assert alive() is None


def test_a_value_without_views_lets_go_of_the_pin() -> None:
    pin = Pin()
    alive = weakref.ref(pin)
    value = deserialize(memoryview(stored(serialize([1, "a", b"x" * 10_000]))), pin)
    del pin
    assert alive() is None and value[2] == b"x" * 10_000


def test_pinning_does_not_leak() -> None:
    place = memoryview(stored(serialize(np.ones(1000))))
    pin = Pin()
    for _ in range(50):
        deserialize(place, pin)
    gc.collect()
    objects, references = len(gc.get_objects()), sys.getrefcount(pin)
    for _ in range(2000):
        deserialize(place, pin)
    gc.collect()
    objects_now, references_now = len(gc.get_objects()), sys.getrefcount(pin)
    assert objects_now - objects < 50 and references_now == references


def test_the_mapping_cannot_be_closed_under_a_view() -> None:
    done = serialize(np.arange(1000))
    area = mmap.mmap(-1, done.stored_size_bytes)
    with memoryview(area) as view:
        view[:] = stored(done)
    array = deserialize(memoryview(area), Pin())
    with pytest.raises(BufferError):
        area.close()
    del array
    gc.collect()
    area.close()


def test_writable_views_of_a_private_mapping() -> None:
    done = serialize({"x": np.arange(1000)})
    fd = os.memfd_create("test")
    os.write(fd, bytes(stored(done)))
    private = mmap.mmap(fd, done.stored_size_bytes, access=mmap.ACCESS_COPY)
    pin = Pin()
    array = deserialize(memoryview(private), pin, writable=True)["x"]
    array += 1
    assert array[0] == 1 and deserialize(os.pread(fd, done.stored_size_bytes, 0))["x"][0] == 0
    os.close(fd)
    copied = deserialize(done.to_bytes(), writable=True)["x"]
    copied += 1
    assert copied[-1] == 1000
    assert not deserialize(done.to_bytes())["x"].flags.writeable


def test_arrays_that_were_read_only_are_writable_when_asked_for() -> None:
    frozen = np.arange(1000)
    frozen.flags.writeable = False
    value = ["x" * 200_000, frozen, frozen, np.arange(1000), b"\x97\x98" * 10, "y" * 200_000, frozen + 1]
    data = serialize(value).to_bytes()
    again = deserialize(data, writable=True)
    assert all((again[index] == value[index]).all() and again[index].flags.writeable for index in (1, 2, 3, 6))
    assert again[1] is again[2] and again[4] == value[4] and again[5] == value[5]
    again[1] += 1
    assert not deserialize(data)[1].flags.writeable and deserialize(data)[1][0] == 0


def test_large_bytes_leave_the_pickle() -> None:
    large = os.urandom(1 << 20)
    done = serialize(large)
    assert len(done.data) < 100 and len(done.buffers) == 1 and done.size_bytes >= 1 << 20
    assert deserialize(memoryview(stored(done)), Pin()) == large
    call = serialize_call((1, large), {"k": large})
    assert isinstance(call, Serialized) and len(call.data) < 300
    assert deserialize(call.to_bytes()) == ((1, large), {"k": large})


def test_non_contiguous_arrays_leave_the_pickle() -> None:
    array = np.arange(20_000).reshape(100, 200)
    for value in (array[::2], array.T, np.asfortranarray(array), array[:, 5:90]):
        done = serialize(value)
        assert len(done.buffers) == 1 and (deserialize(done.to_bytes()) == value).all()
    objects = np.array([{}, None] * 1000, dtype=object)
    assert list(deserialize(serialize(objects).to_bytes())) == list(objects)


# ---- references -------------------------------------------------------------------------------------------


class Ref:
    def __init__(self, name: bytes) -> None:
        self.name = name

    def __reduce__(self):
        return Ref, (b"out of band " + self.name,)


class Handle:
    def __init__(self, name: bytes, methods: list[str]) -> None:
        self.name, self.methods = name, methods

    def __reduce__(self):
        raise AssertionError("pickled by us, the registered form counts")


pickles.register_reference_type(Ref, lambda ref: ref.name, Ref)
pickles.register_reference_type(Handle, lambda handle: (handle.name, handle.methods), Handle)


def test_references_are_found_in_order_and_once() -> None:
    one, two = Ref(b"1"), Ref(b"2")
    value = {"deep": [two, (one, two)], "again": Ref(b"1"), "handle": Handle(b"3", ["go"])}
    done = serialize(value)
    assert done.refs == (b"2", b"1", b"3")
    again = deserialize(done.to_bytes())
    assert again["deep"][1][0].name == b"1" and again["handle"].methods == ["go"]
    assert serialize((lambda: one, two)).refs == (b"1", b"2"), "a closure's references count, too"
    call = serialize_call((one, 1), {"x": two})
    assert isinstance(call, Serialized) and call.refs == (b"1", b"2")
    assert serialize(1).refs == ()


def test_somebody_elses_pickle_gets_the_types_own_form() -> None:
    assert pickle.loads(pickle.dumps(Ref(b"1"))).name == b"out of band 1"
    assert serialize([Ref(b"9")]).refs == (b"9",)
    assert pickle.loads(pickle.dumps(Ref(b"1"))).name == b"out of band 1", "collecting has ended"


class Nests:
    def __reduce__(self):
        inner = serialize([Ref(b"inner")])
        assert inner.refs == (b"inner",)
        return list, ([Ref(b"outer")],)


def test_serializing_inside_of_serializing() -> None:
    assert serialize([Ref(b"a"), Nests(), Ref(b"b")]).refs == (b"a", b"outer", b"b")


def test_an_unknown_reference_says_so() -> None:
    data = serialize(Handle(b"1", [])).data.replace(b"Handle", b"Hondle")
    with pytest.raises(pickle.UnpicklingError, match="Hondle"):
        deserialize(data)


def test_slots_are_filled_at_the_top_only() -> None:
    args, kwargs = deserialize(serialize_call((Slot(1), 5, [Slot(0)]), {"x": Slot(0), "y": 2}).to_bytes())  # type: ignore
    filled, named = fill_slots(args, kwargs, ["zero", "one"])
    assert filled[:2] == ("one", 5) and type(filled[2][0]) is Slot
    assert named == {"x": "zero", "y": 2}


# ---- what cannot be pickled -------------------------------------------------------------------------------


class Model:
    def __init__(self) -> None:
        self.name = "m"
        self.lock = threading.Lock()


class Raises:
    def __reduce__(self):
        raise ZeroDivisionError("in its own __reduce__")


class Looks:
    def __getattr__(self, name: str) -> object:
        raise ZeroDivisionError(name)

    def __reduce__(self):
        raise KeyError("odd")


def test_errors_lead_to_the_culprit() -> None:
    with pytest.raises(SerializationError) as caught:
        serialize_call((1, {"model": Model()}), {})
    assert str(caught.value) == "argument 1 -> ['model'] -> .lock: cannot pickle '_thread.lock' object"
    assert isinstance(caught.value.cause, TypeError)
    with pytest.raises(SerializationError, match=r"argument 'm' -> \.lock: cannot pickle"):
        serialize_call((), {"m": Model()})
    with pytest.raises(SerializationError, match=r"value -> \[0\] -> \[2\]: in its own __reduce__") as caught:
        serialize([[1, 2, Raises()]])
    assert isinstance(caught.value.cause, ZeroDivisionError)
    with pytest.raises(SerializationError, match=r"value: 'odd'"):
        serialize(Looks())
    with pytest.raises(SerializationError, match="cannot pickle 'generator' object"):
        serialize(i for i in range(3))
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="value -> the closure's lock: cannot pickle"):
        serialize(lambda: lock)


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for call in (lambda: serialize(deep), lambda: serialize_call((deep,), {}), lambda: serialize((deep, lambda: 1))):
        with pytest.raises(SerializationError, match="nested too deeply") as caught:
            call()
        assert isinstance(caught.value.cause, RecursionError)
    while deep:
        deep = deep[0]  # type: ignore[assignment]


def test_an_error_survives_pickle() -> None:
    error = SerializationError("argument 1", ["[0]"], TypeError("no"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "argument 1 -> [0]: no"


def test_import_loads_neither_numpy_nor_pyarrow_nor_cloudpickle() -> None:
    code = (
        "import sys, miniray._serialization.values as v, miniray._serialization.exceptions\n"
        "import miniray._runtime.functions\n"
        "v.deserialize(v.serialize([1, b'x' * 10000]).to_bytes(), object())\n"
        "assert not {'numpy', 'pyarrow', 'cloudpickle', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_word_main_in_a_string_is_harmless() -> None:
    assert deserialize(serialize(["__main__", 1]).to_bytes()) == ["__main__", 1]
    assert values.serialize_call(("__main__",), {}) == pickle.dumps((("__main__",), {}), 5)
