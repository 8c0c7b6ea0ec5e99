"""Pools of forked workers: what can only be inherited reaches them from everywhere, as with the standard pool."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from miniray.pool.inheritance import find_in_main, find_shared

HEAD = """
import contextlib, ctypes, functools, multiprocessing, os, signal, sys, threading, time
from {package} import Pool

class Holder:
    def __init__(self, thing):
        self.inside = [thing, {{}}]

def use(kind, thing):
    "Something that shows in the driver that it was this very thing."
    if kind in ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"):
        with thing, open(os.environ["WITNESS"], "a") as file:
            file.write("x")
    elif kind in ("Value", "RawValue"):
        thing.value += 1
    elif kind in ("Array", "RawArray"):
        thing[0] += 1
    elif kind == "Event":
        thing.set()
    elif kind == "Barrier":
        thing.abort()
    elif kind in ("Queue", "SimpleQueue", "JoinableQueue"):
        thing.put("x")
    elif kind == "Pipe":
        thing[1].send("x")
    elif kind == "Manager":
        thing.append("x")
    return os.getppid()

def was_used(kind, thing):
    if kind in ("Value", "RawValue"):
        return thing.value == 1
    if kind in ("Array", "RawArray"):
        return thing[0] == 1
    if kind == "Event":
        return thing.is_set()
    if kind == "Barrier":
        return thing.broken
    if kind in ("Queue", "SimpleQueue", "JoinableQueue"):
        return thing.get() == "x"
    if kind == "Pipe":
        return thing[0].poll(10) and thing[0].recv() == "x"
    if kind == "Manager":
        return list(thing) == ["x"]
    try:
        return os.path.getsize(os.environ["WITNESS"]) == 1
    finally:
        os.unlink(os.environ["WITNESS"])

def make(kind):
    if kind in ("Value", "RawValue"):
        return getattr(multiprocessing, kind)("i", 0)
    if kind in ("Array", "RawArray"):
        return getattr(multiprocessing, kind)("i", 3)
    if kind == "Barrier":
        return multiprocessing.Barrier(2)
    if kind == "Manager":
        return manager.list()
    return getattr(multiprocessing, kind)()

KINDS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier", "Value", "RawValue",
    "Array", "RawArray", "Queue", "SimpleQueue", "JoinableQueue", "Pipe"]

def begin(kind, thing):
    global mine
    mine = kind, thing

def use_mine(_):
    return use(mine[0], mine[1].inside[0] if isinstance(mine[1], Holder) else mine[1])

def use_global(kind):
    return use(kind, thing)

def is_forked(pool):
    return getattr(pool, "_dispatcher", None) is None or pool._dispatcher.crew.is_forked
"""


def run(tmp_path: Path, body: str, package: str = "miniray") -> None:
    path = tmp_path / "driver.py"
    path.write_text(HEAD.format(package=package) + textwrap.dedent(body) + "\nprint('ended')\n")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", path], capture_output=True, text=True, timeout=100, cwd=tmp_path,
        env={**os.environ, "WITNESS": str(tmp_path / "witness")},
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("ended\n", "", 0), done.stderr


PLACES = {
    "initargs": "Pool(1, begin, (kind, thing))",
    "an object among them": "Pool(1, begin, (kind, Holder(thing)))",
    "a closure": "Pool(1, (lambda given: lambda: begin(kind, given))(thing))",
    "a global": None,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("package", ["multiprocessing", "miniray"])
def test_every_primitive_reaches_the_workers(tmp_path: Path, package: str, place: str) -> None:
    made = PLACES[place] or "Pool(1)"
    call = "pool.apply(use_global, (kind,))" if PLACES[place] is None else "pool.map(use_mine, [0])[0]"
    body = f"""
    if __name__ == "__main__":
        manager = multiprocessing.Manager() if {PLACES[place] is not None} else None
        for kind in KINDS + ["Manager"] * (manager is not None):
            thing = make(kind)
            with {made} as pool:
                assert {call} == os.getpid() and is_forked(pool), kind
                assert was_used(kind, thing), kind
                if hasattr(pool, "_dispatcher"):
                    assert repr(pool).endswith("start=fork>"), pool
        if manager is not None:
            manager.shutdown()
    """
    run(tmp_path, body, package)


def test_a_pool_that_began_otherwise_is_forked_anew_when_a_function_needs_it(tmp_path: Path) -> None:
    """The lock of an imported module: a worker that imports it would have another one, and no error would tell."""
    (tmp_path / "imported.py").write_text(
        "import multiprocessing, os\n"
        "lock = multiprocessing.Lock()\n"
        "def where():\n"
        "    return os.getppid(), lock.acquire(timeout=0.01)\n"
    )
    body = """
    import imported

    def plain(gate):
        while not os.path.exists(gate):
            time.sleep(0.01)
        return os.getppid()

    def where_through_a_module():
        return os.getppid(), imported.lock.acquire(timeout=0.01)

    if __name__ == "__main__":
        me = os.getpid()
        with Pool(2) as pool:
            assert repr(pool).endswith("start=zygote>")
            assert pool.apply(plain, (__file__,)) != me
            slow = pool.apply_async(plain, ("gate",))
            try:
                pool.apply_async(imported.where)
            except RuntimeError as error:
                assert "should only be shared between processes through inheritance: where uses" in str(error)
            open("gate", "w").close()
            slow.get()
            with imported.lock:
                assert pool.apply(imported.where) == (me, False)
                assert pool.apply(where_through_a_module) == (me, False)
            assert repr(pool).endswith("start=fork>")
            assert pool.apply(plain, (__file__,)) == me
    """
    run(tmp_path, body)


def test_a_lock_among_the_arguments_of_a_call_is_refused_as_by_the_standard_pool(tmp_path: Path) -> None:
    body = """
    if __name__ == "__main__":
        lock = multiprocessing.Lock()
        for initargs in ((), (lock,)):
            with Pool(1, begin, (1, *(initargs or (2,)))) as pool:
                for result in (pool.apply_async(id, (lock,)), pool.map_async(id, [1, lock])):
                    try:
                        result.get()
                    except RuntimeError as error:
                        assert str(error) == "Lock objects should only be shared between processes through inheritance"
                assert pool.apply(abs, (-1,)) == 1
    """
    for package in ("multiprocessing", "miniray"):
        run(tmp_path, body, package)


def test_workers_that_take_the_place_of_others_inherit_anew(tmp_path: Path) -> None:
    body = """
    lock, word = multiprocessing.Lock(), "first"

    class Unsent:
        def __reduce__(self):
            raise AssertionError("pickled")

    large = Unsent()

    def look(_):
        with lock:
            return os.getpid(), word, type(large).__name__, mine

    def die():
        with contextlib.ExitStack():
            os.kill(os.getpid(), signal.SIGKILL)

    if __name__ == "__main__":
        with Pool(1, begin, ("a", threading.Lock()), maxtasksperchild=2) as pool:
            seen = [pool.apply(look, (0,)) for _ in range(2)]
            word = "second"
            seen += [pool.apply(look, (0,)) for _ in range(2)]
            assert len({pid for pid, *_ in seen}) == 2, seen
        with Pool(1, begin, ("a", 7)) as pool:
            first = pool.apply(look, (0,))
            word = "third"                       # it travels, since the worker has an older one
            assert pool.apply(look, (0,))[:2] == (first[0], "third")
            try:
                pool.apply(die)
            except Exception as error:
                assert type(error).__name__ == "WorkerCrashedError", error
            again = pool.apply(look, (0,))
            assert again[0] != first[0] and again[1:] == ("third", "Unsent", ("a", 7)), again
    """
    run(tmp_path, body.replace("return os.getpid(), word, type(large).__name__, mine",
        "return os.getpid(), word, type(large).__name__, (mine[0], mine[1] if mine[1] == 7 else 0)"))


def test_whatever_is_called_finds_what_was_inherited(tmp_path: Path) -> None:
    body = """
    lock, shared = multiprocessing.Lock(), None
    count = multiprocessing.Value("i", 0)

    class Adder:
        def __init__(self, by):
            self.by = by
        def add(self, x):
            with lock:
                count.value += self.by
                return shared, type(self) is Adder, x
        def __call__(self, x):
            return self.add(x)

    def set_shared(value):
        global shared
        shared = value

    def add(by, x):
        return Adder(by).add(x)

    @functools.cache
    def cached(x):
        return add(1, x)

    def results(x):
        with lock:
            return Adder(x)

    def nested(x):
        with Pool(2) as pool:
            return pool.map(abs, [x, -x])

    if __name__ == "__main__":
        with Pool(2, set_shared, ("set",)) as pool:
            callables = [functools.partial(add, 1), Adder(1).add, Adder(1), lambda x: add(1, x), cached]
            for callable in callables:
                assert pool.map(callable, range(3)) == [("set", True, x) for x in range(3)], callable
                assert pool.apply(callable, (5,)) == ("set", True, 5)
                assert list(pool.imap(callable, [7])) == [("set", True, 7)]
            assert count.value == 5 * len(callables)
            assert [type(one) is Adder and one.by for one in pool.map(results, [1, 2])] == [1, 2]
            assert pool.apply(nested, (3,)) == [3, 3]

            def made_later(x):
                return add(x, x)
            assert pool.apply(made_later, (2,)) == ("set", True, 2)
        with Pool(1, context=multiprocessing.get_context("fork")) as pool:
            assert pool.apply(os.getppid) == os.getpid() and repr(pool).endswith("start=fork>")
        from miniray import Executor
        with Executor(1, initializer=begin, initargs=("Value", count)) as executor:
            assert executor.submit(use_mine, 0).result() == os.getpid()
    """
    run(tmp_path, body)


FUNCTIONS = """
lock, count = multiprocessing.Lock(), multiprocessing.Value("i", 0)

def synchronized(function):
    lock = multiprocessing.Lock()
    @functools.wraps(function)
    def run(x):
        with lock:
            return function(x)
    return run

@synchronized
def work(x): return x + 1

def default(x, count=multiprocessing.Value("i", 3)): return x + count.value

def named(x, *, count=multiprocessing.Value("i", 3)): return x + count.value

@functools.lru_cache
def cached(x, count=multiprocessing.Value("i", 3)): return x + count.value

class Counter:
    lock = multiprocessing.Lock()
    def add(self, x):
        with self.lock:
            return x + 1
    @staticmethod
    def free(x): return x + 1
    def __call__(self, x): return self.add(x)

def run(function): return function(1)
def same(x): return x

def part_of(callable):
    "What can be compared: not an instance."
    if isinstance(callable, Counter):
        return type(callable)
    return getattr(callable, "__func__", None) or getattr(callable, "func", callable)
"""


@pytest.mark.parametrize("held", ["the program's", "the functions'"])
@pytest.mark.parametrize("package", ["multiprocessing", "miniray", "miniray.multiprocessing"])
def test_functions_and_classes_that_hold_primitives_are_inherited(tmp_path: Path, package: str, held: str) -> None:
    """Where only they hold any, a pool has to look there."""
    body = FUNCTIONS if held == "the program's" else FUNCTIONS.partition("\n\n")[2]
    body += textwrap.dedent("""
    if __name__ == "__main__":
        callables = [work, default, named, cached, Counter().add, Counter.free, Counter(), functools.partial(default)]
        for callable in callables:
            with Pool(1) as pool:
                result = pool.apply(callable, (1,))
                assert result in (2, 4) and pool.map(callable, [1]) == list(pool.imap(callable, [1])) == [result]
                assert pool.map(run, [callable]) == list(pool.imap(run, [callable])) == [result], callable
                back = pool.map(same, [callable, functools.partial(callable)])
                assert len({part_of(one) for one in (callable, back[0], back[1].func)}) == 1, back
    """)
    run(tmp_path, body, package)


def test_a_forked_worker_follows_what_is_bound_and_changed_since(tmp_path: Path) -> None:
    body = """
    lock, factor = multiprocessing.Lock(), 1

    def doubled(function):
        @functools.wraps(function)
        def twice(x):
            return 2 * function(x)
        return twice

    @doubled
    def work(x):
        return x * factor

    def through(x, by=1):
        return work(x) * by

    class Made:
        kind = "old"
        def tell(self, x):
            return self.kind, factor

    if __name__ == "__main__":
        with Pool(1, context=multiprocessing.get_context("fork")) as pool:
            made, old = Made(), work
            assert (pool.map(work, [1]), pool.map(through, [1]), pool.map(made.tell, [1])) == ([2], [2], [("old", 1)])
            factor = 3
            assert pool.map(made.tell, [1]) == [("old", 3)]
            assert pool.map(work, [1]) == [6], "a decorated function names what is bound anew"
            def work(x): return "new"
            assert (pool.map(through, [1]), pool.map(old, [1])) == (["new"], [6])
            through.__defaults__ = (2,)
            assert pool.map(through, [1]) == ["newnew"]
            Made.kind = "changed"
            assert pool.map(made.tell, [1]) == [("changed", 3)]
            class Made(Made):
                kind = "again"
            assert pool.map(Made().tell, [1]) == [("again", 3)] and pool.map(made.tell, [1]) == [("changed", 3)]
        with Pool(1, context=multiprocessing.get_context("fork")) as pool:
            assert pool.map(through, [1]) == ["newnew"] and pool.map(old, [1]) == [6]
    """
    run(tmp_path, body)


class _Unwilling:
    """A proxy with nothing behind it: whoever looks at it is told so."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("outside of a request")

    __dict__ = property(__class__.fget)


class _UnwillingList(list[Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("not to be read")


class _UnwillingDict(dict[str, Any]):
    def values(self) -> Any:
        raise RuntimeError("not to be read")


def test_the_search_for_what_is_inherited_asks_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through the globals of the program, and through what a function uses."""
    things = _Unwilling(), _UnwillingList([1]), _UnwillingDict(a=1)
    monkeypatch.setattr(sys.modules["__main__"], "things_of_a_test", things[0], raising=False)
    lock = multiprocessing.Lock()
    assert find_in_main() is not things[0]
    assert find_shared(lambda: things) is None
    assert find_shared(lambda: (things, lock)) is lock
    assert find_shared(_UnwillingList([lock])) is lock and find_shared(_UnwillingDict(a=lock)) is lock


def test_the_search_for_what_is_inherited_looks_into_base_classes() -> None:
    lock = multiprocessing.Lock()
    base = type("Base", (), {"__module__": "__main__", "lock": lock})
    assert find_shared(type("Sub", (base,), {"__module__": "__main__"})()) is lock
