"""A recorded run, run again: its program imported, its choices taken again, its trace hash compared.

The program is found by its module's name, or by its file when that module is not on the path. It must be a function
without arguments at the top of its module, or one that `explore` has wrapped.

A script becomes `__main__` once more, since its functions and classes travel by value under that name; but without what
stands below `if __name__ == "__main__":`, and calls of explored tests do nothing while it is loaded.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from miniray.testing.choices import RecordedChoices
from miniray.testing.recording import Recording, RecordingError, fault_of
from miniray.testing.simulation import Simulated, SimulationFailed, one_line, simulate


def rerun(recording: Recording) -> Simulated:
    """Take the recorded choices again.

    Raises:
        RecordingError: its program cannot be imported, or takes arguments.
    """
    choices, faults = RecordedChoices(recording.choices), fault_of(recording.faults)
    with _module(recording) as module:
        program = _program(recording, module)
        try:
            return simulate(program, choices=choices, faults=faults, **recording.cluster)
        except SimulationFailed as failed:
            return failed.simulated


def compare(recording: Recording, again: Simulated) -> str:
    """One sentence: whether it was the same run, and if not how it ended."""
    if again.trace_hash == recording.trace_hash:
        return f"run again: the same run, step by step (trace {again.trace_hash})"
    ended = one_line(again.error) if again.error is not None else "no error"
    return (
        f"run again: ANOTHER run, which ended with {ended}. The program or miniray has changed since it was recorded, "
        f"or it is not deterministic (trace {again.trace_hash}, recorded {recording.trace_hash})"
    )


def _program(recording: Recording, module: Any) -> Callable[[], Any]:
    told = recording.program
    try:
        program = function_of(module, told["name"])
    except LookupError:
        raise RecordingError(
            f"{told['name']} of {told['file']} cannot be run again: it is not at the top of its module"
        ) from None
    if inspect.signature(program).parameters:
        seed = recording.seed
        only = f" (with first_seed={seed}, seeds=1 in @explore: this seed alone)" if seed is not None else ""
        raise RecordingError(
            f"{told['name']} of {told['file']} takes arguments, which only its test can give: run it again with"
            f" python -m pytest {told['file']} -k {told['name'].rpartition('.')[2]}{only}"
        )
    return program


@contextmanager
def _module(recording: Recording) -> Iterator[Any]:
    """Where the program is, as long as the `with` block lasts.

    Raises:
        RecordingError: it cannot be had.
    """
    told = recording.program
    file = Path(told["file"])
    if told["module"] != "__main__":
        yield module_of(told["module"], file)
        return
    if not file.exists():
        raise RecordingError(
            f"{told['name']} was defined in a notebook or a console ({file}), whose code is in no file: run it again"
            f" there, under @explore(first_seed={recording.seed}, seeds=1) and its other arguments: this seed alone"
        )
    before, path = sys.modules["__main__"], list(sys.path)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        yield _script(file)
    finally:
        sys.modules["__main__"], sys.path[:] = before, path


def _script(file: Path) -> ModuleType:
    global _loading
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__file__ = name = str(file.absolute())
    _loading = True
    try:
        tree = ast.parse(file.read_bytes(), name)
        tree.body = [one for one in tree.body if not _is_guard(one)]
        exec(compile(tree, name, "exec", dont_inherit=True), vars(module))
    except SystemExit:  # as at its end
        pass
    except Exception as error:
        raise RecordingError(f"{file} cannot be run again: {type(error).__name__}: {error}") from error
    finally:
        _loading = False
    return module


def _is_guard(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.If) or not isinstance(statement.test, ast.Compare):
        return False
    sides = {ast.unparse(side) for side in (statement.test.left, *statement.test.comparators)}
    return isinstance(statement.test.ops[0], ast.Eq) and sides == {"__name__", "'__main__'"}


_loading = False


def is_loading() -> bool:
    """Whether a script is loaded to be run again: nothing is explored then."""
    return _loading


def function_of(module: Any, name: str) -> Callable[..., Any]:
    """The function of this dotted name, without what decorators have made of it.

    Raises:
        LookupError: it is not there.
    """
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None or not callable(found):
        raise LookupError(name)
    function: Callable[..., Any] = inspect.unwrap(found)
    return function


def module_of(name: str, file: Path) -> Any:
    """Import it, by its name or else by its file.

    Raises:
        RecordingError: that cannot be done.
    """
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(name)
        if Path(found.__file__ or "").resolve() == file.resolve():
            return found
    except ImportError:
        pass
    except Exception as error:
        raise RecordingError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.exists():
        raise RecordingError(f"{file}, whose program was recorded, is not there any more")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RecordingError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return module
