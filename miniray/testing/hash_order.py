"""Whether a run depends on the order of sets of strings, which is another one in each interpreter: hash order.

Within one process that order stays, so a program that depends on it is run again in other interpreters, each with a
PYTHONHASHSEED of its own, beside the shrinking of what failed. They are compared with one another, never with the run
that failed: in all of them the program has come the same way. Where two part, one more with the hash seed of the first
tells hash order from all else that is another one in another process (`os.getpid`, a file).

- A function at the top of an importable module is found there, its arguments are pickled; any other one is pickled by
  value. What cannot be is not compared, and the reason is told in one line.
- Payloads are compared without the order of their bytes: a set that travels as an argument does no harm. The names of
  functions that travel by value are hashes of their code, which may hold a frozenset: they are not compared.
- Whoever fixes PYTHONHASHSEED knows, and has the same order each time: then nothing is compared.
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

from miniray.testing.choices import RecordedChoices
from miniray.testing.recorder import Recorder
from miniray.testing.recording import Step, fault_of
from miniray.testing.rerun import function_of, module_of
from miniray.testing.simulation import run_once

PATIENCE_SECONDS = 10.0  # from their start; who needs longer is not waited for
LIFE_SECONDS = 60  # of an interpreter whose parent was killed
HASH_SEEDS = (1, 2, 3)  # two elements have the same order in all of them once in four times
_INSIDE = "MINIRAY_OTHER_ORDER"  # set in those interpreters, where no more are started
Parting = Callable[[list[Step], list[Step], dict[str, Any]], str | None]


class OtherOrders:
    """Interpreters that run it again, from `__enter__` on.

    Args:
        program: the function, or a `functools.partial` of it.
        run: what `simulate` takes beside it: {"choices", "faults" (plain), "cluster"}.
    """

    def __init__(self, program: Callable[[], Any], run: dict[str, Any]) -> None:
        self._program = program
        self._run = run
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._why = ""
        self._until = 0.0

    def __enter__(self) -> OtherOrders:
        self._folder = tempfile.TemporaryDirectory(prefix="miniray-")
        try:
            if os.environ.get("PYTHONHASHSEED", "random") == "random" and _INSIDE not in os.environ:
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
        try:
            told = {**self._run, **_address(self._program), "sys_path": sys.path}
            (Path(self._folder.name) / "program").write_bytes(pickle.dumps(told))
        except Exception as error:  # whatever the user's own pickling code raises
            self._why = f"it cannot be pickled ({type(error).__name__}: {str(error)[:200]})"
            return
        self._until = time.monotonic() + PATIENCE_SECONDS
        for number in HASH_SEEDS:
            self._start(number, number)

    def _start(self, number: int, hash_seed: int) -> None:
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), _INSIDE: "1"}
        try:
            self._children[number] = subprocess.Popen(
                [sys.executable, "-m", "miniray.testing.hash_order", self._folder.name, str(number)],
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
        first, *others = [self._result(number) for number in HASH_SEEDS]
        for other in others:
            if first is None or other is None:
                return None
            who = parting(first[0], other[0], first[1])
            if who is not None:
                self._until = max(self._until, time.monotonic() + PATIENCE_SECONDS)
                self._start(0, HASH_SEEDS[0])
                control = self._result(0)
                if control is None:
                    return None
                return who, parting(first[0], control[0], first[1]) is None
        return None

    @property
    def why_not(self) -> str:
        """Why they say nothing, or ""."""
        return self._why

    def _result(self, number: int) -> tuple[list[Step], dict[str, Any]] | None:
        if self._why:
            return None
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
        return [Step(**step) for step in found["steps"]], found["tasks"]


# ---- where the program is ------------------------------------------------------------------------------------


def _address(program: Any) -> dict[str, Any]:
    """Its module, its place in it (or its code), and its arguments."""
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
    is_there = module != "__main__" and found is not None and inspect.unwrap(found) is function
    what = (None if is_there else function, *given)
    return {"module": module, "file": file, "name": name, "what": _dumped(what)}


def _dumped(what: Any) -> bytes:
    from miniray._serialization.by_value import ByValuePickler  # loads cloudpickle

    with io.BytesIO() as file:
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
    recorder = Recorder(_without_order)
    run_once(program, RecordedChoices(told["choices"]), fault_of(told["faults"]), recorder=recorder, **told["cluster"])
    steps = [{name: _comparable(getattr(step, name)) for name in step.__struct_fields__} for step in recorder.steps]
    return {"steps": steps, "tasks": recorder.tasks}


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
