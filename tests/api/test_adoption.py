"""`put(owner=)` and `transfer`: a value outlives the process that made it, and ends with its new owner."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from quiescence import assert_quiet, await_end, eventually

import miniray
from miniray.errors import ActorDiedError, GetTimeoutError, OwnerDiedError, TaskError

SIZE = 50_000
TOTAL = SIZE * (SIZE - 1) // 2


@pytest.fixture(autouse=True)
def session():
    miniray.init(num_cpus=2, object_store_memory=100 << 20)
    yield
    miniray.shutdown()


@miniray.remote(num_cpus=0)
class Keeper:
    def __init__(self):
        self.kept = []

    def keep(self, box):
        self.kept.append(box)

    def read(self):
        return [total(box[0]) for box in self.kept]

    def forget(self):
        self.kept.clear()

    def wait(self, path):
        eventually(path.exists, "the file", 30)

    def pid(self):
        return os.getpid()


@miniray.remote(num_cpus=0)
class Creator:
    def put(self, keeper, size=SIZE):
        return [miniray.put(np.arange(size), owner=keeper)]

    def put_nested(self, keeper):
        mine = miniray.put(np.arange(SIZE))
        return [miniray.put([miniray.put([miniray.transfer(mine, owner=keeper)], owner=keeper)], owner=keeper)]

    def mine(self):
        return [miniray.put(np.arange(SIZE))]

    def transfer(self, box, keeper):
        return [miniray.transfer(box[0], owner=keeper)]

    def die(self):
        os._exit(1)


def total(ref):
    return int(miniray.get(ref).sum())


def end(actor):
    with pytest.raises(ActorDiedError):
        miniray.get(actor.die.remote())


@pytest.mark.parametrize("size", [10, SIZE])
def test_a_value_outlives_its_creator(size):
    keeper, creator = Keeper.remote(), Creator.remote()
    (ref,) = miniray.get(creator.put.remote(keeper, size))
    assert total(ref) == size * (size - 1) // 2
    end(creator)
    miniray.get(keeper.keep.remote([ref]))
    assert miniray.get(keeper.read.remote()) == [total(ref)]
    miniray.get(keeper.forget.remote())
    del ref, keeper, creator
    assert_quiet()


def test_a_value_that_was_not_read_before_its_creator_died():
    keeper, creator = Keeper.remote(), Creator.remote()
    (ref,) = miniray.get(creator.put.remote(keeper))
    end(creator)
    assert total(ref) == TOTAL


def test_it_ends_with_its_owner():
    keeper, creator = Keeper.remote(), Creator.remote()
    (ref,) = miniray.get(creator.put.remote(keeper))
    (other,) = miniray.get(creator.put.remote(keeper))
    assert total(ref) == TOTAL
    pid = miniray.get(keeper.pid.remote())
    miniray.kill(keeper)
    await_end(pid)
    for _ in range(2):
        with pytest.raises(OwnerDiedError):
            miniray.get(other, timeout=20)
    assert total(ref) == TOTAL  # what was told stays true
    with pytest.raises(TaskError, match="ActorDied"):
        miniray.get(creator.put.remote(keeper))
    with pytest.raises(ActorDiedError):
        miniray.put(1, owner=keeper)


def test_refs_inside_of_refs_are_held_by_the_new_owner():
    keeper, creator = Keeper.remote(), Creator.remote()
    (ref,) = miniray.get(creator.put_nested.remote(keeper))
    end(creator)
    inner = miniray.get(ref)[0]
    del ref
    innermost = miniray.get(inner)[0]
    del inner
    assert total(innermost) == TOTAL


def test_what_the_driver_puts_into_it_is_freed_with_it():
    keeper = Keeper.remote()
    mine = miniray.put(np.arange(SIZE))
    ref = miniray.put([mine, keeper], owner=keeper)
    del mine
    assert total(miniray.get(ref)[0]) == TOTAL
    del ref, keeper
    assert_quiet()


@pytest.mark.parametrize("size", [10, SIZE])
def test_transfer_gives_a_new_ref_of_the_same_value(size):
    keeper, creator = Keeper.remote(), Creator.remote()
    ref = miniray.put([np.arange(size), "text"])
    moved = miniray.transfer(ref, owner=keeper)
    assert moved != ref
    del ref
    array, text = miniray.get(moved)
    assert (int(array.sum()), text) == (size * (size - 1) // 2, "text")
    del array
    (theirs,) = miniray.get(creator.mine.remote())
    (kept,) = miniray.get(creator.transfer.remote([theirs], keeper))
    also = miniray.transfer(theirs, owner=keeper)
    end(creator)
    assert total(kept) == total(also) == TOTAL
    assert miniray.transfer(kept, owner=keeper) == kept
    del kept, also, theirs, moved, keeper, creator
    assert_quiet()


def test_an_actor_may_be_busy_and_may_give_to_itself(tmp_path):
    keeper = Keeper.remote()
    busy = keeper.wait.remote(tmp_path / "go")
    ref = miniray.put(np.arange(SIZE), owner=keeper)
    assert total(ref) == TOTAL
    (tmp_path / "go").touch()
    miniray.get(busy)

    @miniray.remote(num_cpus=0)
    class Own:
        def put(self, handle):
            return [miniray.put(np.arange(SIZE), owner=handle)]

    own = Own.remote()
    (ref,) = miniray.get(own.put.remote(own))
    assert total(ref) == TOTAL


def test_the_owner_is_killed_while_values_are_put():
    keeper, creator = Keeper.remote(), Creator.remote()
    miniray.get(keeper.pid.remote())
    seen = []

    def put_until_it_is_dead(owner):
        while True:
            try:
                seen.append(miniray.put(np.arange(SIZE), owner=owner))
            except ActorDiedError:
                return

    threads = [threading.Thread(target=put_until_it_is_dead, args=[keeper]) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(seen) > 20, "some puts")
    miniray.kill(keeper)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    seen.clear()
    del keeper, creator, threads, thread
    assert_quiet()


@pytest.mark.parametrize("owner", [None, 5, "keeper", Keeper, os.getpid])
def test_misuse_is_told(owner):
    if owner is not None:
        with pytest.raises(TypeError, match="put: owner must be an actor's handle, not"):
            miniray.put(1, owner=owner)
    with pytest.raises(TypeError, match="transfer: owner must be an actor's handle, not"):
        miniray.transfer(miniray.put(1), owner=owner)


def test_misuse_of_transfer(tmp_path):
    keeper = Keeper.remote()
    with pytest.raises(TypeError, match="transfer takes an ObjectRef, not int 5"):
        miniray.transfer(5, owner=keeper)
    with pytest.raises(GetTimeoutError):
        miniray.transfer(keeper.wait.remote(tmp_path / "go"), owner=keeper, timeout=0.01)
    (tmp_path / "go").touch()

    @miniray.remote
    def fail():
        raise ValueError("planned")

    with pytest.raises(ValueError, match="planned"):
        miniray.transfer(fail.remote(), owner=keeper)
