"""Programs with threads, each with what it gives: in a simulated cluster, and with real processes."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import miniray

lock = threading.Lock()


@miniray.remote
def same(x: int) -> int:
    return x


@miniray.remote
class Gatherer:
    def __init__(self) -> None:
        self.got: list[int] = []

    def add(self, x: int) -> None:
        self.got.append(x)

    def get(self) -> list[int]:
        return self.got


def in_threads(*functions: Callable[[], Any]) -> None:
    threads = [threading.Thread(target=one) for one in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def gathers() -> list[int]:
    gatherer: Any = Gatherer.remote()
    in_threads(*[lambda x=x: miniray.get([gatherer.add.remote(10 * x + y) for y in range(3)]) for x in range(4)])
    return sorted(miniray.get(gatherer.get.remote()))


def maps() -> list[int]:
    with ThreadPoolExecutor(4) as executor:
        return list(executor.map(lambda x: miniray.get(same.remote(x)), range(6)))


def awaits_threads() -> list[int]:
    async def main() -> Any:
        refs = [same.remote(x) for x in range(3)]
        return await asyncio.gather(*[asyncio.to_thread(miniray.get, ref) for ref in refs])

    return asyncio.run(main())


def waits_in_threads() -> int:
    refs = [same.remote(x) for x in range(4)]
    found: list[int] = []
    in_threads(*[lambda ref=ref: found.append(miniray.get(miniray.wait([ref], timeout=60)[0][0])) for ref in refs])
    return sum(found)


def puts_large_values() -> list[int]:
    with ThreadPoolExecutor(3) as executor:
        refs = list(executor.map(lambda x: miniray.put(bytes([x]) * 500_000), range(6)))
    return [miniray.get(ref)[-1] for ref in refs]


def produces() -> list[int]:
    items: queue.Queue[int | None] = queue.Queue(2)
    got: list[int] = []

    def consume() -> None:
        while (item := items.get()) is not None:
            got.append(item)
            items.task_done()

    consumer = threading.Thread(target=consume)
    consumer.start()
    for number in range(10):
        items.put(number)
    items.join()
    items.put(None)
    consumer.join()
    assert not consumer.is_alive() and items.empty()
    return got


def fires_timers() -> list[str]:
    fired: list[str] = []
    late, never = threading.Timer(0.2, fired.append, ("late",)), threading.Timer(0.1, fired.append, ("never",))
    late.start()
    never.start()
    never.cancel()
    late.join(0.01)
    assert late.is_alive() and not fired
    late.join()
    return fired


def notifies() -> list[int]:
    condition, told = threading.Condition(), []

    def listen(number: int) -> None:
        with condition:
            assert condition.wait_for(lambda: told, timeout=60)
            told.append(number)

    def tell() -> None:
        time.sleep(0.01)
        with condition:
            told.append(0)
            condition.notify_all()

    in_threads(tell, *[lambda number=number: listen(number) for number in range(1, 4)])
    return sorted(told)


def meets() -> int:
    barrier, most, here = threading.Barrier(3), threading.Semaphore(2), []

    def meet() -> None:
        barrier.wait(60)
        with most:
            here.append(1)
            assert len(here) <= 2
            time.sleep(0.01)
            here.pop()

    in_threads(meet, meet, meet)
    return barrier.n_waiting


def enters_again() -> int:
    again, count = threading.RLock(), [0]

    def add() -> None:
        for _ in range(5):
            with again, again, lock:
                before = count[0]
                time.sleep(0.001)
                count[0] = before + 1

    in_threads(add, add)
    return count[0]


def knows_itself() -> bool:
    local, seen = threading.local(), []

    def look() -> None:
        me = threading.current_thread()
        local.name = me.name
        time.sleep(0.01)
        seen.append((local.name == me.name, me.ident == threading.get_ident(), me.daemon, me in threading.enumerate()))

    in_threads(look, look)
    return seen == [(True, True, False, True)] * 2 and not hasattr(local, "name")


def waits_for_futures() -> tuple[int, int]:
    with ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(time.sleep, 0.001), executor.submit(divmod, 1, 0)]
        done, rest = wait(futures)
        return len(done) + len(rest), sum(isinstance(one.exception(), ZeroDivisionError) for one in futures)


PROGRAMS: dict[str, tuple[Callable[[], Any], Any]] = {
    "gathers": (gathers, sorted(10 * x + y for x in range(4) for y in range(3))),
    "maps": (maps, list(range(6))),
    "awaits_threads": (awaits_threads, [0, 1, 2]),
    "waits_in_threads": (waits_in_threads, 6),
    "puts_large_values": (puts_large_values, list(range(6))),
    "produces": (produces, list(range(10))),
    "fires_timers": (fires_timers, ["late"]),
    "notifies": (notifies, [0, 1, 2, 3]),
    "meets": (meets, 0),
    "enters_again": (enters_again, 10),
    "knows_itself": (knows_itself, True),
    "waits_for_futures": (waits_for_futures, (2, 1)),
}


@miniray.remote
def task(name: str) -> Any:
    return PROGRAMS[name][0]()


@miniray.remote
class Actor:
    def call(self, name: str) -> Any:
        return PROGRAMS[name][0]()


def everywhere(name: str) -> Any:
    """In the driver, in a task and in an actor."""
    actor: Any = Actor.remote()
    return [PROGRAMS[name][0](), *miniray.get([task.remote(name), actor.call.remote(name)])]


def all_everywhere() -> Any:
    return [everywhere(name) for name in PROGRAMS]
