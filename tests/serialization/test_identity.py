"""A function of `__main__` is one object in each process, wherever it goes and comes from."""

from __future__ import annotations

import weakref

import pytest

from miniray._serialization.namespaces import _Versions

FORKED = "worker.close(); worker = ForkedWorker(exporter, '')\n"


@pytest.mark.parametrize("fork", ["", FORKED])
def test_functions_come_home(drive, fork: str) -> None:
    drive("""
        import functools
        def one(): return 1
        @functools.cache
        def two(): return 2
        class Thing:
            def method(self): return 3
            @staticmethod
            def free(): return 4
        def give(): return one, two, Thing.method, Thing.free, functools.partial(one), Thing().method
        def call(function): return function, function()
        """ + fork + """
        for _ in range(2):
            back = worker(give)
            assert back[:4] == (one, two, Thing.method, Thing.free)
            assert back[4].func is one and back[5].__func__ is Thing.method
            assert dict([worker(call, one), worker(call, two)]) == {one: 1, two: 2}
            factor = 2                              # what is sent anew is no other function
    """)


@pytest.mark.parametrize("fork", ["", FORKED])
def test_a_worker_has_one_of_each(drive, fork: str) -> None:
    drive("""
        import functools
        factor, registry = 1, {}
        def register(function):
            registry[function.__name__] = function
            return function
        @register
        def one(x, seen=[]):
            seen.append(x)
            return len(seen) * factor, registry["one"] is one
        @functools.cache
        def two(): return object()
        def same(f, g): return f is one, g is two, g() is two()
        """ + fork + """
        assert worker(one, 1) == (1, True)
        factor = 10
        assert worker(one, 1) == (20, True), "it is sent anew, and keeps its default"
        assert worker(same, one, two) == (True, True, True)
        one.__defaults__ = ([],)
        assert worker(one, 1) == (10, True) and worker(same, one, two)[0] is False, "it is another one, not bound anew"
    """)


@pytest.mark.parametrize("fork", ["", FORKED])
def test_defaults_and_closures_hold_the_objects_that_globals_hold(drive, fork: str) -> None:
    drive("""
        missing, cache = object(), {}
        def first(x=missing): return x is missing
        def second(x=missing): return x is missing
        def third(*, x=missing): return x is missing
        def fill(into=cache):
            into[len(into)] = 1
            return len(cache)
        def make(held):
            def inner(): return held is missing
            return inner
        fourth = make(missing)
        """ + fork + """
        assert worker(first) and worker(second) and worker(third) and worker(fourth)
        assert (worker(fill), worker(fill), cache) == (1, 2, {})
        assert worker(lambda f: f(), third)
        def later(x=missing): return x is missing
        assert worker(later)
    """)


def test_a_worker_that_is_simulated_is_not_where_a_function_comes_from(drive) -> None:
    drive("""
        from miniray._runtime.functions import FunctionImporter
        def work(by=1): return by
        importer = FunctionImporter(isolated=True)
        def load(): return importer.load(exporter.export(work)[1].to_bytes())
        first = load()
        assert first() == 1 and first is not work and load() is first
        work.__defaults__ = (2,)
        assert load()() == 2 and first() == 1
    """)


def test_what_a_decorator_changes_in_its_closure_is_sent_again(drive) -> None:
    drive("""
        import functools
        def counted(function):
            calls = 0
            @functools.wraps(function)
            def run():
                nonlocal calls
                calls += 1
                return calls
            return run
        @counted
        def work(): pass
        forked = ForkedWorker(exporter, "")
        assert [each(work) for each in (worker, forked) for _ in range(2)] == [1, 2, 1, 2]
        work(), work(), work()
        assert [each(work) for each in (worker, forked) for _ in range(2)] == [4, 5, 4, 5]
        forked.close()
    """)


def test_what_only_a_fork_has_comes_home_by_its_key(drive) -> None:
    drive("""
        import multiprocessing, pickle
        from miniray._serialization.values import deserialize, serialize
        def make(lock):
            def locked(): return lock
            return locked
        locked = make(multiprocessing.Lock())
        class Thing:
            lock = multiprocessing.Lock()
        def give(): return locked, Thing, Thing()
        def as_bytes(): return serialize(locked).to_bytes()
        forked = ForkedWorker(exporter, "")
        back = forked(give)
        assert back[0] is locked and back[1] is Thing and type(back[2]) is Thing
        data = forked(as_bytes)
        assert deserialize(data) is locked
        def read(data): return deserialize(data)
        read.__globals__["deserialize"] = deserialize
        try:
            worker(read, data)
        except pickle.UnpicklingError as error:
            assert "only the driver and workers which are forked from it" in str(error)
        else:
            raise AssertionError
        forked.close()
    """)


@pytest.mark.parametrize("fork", ["", FORKED])
def test_lambdas_that_are_made_anew_are_one_definition(drive, fork: str) -> None:
    drive("""
        def make(): return lambda: 1
        """ + fork + """
        assert len({worker.exporter.export(make())[0] for _ in range(3)}) == 1
    """)


def test_a_function_in_a_cycle_with_what_it_holds_is_freed(drive) -> None:
    drive("""
        import gc, weakref
        def make(function):
            def inner(): return kept
            kept = [inner]
            return inner
        def count(held):
            import gc
            alive = globals().setdefault("alive", __import__("weakref").WeakSet())
            alive.add(held)
            del held
            gc.collect()
            return len(alive)
        def define():
            def named(into={}): return into
            named.__qualname__ = "named"
            named.__defaults__[0]["it"] = named
            return named
        made = weakref.WeakSet()
        for each in (lambda: make(None), define):
            for _ in range(3):
                function = each()
                made.add(function)
                assert worker(count, function) <= 1
            del function
            gc.collect()
            assert not len(made)
    """)


def test_an_argument_that_has_changed_in_place_is_seen_as_it_is(drive) -> None:
    drive("""
        import functools
        calls = []
        def noted(function):
            seen = []
            @functools.wraps(function)
            def run(x):
                seen.append(x)
                return [*seen]
            return run
        def counted(function):
            count = 0
            @functools.wraps(function)
            def run(x):
                nonlocal count
                count += 1
                return function(x), count
            return run
        @noted
        def listed(x): pass
        @functools.cache
        @noted
        def cached(x): pass
        @functools.cache
        @counted
        @noted
        def wrapped(x): pass
        @counted
        @counted
        def twice(x): pass
        def marked(): pass
        marked.of = 0
        def look(function): return function(2)
        assert [worker(look, each) for each in (listed, cached, wrapped, twice)] == [[2], [2], ([2], 1), ((None, 1), 1)]
        for each in (listed, cached, wrapped, twice):
            each(1)
        assert [worker(look, each) for each in (listed, cached)] == [[1, 2], [1, 2]]
        assert [worker(look, each) for each in (wrapped, twice)] == [([1, 2], 2), ((None, 2), 2)]
        def ask(function): return function.of
        for marked.of in (0, 1):
            assert worker(ask, marked) == marked.of
    """)


def test_an_interrupt_leaves_no_function_that_is_known_but_never_found() -> None:
    class Interrupted(weakref.WeakValueDictionary):
        def __setitem__(self, key, value) -> None:
            versions.by_key = weakref.WeakValueDictionary()
            raise KeyboardInterrupt

    def function() -> None: ...

    versions = _Versions()
    versions.by_key = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        versions.of_function(function)
    key, version = versions.of_function(function)
    assert versions.find_function(key, version, function.__globals__) is function


def test_a_fork_asks_no_metaclass(drive) -> None:
    drive("""
        class Meta(type):
            @property
            def __module__(cls): raise ValueError
        Thing = Meta("Thing", (), {"__qualname__": "Thing"})
        def work(): return 1
        worker.close(); worker = ForkedWorker(exporter, '')
        assert worker(work) == 1
    """)
