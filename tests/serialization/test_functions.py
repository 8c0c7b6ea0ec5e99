"""Functions by value with shared globals: each test is a driver script with workers in other processes."""

from __future__ import annotations

import sys
import textwrap

import pytest


def test_an_initializer_sets_a_global_that_is_none_at_module_level(drive) -> None:
    drive("""
        shared = None
        def start(value):
            global shared
            shared = value
        def work(x):
            return shared, x
        worker(start, "set in the worker")
        assert worker(work, 1) == ("set in the worker", 1)
        def other(x):            # a definition made later names it, too
            return shared, -x
        assert worker(other, 2) == ("set in the worker", -2)
        assert shared is None
    """)


def test_an_initializer_sets_a_global_that_the_driver_does_not_have(drive) -> None:
    drive("""
        def start(value):
            global shared
            shared = value
        def work():
            return shared
        worker(start, [1])
        assert worker(work) == [1]
        assert "shared" not in globals()
    """)


def test_a_global_bound_anew_travels_and_an_unchanged_one_does_not_overwrite(drive) -> None:
    drive("""
        factor, kept = 2, "driver's"
        def work(x):
            return x * factor, kept
        def keep():
            global kept
            kept = "worker's"
        assert worker(work, 5) == (10, "driver's")
        worker(keep)
        factor = 3
        assert worker(work, 5) == (15, "worker's")
        factor, kept = 2, "driver's again"
        assert worker(work, 5) == (10, "driver's again")
    """)


def test_a_new_worker_gets_all_that_an_old_definition_names(drive) -> None:
    drive("""
        table = {"a": 1}
        def work(name):
            return table[name]
        assert worker(work, "a") == 1
        late = Worker(exporter)
        assert late(work, "a") == 1
        late.close()
    """)


def test_a_binding_that_became_none_or_died_is_another_binding(drive) -> None:
    drive("""
        class Thing: pass
        thing = Thing()
        def has():
            return thing is not None
        assert worker(has)
        thing = None
        assert not worker(has)
    """)


def test_helpers_defined_and_redefined_later(drive) -> None:
    drive("""
        def work(x):
            return helper(x)
        try:
            worker(work, 1)
        except NameError as error:
            assert "helper" in str(error)
        else:
            raise AssertionError
        def helper(x): return inner(x) + 1
        def inner(x): return x * 10
        assert worker(work, 1) == 11
        def inner(x): return x * 100      # two functions away: a redefined cell
        assert worker(work, 1) == 101
    """)


def test_recursion_mutual_recursion_decorators_closures_partials_and_methods(drive) -> None:
    drive("""
        import functools
        def factorial(n): return 1 if n < 2 else n * factorial(n - 1)
        assert worker(factorial, 10) == 3628800
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        assert worker(even, 10) and not worker(odd, 10)

        def twice(function):
            @functools.wraps(function)
            def run(*args): return function(*args) * 2
            return run
        @twice
        def add(a, b): return a + b
        assert worker(add, 1, 2) == 6

        def make():
            count = 0
            def step(by):
                nonlocal count
                count += by
                return count
            return step
        step = make()
        assert (worker(step, 3), step(1)) == (3, 1)
        assert worker(step, 3) == 4       # the driver's cell is bound to another object
        def outer():
            def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
            return fib
        assert worker(outer(), 10) == 55

        assert worker(functools.partial(add, 5), 6) == 22
        assert worker(lambda x: x + 1, 1) == 2
        assert worker(len, "abc") == 3 and worker("-".join, ["a", "b"]) == "a-b"

        class Counter:
            def __init__(self): self.count = 0
            def read(self): return self.count
        counter = Counter()
        assert worker(counter.read) == 0
        counter.count = 7                 # not seen by identity: bound methods are pickled each time
        assert worker(counter.read) == 7
        def default(x, by=2): return x * by
        assert worker(default, 2) == 4
        default.__defaults__ = (5,)
        assert worker(default, 2) == 10
    """)


def test_methods_and_arguments_see_what_the_initializer_set(drive) -> None:
    drive("""
        connection = None
        class Task:
            def run(self): return connection
        def start():
            global connection
            connection = "open"
        worker(start)
        assert worker(lambda task: task.run(), Task()) == "open"
        assert worker(map_one := (lambda f: f()), lambda: connection) == "open"
    """)


def test_what_a_worker_binds_stays_there_when_it_pickles_again(drive) -> None:
    drive("""
        import threading
        connection = None
        offset = 5
        def start():
            global connection
            connection = threading.Lock()       # cannot be pickled
        def inner(x): return connection, x + offset
        def give(): return inner                # pickled again by the worker
        worker(start)
        back = worker(give)
        assert back(1) == (None, 6)             # at home it reads the driver's own globals
        offset = 7
        assert back(1) == (None, 8)
        other = Worker(exporter)
        assert other(back, 1) == (None, 8)
        other.close()
    """)


def test_what_functools_makes_of_main_functions(drive) -> None:
    drive("""
        import functools
        from functools import cache, cached_property, singledispatch
        @cache
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        assert worker(fib, 80) == 23416728348467685
        assert worker(lambda n: fib(n), 50) == 12586269025
        assert exporter.export(fib)[1] is exporter.export(fib)[1]
        class Thing:
            @cached_property
            def slow(self): return 5
            @functools.lru_cache(maxsize=3)
            def method(self): return 6
        assert worker(lambda: (Thing().slow, Thing().method())) == (5, 6)
        assert worker(lambda thing: (thing.slow, thing.method()), Thing()) == (5, 6)
        @singledispatch
        def show(x): return "any"
        @show.register
        def _(x: int): return "int"
        assert (worker(show, 1), worker(show, "s")) == ("int", "any")
        show("now its cache has an entry")
        assert worker(show, 1) == "int"
        class Adder:
            def __init__(self, by): self.by = by
            def __call__(self, x): return x + self.by
        assert worker(cache(Adder(3)), 4) == worker(cache(functools.partial(Adder(3))), 4) == 7  # they have no name
        import re
        assert worker(functools._lru_cache_wrapper.cache_info, functools.lru_cache(len)).currsize == 0
    """)


def test_an_imported_function_goes_by_reference(drive, tmp_path) -> None:
    (tmp_path / "beside.py").write_text(textwrap.dedent("""
        import functools, threading
        lock = threading.Lock()                 # by value this could not travel
        state = {"n": 0}
        class Remote:
            def __init__(self, function): self.__wrapped__ = function
        def plain():
            with lock: state["n"] += 1
            return state["n"]
        @Remote
        def wrapped():
            with lock: state["n"] += 10
            return state["n"]
        @Remote
        class Actor:
            def ask(self): return lock.locked()
    """))
    drive("""
        import beside
        from beside import plain
        assert worker(plain) == 1
        assert worker(beside.wrapped.__wrapped__) == 11, "a decorated function shares its module's state"
        assert worker(plain) == 12
        assert len(exporter.export(beside.wrapped.__wrapped__)[1].data) < 200
        assert worker(lambda cls: cls().ask(), beside.Actor.__wrapped__) is False
        def uses(): return plain(), beside.plain()
        assert worker(uses) == (13, 14)
        assert beside.state == {"n": 0}
    """)


def test_globals_that_are_modules_and_submodules(drive) -> None:
    drive("""
        import os.path as path, xml.dom, xml.dom.minidom, collections as c
        def work(): return path.join("a", "b"), xml.dom.minidom.__name__, c.Counter("aab")["a"]
        assert worker(work) == ("a/b", "xml.dom.minidom", 2)
    """)


def test_large_globals_leave_the_pickle_and_do_not_travel_again(drive) -> None:
    drive("""
        import numpy as np
        data, factor = np.arange(100_000), 2
        def total(): return int(data.sum()) * factor
        def first(): return int(data[0])
        expected = int(data.sum())
        assert worker(total) == expected * 2
        definition = exporter.export(total)[1]
        assert len(definition.data) < 2000 and [len(b) for b in definition.buffers] == [800_000]
        assert worker(first) == 0
        def blank():
            global data
            data = np.zeros(3)
        worker(blank)
        factor = 3
        assert worker(total) == 0, "the unchanged array came with the definition, but was not bound again"
    """)


def test_a_traceback_from_a_worker_names_the_file(drive) -> None:
    drive("""
        import traceback
        def fail():
            return 1 / 0
        def work():
            fail()
        try:
            worker(work)
        except ZeroDivisionError:
            pass
        def text():
            try: fail()
            except ZeroDivisionError: return traceback.format_exc()
        assert 'driver.py", line' in worker(text) and "return 1 / 0" in worker(text)
    """)


def test_definitions_are_cached_and_hashed(drive) -> None:
    drive("""
        one = 1
        def work(): return one
        first = exporter.export(work)
        assert exporter.export(work)[1] is first[1] and len(first[0]) == 16
        one = 2
        second = exporter.export(work)
        assert second[0] != first[0] and exporter.export(work)[1] is second[1]
        import functools
        part = functools.partial(pow, 2)
        assert exporter.export(part)[0] == exporter.export(part)[0]
        import miniray._runtime.functions as functions
        functions.CACHED_DEFINITIONS = 10
        for _ in range(100): exporter.export(lambda: 1)
        assert len(exporter._cache) <= 10
    """)


def test_two_isolated_importers_of_one_process_do_not_share_globals() -> None:
    from miniray._runtime.functions import FunctionExporter, FunctionImporter

    source = "shared = None\ndef start(v):\n    global shared\n    shared = v\ndef work():\n    return shared\n"
    import types

    module = types.ModuleType("made_by_test")
    exec(source, module.__dict__)
    sys.modules["made_by_test"] = module
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
    try:
        exporter = FunctionExporter()
        start, work = (exporter.export(f)[1].to_bytes() for f in (module.start, module.work))
        one, two = FunctionImporter(isolated=True), FunctionImporter(isolated=True)
        one.load(start)(1)
        two.load(start)(2)
        assert (one.load(work)(), two.load(work)(), module.shared) == (1, 2, None)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["made_by_test"]


def test_an_unpicklable_global_is_named() -> None:
    import threading

    from miniray._runtime.functions import FunctionExporter
    from miniray._serialization.values import SerializationError

    lock = threading.Lock()

    def work() -> object:
        return lock

    with pytest.raises(SerializationError, match=r"function .*work -> the closure's lock: cannot pickle"):
        FunctionExporter().export(work)
