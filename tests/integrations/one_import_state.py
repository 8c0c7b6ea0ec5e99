"""What people write with pools and executors: what travels, and what workers have and keep."""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import decimal
import enum
import functools
import json
import logging
import os
import random
import socket
import sqlite3
import sys
import tempfile
import threading
import types
import warnings
from multiprocessing import reduction

import numpy
from one_import import WAY, Executor, mp, said, setting, snippet, tell


def same(x):
    return x


# ---- what travels ----


@dataclasses.dataclass(slots=True, frozen=True)
class Point:
    x: int


@dataclasses.dataclass
class Named:
    items: list


Pair = collections.namedtuple("Pair", "a b")


class Color(enum.Enum):
    RED = 1


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Custom:
    def __init__(self):
        self.lock, self.kept = threading.Lock(), 1

    def __getstate__(self):
        return {"kept": self.kept + 1}


class Reduced:
    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return Reduced, (self.x + 1,)


class Table:
    rows = None

    def look(self, name):
        return self.rows[name]


@snippet
def instances_come_home():
    given = [Point(1), Named([2]), Pair(1, 2), Color.RED, Slotted(3), Custom(), Reduced(1)]
    with mp.Pool(1) as pool:
        back = pool.map(same, given)
    assert [type(one) for one in back] == [type(one) for one in given]
    return back[:4], back[3] is Color.RED, back[4].a, hasattr(back[4], "b"), back[5].kept, back[6].x


@snippet
def arrays_are_yours_to_change():
    with mp.Pool(1) as pool:
        back = pool.map(_add_one, [numpy.zeros(3), numpy.zeros(100_000)])
        back[1][0] = 5
        return back[0].tolist(), back[1][:2].tolist(), pool.map(_count_in_array, range(3)), counts[0]


@snippet
def errors_of_calls():
    with mp.Pool(1) as pool:
        return [said(lambda kind=kind: pool.apply(_fail, (kind,))) for kind in range(9)]


def _fail(kind):
    if kind == 0:
        return b"\xff".decode()
    if kind == 1:
        return json.loads("{")
    if kind == 2:
        return open("/none")
    if kind == 3:
        return {}["key"]
    if kind == 4:
        raise ExceptionGroup("group", [ValueError(1)])
    if kind == 5:
        return _fail(5)
    if kind == 6:
        raise Coded("text", code=9)
    if kind == 7:
        return (i for i in ())
    raise AssertionError


@snippet
def ends_of_pipes_and_sockets():
    here, there = mp.Pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs, mp.Pool(2) as pool:
        seen = [
            pool.apply(_send, (there, 1)),
            pool.starmap(_send, [({"end": [there]}["end"][0], x) for x in range(20)], chunksize=3),
            pool.map(functools.partial(_send, there), range(20)),
            pool.apply(there.send, (2,)),
        ]
        found = sorted(here.recv() for _ in range(42))
        made = [one["end"][0].recv() for one in [*pool.map(_make_pipe, range(20)), *pool.imap(_make_pipe, range(20))]]
        sent = pool.apply(socket.socket.send, (theirs, b"through a socket"))
        return seen, found, made, ours.recv(sent)


def _send(end, x):
    return end.send(x), end.fileno() > 2


def _make_pipe(x):
    kept, given = mp.Pipe()
    kept.send(x)
    return {"end": [given]}


@snippet
def what_is_shared_by_inheritance_only():
    made = [mp.Lock(), mp.Event(), mp.Queue(), mp.Value("i"), mp.RawValue("i"), mp.RawArray("d", 2)]
    with mp.Pool(1) as pool:
        return [said(lambda one=one: pool.apply(same, ([one],))) for one in made]


class Registered:
    def __init__(self, x):
        self.x = x


def _ten_times(x):
    return Registered(10 * x)


def _x_of(made):
    return made.x


@snippet
def reducers_of_the_forking_pickler():
    reduction.ForkingPickler.register(Registered, lambda made: (_ten_times, (made.x,)))
    with mp.Pool(1) as pool:
        return pool.apply(_x_of, (Registered(1),)), pool.map(_x_of, [Registered(2), Registered(3)], chunksize=1)


@setting
def reducers_for_results():
    reduction.ForkingPickler.register(Registered, lambda made: (_ten_times, (made.x,)))
    with mp.Pool(1) as pool:
        return [made.x for made in pool.map(Registered, range(3))], pool.apply(functools.partial(_ten_times, 4)).x


class Coded(Exception):
    def __init__(self, text, code=7):
        super().__init__(text)
        self.code = code

    def __str__(self):
        return f"{self.args[0]} {self.code}"


@snippet
def functions_are_the_same_objects_everywhere():
    given = [Held(same), functools.partial(_count_defaults, 1), _cached, Table.look]
    with mp.Pool(1) as pool:
        back, own = pool.map(same, given), pool.map(_are_own, [(same, _cached, Point)])
        one = back[0] == given[0], back[1].func is _count_defaults, back[2] is _cached, back[3] is Table.look
        called = dict(pool.map(_call, [_one, _two])), list(pool.imap(_call, [_one]))
    return one, own, called[0][_one], called[0][_two], called[1][0][0] is _one


@snippet
def defaults_are_the_same_objects_as_globals():
    executor = Executor(1)
    with mp.Pool(1) as pool:
        calls = [pool.map(use, [1, 2]) for use in (_is_missing, _is_missing_too, _count_defaults)]
        calls += [list(executor.map(use, [1, 2])) for use in (_is_missing, _is_missing_too, _count_defaults)]
        calls.append(pool.map(functools.partial(_is_missing), [1]))
    executor.shutdown()
    return calls


MISSING, DEFAULTS = object(), {}


class Held:
    def __init__(self, function):
        self.function = function

    def __eq__(self, other):
        return self.function is other.function


def _is_missing(x, given=MISSING):
    return given is MISSING


def _is_missing_too(x, *, given=MISSING):
    return given is MISSING


def _count_defaults(x, cache=DEFAULTS):
    cache[x] = 1
    return len(DEFAULTS)


def _are_own(given):
    return given[0] is same, given[1] is _cached, given[2] is Point


def _call(function):
    return function, function()


def _one():
    return 1


def _two():
    return 2


# ---- state of the workers ----


@snippet
def initializers_that_set_things():
    with mp.Pool(1, _set_things, ({"k": 5},)) as pool:
        return pool.map(_use_things, [1]), pool.map(Table().look, ["k"]), given


given = None


def _set_things(what):
    global given
    given = what
    _use_things.attribute = what
    Table.rows = what


def _use_things(x):
    return given, _use_things.attribute, Table.rows


@snippet
def what_a_worker_remembers():
    with mp.Pool(1) as pool:
        counted = pool.map(_remember, range(3)), pool.apply(_remember, (7,)), list(pool.imap(_remember, [8]))
        return counted, len(memory), pool.map(_cached, [1, 1, 2]), pool.map(_count_calls, range(3))


memory = {}


def _remember(x):
    memory[x] = 1
    return len(memory)


@functools.lru_cache
def _cached(x):
    return x


def _count_calls(x):
    _count_calls.calls = getattr(_count_calls, "calls", 0) + 1
    return _count_calls.calls


counts = numpy.zeros(100_000)


def _count_in_array(x):
    counts[0] += 1
    return float(counts[0])


def _add_one(array):
    array += 1
    return array


@snippet
def generators_of_random_numbers():
    with mp.Pool(1) as pool:
        return pool.map(_draw, range(2)), pool.map(_draw, range(2))


generator, numpy_generator = random.Random(5), numpy.random.default_rng(5)


def _draw(x):
    return generator.random(), float(numpy_generator.random())


@snippet
def shared_values_in_every_way():
    counter, queue, (here, there) = mp.Value("i", 0), mp.SimpleQueue(), mp.Pipe()
    with mp.Pool(2, _take_shared, (counter, queue, there)) as pool:
        pool.map(_use_shared, range(10))
        return counter.value, sorted(queue.get() for _ in range(10)), here.recv() in range(10)


def _take_shared(*what):
    global shared
    shared = what


def _use_shared(x):
    counter, queue, pipe = shared
    with counter.get_lock():
        counter.value += 1
    queue.put(x)
    pipe.send(x)


@snippet
def what_cannot_be_pickled_among_globals():
    global lock, log, database, end
    lock, log = threading.Lock(), tempfile.TemporaryFile("w+")
    database = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        with mp.Pool(1) as pool:
            seen = pool.map(_use_unpicklable, range(3))
        with Executor(1) as executor:
            seen += executor.map(_use_unpicklable, range(3))
        log.seek(0)
        return seen, log.read().split()
    finally:
        log.close()
        database.close()
        lock = log = database = None


variable = contextvars.ContextVar("variable", default=1)


def _use_unpicklable(x):
    with lock:
        print(x, file=log, flush=True)
    return database.execute("select 5").fetchone(), variable.get()


@snippet
def a_pipe_among_globals():
    global end
    here, end = mp.Pipe()
    with mp.Pool(1) as pool:
        pool.map(_send_by_pipe, [1, 2])
    end = None
    return here.recv(), here.recv()


def _send_by_pipe(x):
    end.send(x)


@snippet
def logging_that_the_program_has_set_up():
    handler = logging.FileHandler(os.path.join(tempfile.mkdtemp(), "log"))
    handler.setFormatter(logging.Formatter("%(levelname)s:%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with mp.Pool(1) as pool:
            pool.map(_tell, [1])
        with Executor(1) as executor:
            executor.submit(_tell, 2).result()
        with open(handler.baseFilename) as told:
            return told.read().split()
    finally:
        root.removeHandler(handler)
        root.setLevel(logging.WARNING)


def _tell(x):
    logging.getLogger("somewhere").info("told-%s", x)


@setting
def other_settings():
    config.value = 5
    decimal.getcontext().prec = 5
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with mp.Pool(1) as pool:
            seen = said(lambda: pool.apply(warnings.warn, ("loud",))), pool.apply(_settings)
    sys.setrecursionlimit(limit)
    return seen


config = types.ModuleType("config")
sys.modules["config"] = config


def _settings():
    import __main__
    import config

    return config.value, decimal.Decimal(1) / 3, sys.getrecursionlimit(), __main__.WAY == WAY, len(sys.argv), __file__


@snippet
def who_a_worker_is():
    with mp.Pool(1) as pool:
        return pool.apply(_name), mp.current_process().name


def _name():
    me = mp.current_process()
    return me.name.rstrip("0123456789"), me._identity != (), mp.parent_process() is not None


if __name__ == "__main__":
    tell()
