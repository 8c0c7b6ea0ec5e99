"""When an owner is killed: its refs raise wherever they are, each time, and what was told before stays true."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from quiescence import assert_quiet, await_end

import miniray
from miniray.errors import OwnerDiedError, TaskError

SIZE = 50_000
BOUND_SECONDS = 20.0


@pytest.fixture(autouse=True)
def session():
    miniray.init(num_cpus=2)
    try:
        yield
        assert_quiet()
    finally:
        miniray.shutdown()


@miniray.remote(num_cpus=0)
class Owner:
    def put(self, size=SIZE):
        return [miniray.put(np.arange(size))]

    def start(self, path):
        return [hang.remote(path)]

    def pid(self):
        return os.getpid()


@miniray.remote(num_cpus=0)
class Holder:
    def __init__(self):
        self.box = []

    def hold(self, box):
        self.box = box

    def read(self):
        return int(miniray.get(self.box[0]).sum())


@miniray.remote
def hang(path):
    try:
        path.with_suffix(".started").touch()
        while True:
            time.sleep(0.005)
    finally:
        path.touch()


@miniray.remote
def total(value):
    return int((miniray.get(value[0]) if isinstance(value, list) else value).sum())


def kill(owner):
    pid = miniray.get(owner.pid.remote())
    os.kill(pid, signal.SIGKILL)
    await_end(pid)


def raises_again_and_again(what):
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises((OwnerDiedError, TaskError), match="has died"):
            what()
        assert time.monotonic() - began < BOUND_SECONDS


def test_every_get_raises_wherever_the_ref_is():
    owner, holder = Owner.remote(), Holder.remote()
    (direct,), (boxed,), (held,) = miniray.get([owner.put.remote() for _ in range(3)])
    box = miniray.put([boxed])
    miniray.get(holder.hold.remote([held]))
    del held, boxed
    kill(owner)
    raises_again_and_again(lambda: miniray.get(direct))
    raises_again_and_again(lambda: miniray.get(miniray.get(box)[0]))
    raises_again_and_again(lambda: miniray.get(holder.read.remote()))
    raises_again_and_again(lambda: miniray.get(total.remote(direct)))  # handed on after the death, as an argument
    raises_again_and_again(lambda: miniray.get(total.remote([direct])))  # and inside of one
    assert miniray.wait([direct], timeout=BOUND_SECONDS) == ([direct], [])


def test_a_wait_that_has_begun_ends():
    owner = Owner.remote()
    (ref,) = miniray.get(owner.start.remote(_Nowhere()))
    seen = []

    def wait():
        try:
            miniray.get(ref)
        except OwnerDiedError as error:
            seen.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    future = ref.future()
    kill(owner)
    for thread in threads:
        thread.join(BOUND_SECONDS)
    assert len(seen) == 3
    with pytest.raises(OwnerDiedError):
        future.result(BOUND_SECONDS)


class _Nowhere:
    """A path that is never there."""

    def with_suffix(self, _):
        return self

    def touch(self):
        pass


def test_what_was_told_stays_true():
    owner = Owner.remote()
    (large,), (small,), (unread,) = miniray.get([owner.put.remote(size) for size in (SIZE, 10, SIZE)])
    assert int(miniray.get(large).sum()) == SIZE * (SIZE - 1) // 2
    assert int(miniray.get(small).sum()) == 45
    kill(owner)
    raises_again_and_again(lambda: miniray.get(unread))
    assert int(miniray.get(large).sum()) == SIZE * (SIZE - 1) // 2
    assert int(miniray.get(small).sum()) == 45


def test_what_it_had_started_ends(tmp_path):
    owner = Owner.remote()
    (ref,) = miniray.get(owner.start.remote(tmp_path / "child"))
    started, ended = tmp_path / "child.started", tmp_path / "child"
    deadline = time.monotonic() + BOUND_SECONDS
    while not started.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not ended.exists()
    kill(owner)
    while not ended.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    raises_again_and_again(lambda: miniray.get(ref))
    assert miniray.get([total.remote(np.arange(4)) for _ in range(20)]) == [6] * 20
