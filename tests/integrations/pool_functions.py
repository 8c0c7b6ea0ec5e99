"""What the pool tests run in workers: an importable module, as the standard pool needs one."""

from __future__ import annotations

import builtins
import mmap
import multiprocessing
import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import miniray

shared: Any = None
counts: Any = None


class TwoArgumentsError(Exception):
    """Its default pickle fails to unpickle: the standard pool hangs on it."""

    def __init__(self, first: str, second: int) -> None:
        super().__init__(f"{first} {second}")
        self.first, self.second = first, second


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


def same(x: Any) -> Any:
    return x


def read_slowly(folder: Path) -> int:
    (folder / "reads").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    return 60


def refuse() -> Any:
    raise LookupError("cannot be read")


class Unreadable:
    """Fails where it is unpickled."""

    def __reduce__(self) -> Any:
        return refuse, ()


class Interrupting:
    """As if Ctrl-C came while it is pickled, always."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class Exiting:
    def __reduce__(self) -> Any:
        raise SystemExit(3)


def ending(words: str) -> Any:
    return {"interrupt": Interrupting, "exit": Exiting}[words]() if words else words


def wait_or_unreadable(path: str) -> Any:
    return Unreadable() if path == "unreadable" else wait_for(path)


def square(x: Any) -> Any:
    return x * x


def note_in(noted: list[Any]) -> int:
    """How often, as far as this list knows."""
    noted.append(0)
    return len(noted)


def append_and_return(items: list[int]) -> list[int]:
    items.append(0)
    return items


def note_first(noted: list[Any], _: Any) -> int:
    return note_in(noted)


_filled: list[Any] = [None]
_array: Any = None


def fill_and_return(x: Any) -> list[Any]:
    _filled[0] = x
    return _filled


def fill_array(size_and_x: tuple[int, int]) -> Any:
    global _array
    import numpy as np

    size, x = size_and_x
    if _array is None or len(_array) != size:
        _array = np.empty(size)
    _array[:] = x
    return _array


def add_one(array: Any) -> float:
    array += 1
    return float(array[-1])


def first_of(items: Any) -> Any:
    return items[0]


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, _: Any) -> int:
        self.count += 1
        return self.count

    __call__ = add


def fail_on_three(x: int) -> int:
    if x == 3:
        raise ValueError(f"bad {x}", x)
    return x


def keyword(x: int, *, plus: int = 0) -> int:
    return x + plus


def set_shared(value: Any) -> None:
    global shared
    shared = value


def read_shared(x: int) -> Any:
    return shared, x


def open_counts(path: str) -> None:
    """A byte for each call that says its number."""
    global counts
    with open(path, "r+b") as file:
        counts = mmap.mmap(file.fileno(), 0)


def count_call(number: int) -> int:
    counts[number] += 1
    return number


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_for_file(path: str) -> str:
    deadline = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return "waited"


class Plain:
    """Something that a weak reference can name."""


def raise_with_cause(x: int) -> None:
    try:
        {}[x]
    except KeyError as error:
        failure = ValueError("with a cause")
        failure.add_note("and a note")
        raise failure from error


def raise_a_group(x: int) -> None:
    raise ExceptionGroup("two", [ValueError(x), KeyError(x)])


def await_others(of: tuple[str, int]) -> int:
    """The slow call: it ends when so many others have left their file, or in a minute."""
    folder, others = of
    deadline = time.monotonic() + 60
    while len(os.listdir(folder)) < others and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(os.listdir(folder))


def slow_or_quick(of: tuple[str, int]) -> int:
    folder, number = of
    if number == 0:
        return await_others((folder, 100))
    time.sleep(0.002)
    (Path(folder) / str(number)).touch()
    return number


def process_title() -> tuple[str, str, int | None, str]:
    """The class of this process, its name without the number, its parent's pid, its name."""
    me: Any = multiprocessing.current_process()
    return type(me).__name__, me.name.partition("-")[0], me._parent_pid, me.name


def pid(_: Any = None) -> int:
    return os.getpid()


def raise_two(_: Any) -> None:
    raise TwoArgumentsError("two", 2)


def unpicklable_on_three(x: int) -> Any:
    return Unpicklable() if x == 3 else x


def kill_on(x: int, victim: int) -> int:
    if x == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def note_and_kill_on_five(x: int, folder: str) -> int:
    """Leaves a file for each start, so that a test can count them."""
    (Path(folder) / f"{x}-{time.time_ns()}-{os.getpid()}").touch()
    if x == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def write_zero(array: Any) -> tuple[bool, Any]:
    was_writable = bool(array.flags.writeable)
    array[0] = -1.0
    return was_writable, array


def exit_now(*_: Any) -> None:
    os._exit(3)


def raise_exit(_: Any) -> None:
    raise SystemExit(3)


def stop_on_three(x: int) -> int:
    if x == 3:
        raise StopIteration
    return x


def wait_while_there(path: str) -> None:
    deadline = time.monotonic() + 60
    while os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def touch(path: str) -> None:
    Path(path).touch()


def raise_named(name: str) -> None:
    kind: Any = getattr(builtins, name)
    raise kind("several", [KeyboardInterrupt()]) if name == "BaseExceptionGroup" else kind("deliberately")


def raise_with_notes() -> None:
    error: Any = ValueError("noted")
    error.add_note("first")
    error.code = 7
    raise error


def raise_group() -> None:
    raise ExceptionGroup("two", [ValueError(1), KeyError("b")])


def nested_unpicklable() -> Any:
    return {"a": [1, Unpicklable()]}


def own_name() -> str:
    return multiprocessing.current_process().name


def who() -> Any:
    me: Any = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    assert parent is not None
    child = multiprocessing.get_context("fork").Process(target=square, args=(3,))
    child.start()
    child.join()
    return me.name, me._identity, parent.pid, parent.is_alive(), child.exitcode == 0


def log(text: str) -> None:
    multiprocessing.get_logger().info(text)


def count_in(counts: Any, queue: Any, lock: Any, x: int) -> None:
    with lock:
        counts[x] = counts.get(x, 0) + 1
    queue.put(x)


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def square_in_a_while(x: int) -> int:
    end = time.perf_counter() + 1e-4
    while time.perf_counter() < end:
        pass
    return x * x


class Undriven:
    """In place of a dispatcher: its futures are set by the test."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def attend(self) -> None:
        pass

    def show_waiters(self) -> None:
        pass

    def wait_until(self, done: Any, timeout: float | None = None, look: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not done():
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def wait_for(path: str) -> str:
    """Until somebody has made that file, or a minute; "" is there already."""
    deadline = time.monotonic() + 60
    while path and not os.path.exists(path):
        if time.monotonic() > deadline:
            return "nobody came"
        time.sleep(0.005)
    return path


def wait_or_fail(path: str) -> str:
    if path == "fail":
        raise LookupError(path)
    if path == "fail hard":
        raise TwoArgumentsError("fail", 2)
    return wait_for(path)


def wait_or_give(path: str) -> Any:
    return threading.Lock() if path == "lock" else wait_for(path)


def collect_warnings() -> None:
    set_shared([])
    warnings.showwarning = lambda message, *_: shared.append(str(message))


def raise_with_ref(x: Any) -> None:
    raise ValueError(miniray.put(x))


def give_ref_or_wait(path: str) -> Any:
    return wait_for(path) if path else miniray.put("there")


def note_start(folder: str) -> None:
    """An initializer: this process is known there from now on."""
    set_shared(folder)
    (Path(folder) / str(os.getpid())).touch()


def note_start_or_fail(folder: str) -> None:
    """There is one of something, which the first has until its call has ended (`hold_busy`)."""
    note_start(folder)
    busy = os.path.join(folder, "busy")
    if os.path.exists(busy):
        touch(os.path.join(folder, "failed"))
        raise LookupError("somebody else has it")
    touch(busy)


def note_start_and_wait(folder: str) -> None:
    note_start(folder)
    wait_while_there(os.path.join(folder, "closed"))


def hold_busy(folder: str) -> int:
    """Until another initializer has failed."""
    deadline = time.monotonic() + 60
    while not os.path.exists(os.path.join(folder, "failed")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.remove(os.path.join(folder, "busy"))
    return os.getpid()


def count_running(folder: str) -> tuple[int, int, Any]:
    """How many calls run at once now; in which process, and what its initializer has left there."""
    mine = os.path.join(folder, str(os.getpid()))
    touch(mine)
    running = len(os.listdir(folder))
    time.sleep(0.01)
    os.remove(mine)
    return running, os.getpid(), shared


def note_and_await(folder: str, processes: int) -> int:
    """Until so many processes are here at once."""
    touch(os.path.join(folder, str(os.getpid())))
    await_others((folder, processes))
    return os.getpid()
