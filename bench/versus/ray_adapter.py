"""Ray, as a user writes it (the package's extra `bench`)."""

from __future__ import annotations

from time import perf_counter

import ray
from bench.versus.work import ends, make_array, nothing, pin

STORE_BYTES = 1 << 30


def start_ray(workers: int) -> None:
    ray.init(
        num_cpus=workers,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )


class Counter:
    def nothing(self, value: int) -> int:
        return value

    def pin(self, core: int) -> None:
        pin(core)


class Adapter:
    def start(self, workers: int) -> None:
        start_ray(workers)
        self._nothing = ray.remote(nothing)

    def stop(self) -> None:
        ray.shutdown()

    def pin_worker(self, core: int) -> None:
        ray.get(ray.remote(pin).remote(core))

    def start_actor(self) -> None:
        self._actor = ray.remote(Counter).remote()
        ray.get(self._actor.nothing.remote(0))

    def pin_actor(self, core: int) -> None:
        ray.get(self._actor.pin.remote(core))

    def roundtrip(self, count: int) -> float:
        began = perf_counter()
        for i in range(count):
            ray.get(self._nothing.remote(i))
        return perf_counter() - began

    def actor_roundtrip(self, count: int) -> float:
        began = perf_counter()
        for i in range(count):
            ray.get(self._actor.nothing.remote(i))
        return perf_counter() - began

    def submit_gather(self, count: int) -> float:
        began = perf_counter()
        refs = [self._nothing.remote(i) for i in range(count)]
        assert sum(ray.get(refs)) == count * (count - 1) // 2
        return perf_counter() - began

    def share_array(self, nbytes: int, tasks: int) -> float:
        array = make_array(nbytes)
        look = ray.remote(ends)
        began = perf_counter()
        ref = ray.put(array)
        assert ray.get([look.remote(ref) for _ in range(tasks)]) == [2.0] * tasks
        return perf_counter() - began
