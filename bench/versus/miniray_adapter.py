"""miniray, by its public names, as a user writes it."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import miniray
from bench.versus.work import ends, make_array, nothing, pin

STORE_BYTES = 1 << 30


class Counter:
    """The actor of `actor_roundtrip`."""

    def nothing(self, value: int) -> int:
        return value

    def pin(self, core: int) -> None:
        pin(core)


class Adapter:
    def start(self, workers: int) -> None:
        self._actor: Any = None
        miniray.init(num_cpus=workers, object_store_memory=STORE_BYTES)
        self._nothing = miniray.remote(nothing)

    def stop(self) -> None:
        miniray.shutdown()

    def pin_worker(self, core: int) -> None:
        miniray.get(miniray.remote(pin).remote(core))

    def start_actor(self) -> None:
        self._actor = miniray.remote(Counter).remote()
        miniray.get(self._actor.nothing.remote(0))

    def pin_actor(self, core: int) -> None:
        miniray.get(self._actor.pin.remote(core))

    def roundtrip(self, count: int) -> float:
        get, remote = miniray.get, self._nothing.remote
        began = perf_counter()
        for i in range(count):
            get(remote(i))
        return perf_counter() - began

    def actor_roundtrip(self, count: int) -> float:
        get, call = miniray.get, self._actor.nothing.remote
        began = perf_counter()
        for i in range(count):
            get(call(i))
        return perf_counter() - began

    def submit_gather(self, count: int) -> float:
        remote = self._nothing.remote
        began = perf_counter()
        refs = [remote(i) for i in range(count)]
        assert sum(miniray.get(refs)) == count * (count - 1) // 2
        return perf_counter() - began

    def share_array(self, nbytes: int, tasks: int) -> float:
        array = make_array(nbytes)
        look = miniray.remote(ends)
        began = perf_counter()
        ref = miniray.put(array)
        assert miniray.get([look.remote(ref) for _ in range(tasks)]) == [2.0] * tasks
        return perf_counter() - began
