"""Objects: put and get, views without a copy, what keeps them alive, refs as values, the store's capacity."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import warnings

import numpy as np
import psutil
import pytest
from quiescence import assert_quiet, eventually, leftovers

import miniray
from miniray._runtime.context import get_current
from miniray.errors import ActorDiedError, ObjectStoreFullError, OwnerDiedError

pytestmark = pytest.mark.usefixtures("session")
LARGE = 500_000


@miniray.remote
def double(x):
    return x * 2


@miniray.remote
def is_writable(array):
    return array.flags.writeable


@miniray.remote
def make(size):
    return np.arange(size)


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "value",
    [
        None, 0, -1.5, "text", "", b"", b"bytes", b"x" * LARGE, "y" * LARGE, (1, [2, {3: {4}}]), 2**200, range(7),
        bytearray(LARGE),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(str(value))}",
)
def test_values_come_back_equal(value):
    assert miniray.get(miniray.put(value)) == value
    there = miniray.get(miniray.remote(lambda x: x).remote(value))
    assert there == value and type(there) is type(value)


def test_large_arrays_are_read_only_views_of_one_place():
    ref = miniray.put(np.arange(LARGE))
    first, second = miniray.get(ref), miniray.get(ref)
    assert address(first) == address(second) and not first.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    with pytest.raises(ValueError):
        first.flags.writeable = True
    assert miniray.get(ref)[5] == 5


def test_a_result_is_read_where_the_worker_wrote_it():
    ref = make.remote(LARGE)
    array = miniray.get(ref)
    assert array[-1] == LARGE - 1 and address(array) == address(miniray.get(ref))


def test_a_view_of_a_view_keeps_the_object_alive():
    ref = miniray.put(np.arange(LARGE))
    views = [np.asarray(miniray.get(ref))[100:200][::2], memoryview(miniray.get(ref))[7:9]]
    del ref
    gc.collect()
    assert leftovers()["live_places"] == 1
    others = [miniray.put(np.zeros(LARGE)) for _ in range(3)]
    assert views[0].tolist() == list(range(100, 200, 2)) and views[1].tolist() == [7, 8]
    del others, views[1]
    assert leftovers()["live_places"] == 1
    views.clear()
    assert_quiet()


def test_a_view_in_the_worker_keeps_the_object_alive():
    @miniray.remote
    class Keeper:
        def keep(self, array):
            self.part = array[10:20]

        def show(self):
            return self.part.tolist()

    keeper = Keeper.remote()
    ref = miniray.put(np.arange(LARGE))
    miniray.get(keeper.keep.remote(ref))
    del ref
    gc.collect()
    others = [miniray.put(np.zeros(LARGE)) for _ in range(3)]
    assert miniray.get(keeper.show.remote()) == list(range(10, 20))
    assert leftovers()["live_places"] == 4
    del others, keeper
    assert_quiet()


def test_writable_is_a_private_copy_on_write_view():
    ref = miniray.put(np.arange(LARGE))
    mine = miniray.get(ref, writable=True)
    mine[:10] = -1
    mine += 1
    assert miniray.get(ref)[:3].tolist() == [0, 1, 2] and mine[:2].tolist() == [0, 0]
    another = miniray.get([ref], writable=True)[0]
    assert another[0] == 0 and another.flags.writeable
    small = miniray.get(miniray.put(np.arange(10)), writable=True)
    small[0] = 5
    del ref
    gc.collect()
    assert mine[-1] == LARGE
    assert leftovers()["live_places"] == 1


def test_arguments_are_read_only_views():
    ref = miniray.put(np.zeros(LARGE))
    assert miniray.get([is_writable.remote(ref), is_writable.remote(np.zeros(LARGE))]) == [False, False]


def test_pandas_and_arrow():
    pandas = pytest.importorskip("pandas")
    import pyarrow as pa

    frame = pandas.DataFrame({"a": np.arange(LARGE), "b": np.random.rand(LARGE)})
    back = miniray.get(miniray.put(frame))
    pandas.testing.assert_frame_equal(frame, back)
    table = pa.table({"n": np.arange(LARGE), "s": ["text"] * LARGE})
    ref = miniray.put(table)
    first, second = miniray.get(ref), miniray.get(ref)
    assert first.equals(table)
    assert first["n"].chunk(0).buffers()[1].address == second["n"].chunk(0).buffers()[1].address
    batch = table.to_batches()[0]
    assert miniray.get(miniray.put(batch)).equals(batch)
    numbers = pa.array(np.arange(LARGE))
    assert miniray.get(miniray.put(numbers)).equals(numbers)
    assert miniray.get(miniray.remote(lambda t: t.num_rows).remote(ref)) == LARGE


def test_an_object_with_large_buffers():
    class Holder:
        def __init__(self, array):
            self.array, self.name = array, "holder"

    holder = miniray.get(miniray.put(Holder(np.arange(LARGE))))
    assert holder.name == "holder" and not holder.array.flags.writeable and holder.array[3] == 3


def test_a_full_store_says_so_with_figures_and_heals():
    kept = []
    figures = r"no room for [\d,]+ bytes in one piece: [\d,]+ of [\d,]+ bytes are free"
    with pytest.raises(ObjectStoreFullError, match=figures):
        for _ in range(100):
            kept.append(miniray.put(np.ones(2_000_000)))
    assert 5 < len(kept) < 15
    with pytest.raises(ObjectStoreFullError, match="object_store_memory"):
        miniray.get(make.remote(20_000_000))
    with pytest.raises(ObjectStoreFullError):
        miniray.put(bytes(300 << 20))
    assert all(miniray.get(ref)[0] == 1 for ref in kept)
    kept.clear()
    for _ in range(30):  # dropped as they are made: room is found again
        assert miniray.get(miniray.put(np.ones(2_000_000)))[7] == 1
    assert miniray.get(make.remote(2_000_000))[5] == 5


def test_garbage_in_cycles_makes_room():
    gc.disable()
    try:
        for _ in range(40):
            cycle = [miniray.put(np.ones(2_000_000))]
            cycle.append(cycle)
    finally:
        gc.enable()
    del cycle
    gc.collect()


def test_refs_are_hashable_comparable_and_shown():
    ref = double.remote(21)
    same = miniray.get(miniray.put([ref]))[0]
    assert ref == same and hash(ref) == hash(same) and {ref: 1}[same] == 1 and ref is not same
    assert ref != double.remote(21) and ref != 42
    assert copy.copy(ref) is ref and copy.deepcopy([ref])[0] is ref
    assert miniray.get(ref) == 42
    assert repr(ref).startswith("ObjectRef(") and repr(ref).endswith("ready)") and ref.hex() == bytes(ref._id).hex()
    assert "stored" in repr(miniray.put(np.zeros(LARGE)))
    pending = miniray.remote(lambda: __import__("time").sleep(30)).remote()
    assert "pending" in repr(pending)
    miniray.cancel(pending, force=True)


def test_await_and_future():
    async def main():
        value = await double.remote(4)
        values = await asyncio.gather(*[double.remote(i) for i in range(5)])
        with pytest.raises(TypeError):
            await double.remote(None)
        return value, values

    assert asyncio.run(main()) == (8, [0, 2, 4, 6, 8])
    assert double.remote(3).future().result(10) == 6
    error = double.remote(None).future().exception(10)
    assert isinstance(error, TypeError)
    called = []
    double.remote(5).future().add_done_callback(lambda future: called.append(future.result()))
    eventually(lambda: called == [10], "a callback")


def test_await_within_a_task():
    @miniray.remote
    def outer():
        async def run():
            return sum(await asyncio.gather(*[double.remote(i) for i in range(4)]))

        return asyncio.run(run())

    for _ in range(50):  # a task that awaits lends its CPU as one that waits does, or this hangs
        assert miniray.get([outer.remote() for _ in range(4)], timeout=20) == [12] * 4


def test_out_of_band_pickles_warn_once_and_keep_the_value():
    ref = miniray.put("kept")
    with pytest.warns(UserWarning, match="pickled outside of miniray"):
        data = pickle.dumps(ref)
    del ref
    gc.collect()
    again = pickle.loads(data)
    assert miniray.get(again) == "kept"
    del again
    assert eventually(lambda: leftovers(), "what is kept for good") == {"references": 1, "values": 1}
    get_current().dropped.append(bytes.fromhex(_only_reference()))  # the test's own end: nobody else may


def test_out_of_band_pickles_may_be_loaded_anywhere_and_later():
    @miniray.remote(num_cpus=0)
    def load(data):
        return miniray.get(pickle.loads(data))

    @miniray.remote(num_cpus=0)
    class Maker:
        def dump(self):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return os.getpid(), pickle.dumps(miniray.put("of another process"))

    with pytest.warns(UserWarning, match="pickled outside of miniray"):
        data = pickle.dumps(miniray.put("kept"))
    for _ in range(2):
        assert miniray.get(load.remote(data)) == "kept"
    maker = Maker.remote()
    pid, theirs = miniray.get(maker.dump.remote())
    for _ in range(2):
        assert miniray.get(pickle.loads(theirs)) == "of another process"
        assert miniray.get(load.remote(theirs)) == "of another process"
    miniray.kill(maker)
    with pytest.raises(ActorDiedError):
        miniray.get(maker.dump.remote())  # its caller buries it at once; the node ends the process a moment later
    eventually(lambda: not psutil.pid_exists(pid), "the end of the actor's process")
    with pytest.raises(OwnerDiedError):
        miniray.get(pickle.loads(theirs))
    del load, maker
    eventually(lambda: list(leftovers()) == ["references", "values"], "nothing but what is kept for good")
    for object_id in get_current().owner._holding.references.rows:
        get_current().dropped.append(object_id)


def _only_reference():
    return next(iter(get_current().owner._holding.references.rows)).hex()
