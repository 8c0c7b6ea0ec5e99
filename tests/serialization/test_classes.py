"""Classes of `__main__` in other processes: spawned workers, and forked ones that have inherited them."""

from __future__ import annotations


def test_classes_of_main_keep_their_identity_on_the_way_back(drive) -> None:
    drive("""
        import dataclasses, enum
        scale = 10
        @dataclasses.dataclass
        class Point:
            x: int
            def scaled(self): return Point(self.x * scale)
        class Color(enum.Enum):
            RED = 1
        class Base:
            def hello(self): return "base"
        class Child(Base):
            def hello(self): return "child of " + super().hello()
        def work(point, color):
            return point.scaled(), color, isinstance(point, Point), color is Color.RED, Child()
        scaled = Point.scaled
        for _ in range(2):
            point, color, same_point, same_color, child = worker(work, Point(3), Color.RED)
            assert type(point) is Point and point == Point(30) and same_point and same_color
            assert color is Color.RED and type(child) is Child and child.hello() == "child of base"
        assert Point.scaled is scaled, "the class that came home must not be written to"
        scale = 100
        assert worker(work, Point(3), Color.RED)[0] == Point(300)
        assert worker(lambda: Point)() if False else worker(lambda: Point) is Point
        assert worker(Child).hello() == "child of base"
    """)


def test_class_attributes_follow_the_rule_of_globals(drive) -> None:
    drive("""
        class Counter:
            total = 0
            def add(self):
                Counter.total += 1
                return Counter.total
        def work(counter): return counter.add()
        assert [worker(work, Counter()) for _ in range(3)] == [1, 2, 3]     # not overwritten by each argument
        Counter.total = 100
        assert worker(work, Counter()) == 101
        Counter.add = lambda self: "patched"
        assert worker(work, Counter()) == "patched"
    """)


def test_class_definitions_inside_values_are_sent_as_one_and_follow_changes(drive) -> None:
    drive("""
        from miniray._serialization.values import serialize
        factor = 2
        class Thing:
            def __init__(self, n): self.n, self.other = n, Other()
            def times(self): return self.n * factor, self.other.hello()
        class Other:
            def hello(self): return Thing.__name__
        def work(thing): return thing.times()
        assert worker(work, Thing(1)) == (2, "Thing")
        factor = 3
        assert worker(lambda thing: thing.times(), Thing(1)) == (3, "Thing")
        old = Thing(1)
        class Thing(Thing):
            def times(self): return "redefined"
        assert worker(work, Thing(1)) == "redefined" and worker(work, old)[0] == 3
        class Meta(type): pass
        class Made(metaclass=Meta):
            class Inner: pass
        assert type(worker(lambda thing: thing, Made())) is Made
        assert type(worker(lambda thing: thing, Made.Inner())) is Made.Inner
        one, two = worker(lambda: (Thing, [Thing(1), Thing(2)]))
        assert one is Thing and type(two[1]) is Thing
    """)


def test_refs_in_class_attributes_are_counted_each_time(drive) -> None:
    drive("""
        from miniray._serialization import pickles, values
        import two_processes
        class Ref: pass
        pickles.register_reference_type(Ref, lambda ref: b"name", lambda name: Ref())
        class Thing:
            ref = Ref()
        assert values.serialize(Thing()).refs == (b"name",)
        assert values.serialize([Thing()]).refs == (b"name",)
        assert exporter.export(lambda: Thing.ref)[1].refs == (b"name",)
    """)


def test_a_forked_worker_has_what_it_inherited(drive) -> None:
    drive("""
        import threading
        lock = threading.Lock()                 # cannot be pickled: inherited only
        shared, factor = None, 2
        class Thing:
            def __init__(self, n): self.n = n
            def times(self): return self.n * factor
        def start(value):
            global shared
            shared = value
        def work(thing):
            with lock:
                return isinstance(thing, Thing), shared, thing.times(), Thing(factor)
        pool = FunctionExporter("pool")
        forked = ForkedWorker(pool, "pool")
        import two_processes
        two_processes.serialize_call = lambda a, k: __import__("miniray._serialization.values").\\
            _serialization.values.serialize_call(a, k, "pool")
        forked(start, "set")
        same, seen, times, thing = forked(work, Thing(5))
        assert (same, seen, times) == (True, "set", 10)
        factor = 3
        assert type(thing) is Thing and thing.times() == 6  # two, by the factor of here
        assert forked(work, Thing(5))[:3] == (True, "set", 15)
        Thing.times = lambda self: "patched"
        assert forked(work, Thing(5))[2] == "patched"
        class Later:
            def times(self): return factor
        assert forked(work, Later())[0] is False
        forked.close()
        again = ForkedWorker(pool, "pool")      # forked later: it has the newer bindings already
        same, seen, times, thing = again(work, Thing(5))
        assert (same, seen, times, type(thing)) == (True, None, "patched", Thing)
        assert type(again(lambda: Later())) is Later
        again.close()
    """)


def test_classes_with_slots_fit_their_instances_both_ways(drive) -> None:
    drive("""
        class Slotted:
            __slots__ = ("a", "b")
            def __init__(self, a): self.a = a
        class Open(Slotted):
            __slots__ = ("__dict__", "__private", "__weakref__")
            def __init__(self, a):
                super().__init__(a)
                self.__private, self.more = "secret", 3
            def tell(self): return self.a, self.__private, self.more
        class Single:
            __slots__ = "only"
            def __new__(cls, only):
                made = super().__new__(cls)
                made.only = only
                return made
            def __getnewargs__(self): return (self.only,)
        def work(slotted, other, single): return slotted, other, single, other.tell(), hasattr(slotted, "__dict__")
        for _ in range(2):
            slotted, other, single, told, has_dict = worker(work, Slotted(1), Open(2), Single(3))
            assert type(slotted) is Slotted and slotted.a == 1 and not hasattr(slotted, "b") and not has_dict
            assert type(other) is Open and other.tell() == told == (2, "secret", 3)
            assert type(single) is Single and single.only == 3
    """)


def test_pickling_an_instance_changes_no_class(drive) -> None:
    drive("""
        class Table:
            rows = None
            def look(self): return self.rows
        def fill(): Table.rows = "filled here"
        worker(fill)
        assert worker(lambda table: table.look(), Table()) == "filled here"  # pickle has noted its slots meanwhile
    """)


def test_a_lock_of_a_class_is_made_anew_in_each_process(drive) -> None:
    drive("""
        import threading
        class Single:
            _lock, _again, _instance = threading.Lock(), threading.RLock(), None
            label = "first"
            @classmethod
            def get(cls):
                with cls._lock, cls._again, cls._again:
                    if cls._instance is None: cls._instance = cls()
                return cls._instance.number
            def __init__(self): self.number = 7
        def take(): Single._lock.acquire(); return Single.label
        def is_taken(): return Single._lock.locked(), Single.label
        mine = Single._lock
        with mine:
            assert worker(Single.get) == 7 and worker(lambda single: single.get(), Single()) == 7
        assert worker(take) == "first"
        Single.label = "second"                                     # the class is sent again
        assert worker(is_taken) == (True, "second"), "its lock stays what it is there"
        assert type(worker(Single)) is Single and Single._lock is mine and not mine.locked()
    """)


def test_what_else_a_class_cannot_bring_is_named(drive) -> None:
    drive("""
        import threading
        from miniray._serialization.values import SerializationError
        class Logged:
            lock, log = threading.Lock(), (x for x in ())
        try: worker(lambda: Logged)
        except SerializationError as error:
            assert str(error).endswith("the global Logged -> .log: cannot pickle 'generator' object"), error
        else: raise AssertionError
    """)
