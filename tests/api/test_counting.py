"""Whatever a ref is put into keeps its value alive; when that is gone, so is the value (PROTOCOL.md section 4)."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest
from quiescence import eventually

import miniray
from miniray._runtime.context import current

pytestmark = pytest.mark.usefixtures("session")

SIZE = 50_000


def knows(object_id):
    """Whether this process owns it, and has not freed it."""
    process = current()
    process.post()  # takes in what finalisers have left
    return process.drives.locked(lambda: process.owner.knows(object_id))


@miniray.remote(num_cpus=0)
class Maker:
    """Another owner than the driver."""

    def make(self):
        return [miniray.put(np.arange(SIZE))]

    def knows(self, object_id):
        gc.collect()
        return knows(object_id)


@miniray.remote
def same(box):
    return box


@miniray.remote
def raise_with(box):
    raise LookupError("see the ref", box)


@miniray.remote
def raise_from_with(box):
    try:
        raise Odd(1, 2, box)
    except Odd as error:
        raise ValueError("outer") from error


class Odd(Exception):
    """Neither as it is, nor by its parts: a `SubstituteError` stands for it, which has its attributes."""

    def __init__(self, one, two, box):
        super().__init__(one)
        self.box = box

    def __reduce__(self):
        return Odd, (1,)

    def __str__(self):
        return f"{id(self)}"


@miniray.remote(num_cpus=0)
class Keeper:
    def __init__(self, box):
        self.kept = box

    def read(self):
        return total(self.kept[0])

    def drop(self):
        self.kept = None


@miniray.remote(num_cpus=0)
class KeepsGenerator:
    def __init__(self, box):
        self.kept = generate(*box)
        next(self.kept)

    def read(self):
        return next(self.kept)

    def drop(self):
        """It has not been exhausted, and its frame has the ref."""
        self.kept = None


class Box:
    def __init__(self, ref):
        self.ref = ref
        self.myself = self


def generate(ref):
    while True:
        yield total(ref)


def total(ref):
    return int(miniray.get(ref).sum())


def close_over(ref):
    @miniray.remote
    def closure():
        return total(ref)

    return closure


def error_of(ref):
    miniray.wait([ref])
    try:
        miniray.get(ref)
    except Exception as error:
        return error.with_traceback(None)


# What keeps the ref, and how its value is read through that.
CARRIERS = {
    "put": (lambda ref: miniray.put([ref]), lambda kept: total(miniray.get(kept)[0])),
    "put twice": (
        lambda ref: miniray.put({"deep": miniray.put([ref])}),
        lambda kept: total(miniray.get(miniray.get(kept)["deep"])[0]),
    ),
    "an object in a cycle": (lambda ref: miniray.put(Box(ref)), lambda kept: total(miniray.get(kept).myself.ref)),
    "a result": (lambda ref: same.remote([ref]), lambda kept: total(miniray.get(kept)[0])),
    "a result not read": (lambda ref: same.remote(same.remote([ref])), lambda kept: total(miniray.get(kept)[0])),
    "a closure": (close_over, lambda kept: miniray.get(kept.remote())),
    "an actor": (lambda ref: Keeper.remote([ref]), lambda kept: miniray.get(kept.read.remote())),
    "a generator": (lambda ref: KeepsGenerator.remote([ref]), lambda kept: miniray.get(kept.read.remote())),
    "an exception": (lambda ref: raise_with.remote([ref]), lambda kept: total(error_of(kept).__cause__.args[1][0])),
    "an exception that was raised": (
        lambda ref: error_of(raise_with.remote([ref])),
        lambda kept: total(kept.__cause__.args[1][0]),
    ),
    "a cause that cannot travel": (
        lambda ref: raise_from_with.remote([ref]),
        lambda kept: total(error_of(kept).__cause__.__cause__.attributes["box"][0]),
    ),
    "an argument's exception": (
        lambda ref: same.remote(raise_with.remote([ref])),
        lambda kept: total(error_of(kept).__cause__.args[1][0]),
    ),
}


@pytest.mark.parametrize("owner", ["the driver's", "an actor's"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_holds_the_ref_keeps_the_value(carrier, owner):
    keep, read = CARRIERS[carrier]
    if owner == "the driver's":
        ref, known = miniray.put(np.arange(SIZE)), knows
    else:
        maker = Maker.remote()
        ref = miniray.get(maker.make.remote())[0]

        def known(object_id):
            return miniray.get(maker.knows.remote(object_id))

    object_id = ref._id
    kept = keep(ref)
    del ref
    gc.collect()
    assert read(kept) == SIZE * (SIZE - 1) // 2
    assert known(object_id)
    del kept
    gc.collect()
    eventually(lambda: not known(object_id), "the value is freed")


@pytest.mark.parametrize("carrier", ["an exception", "a result", "put"])
def test_a_carrier_that_nobody_reads_is_freed_whole(carrier):
    ref = miniray.put(np.arange(SIZE))
    object_id = ref._id
    kept = CARRIERS[carrier][0](ref)
    miniray.wait([kept])
    del ref, kept
    eventually(lambda: not knows(object_id), "the value is freed")


def test_a_retried_exception_lets_go_of_its_refs():
    @miniray.remote(max_retries=3, retry_exceptions=[LookupError])
    def fails(box):
        raise LookupError("again", miniray.put(np.arange(SIZE)), box)

    ref = miniray.put(np.arange(SIZE))
    object_id = ref._id
    failed = fails.remote([ref])
    del ref
    error = error_of(failed)
    assert total(error.__cause__.args[1]) == total(error.__cause__.args[2][0])
    del error, failed
    eventually(lambda: not knows(object_id), "the value is freed")


@pytest.mark.parametrize("keeper", [Keeper, KeepsGenerator])
def test_what_an_actor_drops_is_freed_while_it_lives(keeper):
    ref = miniray.put(np.arange(SIZE))
    object_id = ref._id
    actor = keeper.remote([ref])
    del ref
    assert miniray.get(actor.read.remote()) == SIZE * (SIZE - 1) // 2
    assert knows(object_id)
    miniray.get(actor.drop.remote())
    eventually(lambda: not knows(object_id), "the value is freed")


def test_a_generator_of_the_driver_that_is_dropped_lets_go_of_its_ref():
    ref = miniray.put(np.arange(SIZE))
    object_id = ref._id
    kept = generate(ref)
    del ref
    assert next(kept) == SIZE * (SIZE - 1) // 2
    assert knows(object_id)
    del kept
    eventually(lambda: not knows(object_id), "the value is freed")


# ---- finalisers that bring back what was garbage ----


class BringsBack:
    """A cycle, which the collector finds. It finalises what hangs on that as well, though it is not to go."""

    found = []

    def __init__(self, kept):
        self.kept, self.myself = kept, self

    def __del__(self):
        self.found.append(self.kept)


@miniray.remote(num_cpus=0)
def slow(value):
    time.sleep(0.2)
    return value


@miniray.remote(num_cpus=0)
def make_slowly():
    return [slow.remote(5)]


def called_closure_of(value):
    @miniray.remote(num_cpus=0)
    def closure():
        return value

    miniray.get(closure.remote())  # from here on its owner knows of it
    return closure


GARBAGE = {
    "a ref": (lambda: miniray.put(5), miniray.get),
    "a pending ref": (lambda: slow.remote(5), miniray.get),
    "a borrowed ref": (lambda: miniray.get(make_slowly.remote())[0], miniray.get),
    "an argument": (lambda: slow.remote(5), lambda ref: miniray.get(slow.remote(ref))),
    "a box": (lambda: [slow.remote(5)], lambda box: miniray.get(miniray.get(slow.remote(box))[0])),
    "a function": (lambda: called_closure_of(5), lambda function: miniray.get(function.remote())),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_what_a_finaliser_brings_back_is_kept_for_good(what):
    """Python finalises each object once, so nobody can tell when such a ref goes. It never waits without an end."""
    make, use = GARBAGE[what]
    gc.disable()  # it is found here, and nowhere before
    try:
        cycle = BringsBack(make())
        del cycle
        with pytest.warns(UserWarning, match="was brought back by a finaliser: .* is kept until the session ends"):
            gc.collect()
    finally:
        gc.enable()
    kept = BringsBack.found.pop()
    current().post()  # what was dropped is gone
    assert use(kept) == 5
    assert use(kept) == 5
    held = kept[0] if what == "a box" else getattr(kept, "_handle", kept)
    if what == "a function":
        held._drop()  # the test's own end: nobody else may
    else:
        current().dropped.append(held._id)


def test_what_dies_in_a_cycle_is_let_go(recwarn):
    """Also where a finaliser has used it, after its own."""
    results = []

    class Uses(BringsBack):
        def __del__(self):
            results.append(slow.remote(self.kept))

    ref = slow.remote(5)
    object_id = ref._id
    cycle = Uses(ref)
    del ref, cycle
    gc.collect()
    assert miniray.get(results) == [5]
    results.clear()
    eventually(lambda: not knows(object_id), "the value is freed")
    assert not [one for one in recwarn.list if "brought back" in str(one.message)]
