"""A failure, run again in new interpreters: does it fail so in each, and with another order of sets of strings?

That order, hash order, is another one in each interpreter and stays within it. So a program that fails is run again in
interpreters with a PYTHONHASHSEED each, beside the shrinking. They are compared with one another: in all of them the
program has come the same way. Where two part, one more with the hash seed of the first tells hash order from all else
that is another one in another process (`os.getpid`, a file). With the run that failed only the end is compared: where
theirs is another one, and with more hash seeds as well, what was in this process before matters, a module's cache that
earlier runs have filled, say.

- A function at the top of an importable module is found there, its arguments are pickled; any other one is pickled by
  value. That is done before the first run, which may change them. What cannot be pickled is not compared, and the
  reason is told in one line.
- Payloads are compared without the order of their bytes: a set that travels as an argument does no harm. The names of
  functions that travel by value are hashes of their code, which may hold a frozenset: they are not compared.
- Whoever fixes PYTHONHASHSEED knows, and has the same order each time: then one interpreter does, with that one.
- The interpreters live as long as the `with` block, and never longer than an alarm of their own.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

from miniray.core.record import Record
from miniray.testing.choices import RecordedChoices
from miniray.testing.recorder import Recorder
from miniray.testing.recording import Step, fault_of
from miniray.testing.rerun import function_of, module_of
from miniray.testing.shrinking import signature
from miniray.testing.size import Size
from miniray.testing.simulation import one_line, run_once

PATIENCE_SECONDS = 10.0  # from their start; who needs longer is not waited for
MAX_BYTES = 64 << 20  # of arguments, which are pickled for each test: most do not fail
LIFE_SECONDS = 60  # of an interpreter whose parent was killed
HASH_SEEDS = (1, 2, 3)  # two elements have the same order in all of them once in four times
MORE_HASH_SEEDS = (4, 5, 6)  # when all of those have ended otherwise than the run that failed
INSIDE = "MINIRAY_NEW_INTERPRETER"  # set in those interpreters, where no more are started
Parting = Callable[[list[Step], list[Step], dict[str, Any]], str | None]


class Elsewhere(Record, frozen=True):
    """A run in another interpreter, made comparable; `error` is the signature of what it ended with, and one line."""

    steps: list[Step]
    tasks: dict[str, dict[str, Any]]
    error: tuple[tuple[str, str], str] | None


class NewInterpreters:
    """Interpreters that run it again, from `__enter__` on.

    Args:
        packed: the program, as `pack` has given it.
        run: what `simulate` takes beside it: {"choices", "faults" (plain), "cluster"}.
    """

    def __init__(self, packed: dict[str, Any] | str, run: dict[str, Any]) -> None:
        self._packed = packed
        self._run = run
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._found: dict[int, Elsewhere] = {}
        self._why = ""
        self._until = 0.0
        given = os.environ.get("PYTHONHASHSEED") or "random"  # to Python "" is none
        self._hash_seeds = HASH_SEEDS if given == "random" else (int(given),)

    def __enter__(self) -> NewInterpreters:
        self._folder = tempfile.TemporaryDirectory(prefix="miniray-")
        try:
            if INSIDE not in os.environ:
                self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()
        self._children.clear()
        self._folder.cleanup()

    def _begin(self) -> None:
        if isinstance(self._packed, str):
            self._why = self._packed
            return
        told = {**self._run, **self._packed, "sys_path": sys.path}
        (Path(self._folder.name) / "program").write_bytes(pickle.dumps(told))
        self._until = time.monotonic() + PATIENCE_SECONDS
        for number, hash_seed in enumerate(self._hash_seeds, 1):
            self._start(number, hash_seed)

    def _start(self, number: int, hash_seed: int) -> None:
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), INSIDE: "1"}
        try:
            self._children[number] = subprocess.Popen(
                [sys.executable, "-m", "miniray.testing.new_interpreters", self._folder.name, str(number)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is ours
            )
        except OSError as error:
            self._why = f"no other interpreter starts ({error})"

    def parting(self, parting: Parting) -> tuple[str, bool] | None:
        """Who did another thing in another interpreter, and whether by hash order; None: nobody, as far as is known."""
        if not self._children:
            return None
        first, *others = [self._result(number) for number in self._children]
        for other in others:
            if first is None or other is None:
                return None
            who = parting(first.steps, other.steps, first.tasks)
            if who is not None:
                self._until = max(self._until, time.monotonic() + PATIENCE_SECONDS)
                self._start(0, self._hash_seeds[0])
                control = self._result(0)
                if control is None:
                    return None
                return who, parting(first.steps, control.steps, first.tasks) is None
        return None

    def first(self) -> Elsewhere | None:
        """How it went in one of them; None: nobody knows."""
        return self._result(1) if self._children else None

    def ended_so_by_order(self, so: Callable[[Elsewhere], bool], parting: Parting) -> str | None:
        """Who did another thing where it ends so, in interpreters with other hash seeds; None: it does in none."""
        first = self.first()
        if first is None or len(self._hash_seeds) == 1:
            return None
        self._until = max(self._until, time.monotonic() + PATIENCE_SECONDS)
        for hash_seed in MORE_HASH_SEEDS:  # which are their numbers, too
            self._start(hash_seed, hash_seed)
        for hash_seed in MORE_HASH_SEEDS:
            found = self._result(hash_seed)
            if found is not None and so(found):
                self._until = max(self._until, time.monotonic() + PATIENCE_SECONDS)
                self._start(0, hash_seed)
                control = self._result(0)
                if control is not None and so(control):
                    return parting(first.steps, found.steps, first.tasks) or "the program"
                return None
        return None

    def parts_here(self, recorder: Recorder, parting: Parting) -> str | None:
        """Who did another thing in this process, in a run with a `comparable` recorder; None: nobody can tell."""
        there = self.first()
        if there is None or isinstance(self._packed, str) or not self._packed["by_name"]:
            return None  # what travels by value is called otherwise there
        return parting(_steps(json.loads(json.dumps(_told(recorder)))), there.steps, recorder.tasks)

    @property
    def why_not(self) -> str:
        """Why they say nothing, or ""."""
        return self._why

    def _result(self, number: int) -> Elsewhere | None:
        if self._why or number in self._found:
            return self._found.get(number)
        try:
            self._children[number].wait(max(0.0, self._until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._why = f"another interpreter has not run it within {PATIENCE_SECONDS:g} s"
            return None
        try:
            found = json.loads((Path(self._folder.name) / f"run-{number}").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._why = f"another interpreter ended with status {self._children[number].returncode}"
            return None
        if "why" in found:
            self._why = found["why"]
            return None
        error = found["error"] and ((found["error"][0], found["error"][1]), found["error"][2])
        self._found[number] = Elsewhere(_steps(found["steps"]), found["tasks"], error)
        return self._found[number]


# ---- where the program is ------------------------------------------------------------------------------------


def pack(program: Callable[[], Any]) -> dict[str, Any] | str:
    """Its module, its place in it (or its code), and its arguments; or why they cannot be had.

    Args:
        program: the function, or a `functools.partial` of it.
    """
    function: Any = program
    given: tuple[Any, Any] = (), {}
    if isinstance(program, functools.partial):
        function, given = program.func, (program.args, program.keywords)
    module = getattr(function, "__module__", None) or "__main__"
    name = getattr(function, "__qualname__", "")
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    by_name = module != "__main__" and found is not None and inspect.unwrap(found) is function
    try:
        what = _dumped((None if by_name else function, *given))
    except Exception as error:  # whatever the user's own pickling code raises
        return f"it cannot be pickled ({type(error).__name__}: {str(error)[:200]})"
    return {"module": module, "file": file, "name": name, "by_name": by_name, "what": what}


class _Bounded(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > MAX_BYTES:
            raise ValueError(f"its arguments have more than {MAX_BYTES >> 20} MB")
        return super().write(data)


def _dumped(what: Any) -> bytes:
    from miniray._serialization.by_value import ByValuePickler  # loads cloudpickle

    with _Bounded() as file:
        ByValuePickler(file, "").dump(what)
        return file.getvalue()


# ---- in the other interpreter --------------------------------------------------------------------------------


def _loaded(told: dict[str, Any]) -> Callable[[], Any]:
    sys.path[:] = told["sys_path"]
    module = module_of(told["module"], Path(told["file"])) if told["module"] != "__main__" else None
    function, args, kwargs = pickle.loads(told["what"])
    if function is None:
        function = function_of(module, told["name"])
    return functools.partial(function, *args, **kwargs) if args or kwargs else function


def _ran_again(told: dict[str, Any]) -> dict[str, Any]:
    try:
        program = _loaded(told)
    except Exception as error:
        return {"why": f"another interpreter cannot load it ({type(error).__name__}: {str(error)[:200]})"}
    recorder = comparable()
    choices, size = RecordedChoices(told["choices"]), Size(**told["cluster"])
    done = run_once(program, choices, fault_of(told["faults"]), size, recorder)
    ended = None if done.error is None else (*signature(done.error), one_line(done.error))
    return {"steps": _told(recorder), "tasks": recorder.tasks, "error": ended}


def comparable() -> Recorder:
    """Keeps of payloads what is the same in each interpreter."""
    return Recorder(_without_order)


def _told(recorder: Recorder) -> list[dict[str, Any]]:
    return [{name: _comparable(getattr(step, name)) for name in step.__struct_fields__} for step in recorder.steps]


def _steps(told: list[dict[str, Any]]) -> list[Step]:
    return [Step(**step) for step in told]


def _without_order(data: bytes) -> Any:
    return {"hash": blake2b(bytes(sorted(data)), digest_size=8).hexdigest()}


def _comparable(what: Any) -> Any:
    if isinstance(what, list):
        return [_comparable(part) for part in what]
    if isinstance(what, dict):
        return {name: _comparable(value) for name, value in what.items() if name != "function"}
    return what


def main(folder: str, number: str) -> None:
    signal.alarm(LIFE_SECONDS)
    told = pickle.loads((Path(folder) / "program").read_bytes())
    result = json.dumps(_ran_again(told))
    (Path(folder) / f"run-{number}").write_text(result, encoding="utf-8")
    os._exit(0)  # threads of the user's do not matter here


if __name__ == "__main__":
    main(*sys.argv[1:])
