"""Clocks, sleeping and randomness are virtual for users' code while a simulated run lasts, and real everywhere else.

- Users' code runs in fibers, which are threads of their own: what is replaced asks first which thread calls it.
- `time.sleep` takes virtual time; the clocks of `time` tell it, and what a look takes (`looks.py`). `time.time` begins
  at `EPOCH_SECONDS`, and so does what `localtime` and `strftime` tell by themselves.
- Users' code computes in no time: the clocks of the CPU count what looks take, so that a loop which waits for one ends.
- The functions of the module `random` draw from a source that each task gets anew, seeded by its id and attempt: a
  replay draws the same. `os.urandom` has another one, and so `secrets` and an unseeded `random.Random()`: they leave
  `random.getstate()` as it is. (Hypothesis compares it, and makes a temporary file now and then.)
- Threads, their locks and waits are simulated as well (`threads.py`, `locks.py`, `real_waits.py`).
- `os._exit` and `os.kill` of one's own process end the simulated process.
- `from time import sleep` has been bound before: names of the program's own module are replaced too, those of other
  modules are not. `datetime.now` and NumPy's random state stay real; a run that depends on them is told
  (`explore` runs what fails twice).
- What users' code does with the real world (files that it writes, sockets, processes) is noted, by an audit hook.
"""

from __future__ import annotations

import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any

from miniray._serialization import namespaces
from miniray.testing import locks
from miniray.testing.fibers import inside_fiber
from miniray.testing.real_waits import RealWaits
from miniray.testing.threads import Threads

EPOCH_SECONDS = 1_700_000_000.0
NOTED = ("socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
FORKS = ("os.fork", "os.forkpty")
_WRITES = os.O_WRONLY | os.O_RDWR

_RANDOM = (
    "betavariate", "choice", "choices", "expovariate", "gammavariate", "gauss", "getrandbits", "getstate",
    "lognormvariate", "normalvariate", "paretovariate", "randbytes", "randint", "random", "randrange", "sample", "seed",
    "setstate", "shuffle", "triangular", "uniform", "vonmisesvariate", "weibullvariate",
)  # fmt: skip


class _Drawn(threading.local):
    """What the task that runs in this fiber draws from; each is made when it draws first."""

    seed = ""
    source: random.Random | None = None  # of the functions of `random`
    entropy: random.Random | None = None  # the operating system's


class Virtual:
    """Between `begin` and `end`. Runs do not nest.

    Args:
        now: virtual seconds; to ask takes some.
        cpu_seconds: of the process that is awake.
        sleep: lets them pass for the fiber that is awake.
        die: ends the simulated process of that fiber, with an exit status (negative: a signal).
        note: is told what users' code does with the real world.
        threads: that it starts; `real_waits`: its waits for sockets and the like.
    """

    def __init__(
        self,
        now: Callable[[], float],
        cpu_seconds: Callable[[], float],
        sleep: Callable[[float], None],
        die: Callable[[int], None],
        note: Callable[[str], None],
        threads: Threads,
        real_waits: RealWaits,
    ) -> None:
        self._now = now
        self._cpu_seconds = cpu_seconds
        self._sleep = sleep
        self._die = die
        self._note = note
        self._threads = threads
        self._real_waits = real_waits
        self._drawn = _Drawn()
        self._replaced: list[tuple[Any, str, Any]] = []
        self._bound: list[tuple[dict[str, Any], str, Any, Any]] = []  # the program's names
        self._virtual: dict[tuple[Any, str], Any] = {}  # by where it is and its name
        self._locks = dict(namespaces.LOCKS)

    def seed(self, name: str) -> None:
        """A task begins in the fiber that calls this."""
        self._drawn.seed = name
        self._drawn.source = self._drawn.entropy = None

    def begin(self, names: dict[str, Any]) -> None:
        """Args:
        names: the globals of the program, where these functions may be bound as well.
        """
        global _active
        _active = self
        new: dict[Any, Any] = {}  # by the real function
        for unit, factor in (("", 0), ("_ns", 1_000_000_000)):
            for name, origin in (("monotonic", 0.0), ("perf_counter", 0.0), ("time", EPOCH_SECONDS)):
                self._replace(time, name + unit, self._clock(self._now, origin, factor), new)
            for name in ("process_time", "thread_time"):
                self._replace(time, name + unit, self._clock(self._cpu_seconds, 0.0, factor), new)
        for name in ("localtime", "gmtime", "ctime"):
            self._replace(time, name, self._from_seconds, new)
        self._replace(time, "strftime", lambda real: lambda form, *at: real(form, *(at or (time.localtime(),))), new)
        self._replace(time, "asctime", lambda real: lambda *at: real(*(at or (time.localtime(),))), new)
        self._replace(time, "sleep", self._slept, new)
        for name in _RANDOM:
            self._replace(random, name, partial(self._draws, name), new)
        self._replace(random.Random, "seed", self._seeded, new)
        self._replace(os, "urandom", lambda real: lambda size: self._entropy().randbytes(size), new)
        self._replace(random, "_urandom", lambda real: os.urandom, new)
        self._replace(os, "_exit", lambda real: self._die, new)
        self._replace(os, "kill", self._killed, new)
        self._replace_in_libraries()
        values = {id(getattr(home, name)): value for home, name, value in self._threads.values()}
        for name, value in list(names.items()):
            if type(value).__name__ in _BOUND:
                virtual = next((virtual for real, virtual in new.items() if real == value), values.get(id(value)))
            elif isinstance(value, locks.LOCK | locks.RLOCK):
                virtual = locks.LockOfProcess(value)
            else:
                virtual = values.get(id(value))
            if virtual is not None:
                self._bound.append((names, name, value, virtual))
                names[name] = virtual
        self._set(self._threads.values())
        _auditing.begin(self._note)

    def _replace_in_libraries(self) -> None:
        """What is the standard library's own, under whatever name the program has it."""
        for module, name in ((threading, "_time"), (queue, "time"), (subprocess, "_time")):
            self._replace(module, name, self._clock(self._now, 0.0, 0), {})
        for home, name, make in (*self._threads.replaced(), *self._real_waits.replaced()):
            self._replace(home, name, make, {})

    def _set(self, values: Iterable[tuple[Any, str, Any]]) -> None:
        for home, name, value in values:
            self._replaced.append((home, name, getattr(home, name)))
            setattr(home, name, value)
        namespaces.LOCKS.update(locks.MAKERS)

    def end(self) -> None:
        global _active
        _active = None
        _auditing.note = None
        namespaces.LOCKS.clear()
        namespaces.LOCKS.update(self._locks)
        while self._bound:
            names, name, real, virtual = self._bound.pop()
            if names.get(name) is virtual:  # else the program has bound it anew
                names[name] = real
        while self._replaced:
            home, name, real = self._replaced.pop()
            setattr(home, name, real)

    def _replace(self, home: ModuleType | type, name: str, make: Callable[[Any], Any], new: dict[Any, Any]) -> None:
        real = getattr(home, name)
        key = home, name
        self._virtual[key] = make(real)

        def either(*args: Any, **kwargs: Any) -> Any:
            # A module that is imported in a run may bind this for ever: it is of the run that lasts now, not of this.
            run = _active if inside_fiber() else None
            return (real if run is None else run._virtual[key])(*args, **kwargs)

        either.__name__ = either.__qualname__ = name  # pickled by this name, as the real one
        either.__module__ = home.__name__ if isinstance(home, ModuleType) else home.__module__
        self._replaced.append((home, name, real))
        setattr(home, name, either)
        new[real] = either

    def _clock(self, now: Callable[[], float], origin: float, factor: int) -> Callable[[Any], Any]:
        if factor:
            return lambda real: lambda: round((origin + now()) * factor)
        return lambda real: lambda: origin + now()

    def _from_seconds(self, real: Any) -> Callable[..., Any]:
        return lambda seconds=None: real(EPOCH_SECONDS + self._now() if seconds is None else seconds)

    def _seeded(self, real: Any) -> Callable[..., None]:
        """An instance is seeded by chance, if by nothing else."""

        def seed(source: random.Random, a: Any = None, version: int = 2) -> None:
            real(source, self._entropy().getrandbits(128) if a is None else a, version)

        return seed

    def _slept(self, real: Any) -> Callable[[float], None]:
        def sleep(seconds: float) -> None:
            if seconds < 0:
                raise ValueError("sleep length must be non-negative")
            self._sleep(seconds)

        return sleep

    def _killed(self, real: Any) -> Callable[[int, int], None]:
        """The process that a task sees is this one: killing it ends the simulated one."""
        return lambda pid, number: self._die(-number) if number and pid == os.getpid() else real(pid, number)

    def _draws(self, name: str, real: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: getattr(self._source(), name)(*args, **kwargs)

    def _source(self) -> random.Random:
        drawn = self._drawn
        if drawn.source is None:
            drawn.source = random.Random(drawn.seed)
        return drawn.source

    def _entropy(self) -> random.Random:
        drawn = self._drawn
        if drawn.entropy is None:
            drawn.entropy = random.Random(f"{drawn.seed} of the operating system")
        return drawn.entropy


_active: Virtual | None = None  # of the run that lasts now
_BOUND = ("builtin_function_or_method", "method", "function")


class _Auditing:
    """An audit hook stays for the life of the process: there is one, and it does nothing between runs."""

    def __init__(self) -> None:
        self.note: Callable[[str], None] | None = None
        self._begun = False

    def begin(self, note: Callable[[str], None]) -> None:
        self.note = note
        if not self._begun:
            self._begun = True
            sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        note = self.note
        if note is None or not inside_fiber():
            return
        if event in NOTED:
            note(f"{event}{args!r:.80}")
        elif event == "open" and isinstance(args[2], int) and args[2] & _WRITES:
            note(f"open({args[0]!r:.80}) to write")
        elif event in FORKS:
            raise RuntimeError(
                f"{event} cannot be simulated: the child would be a copy of the whole simulated cluster. (So it is with"
                ' multiprocessing, unless its start method is "spawn", and with ProcessPoolExecutor.) Let tasks do it'
            )


_auditing = _Auditing()
