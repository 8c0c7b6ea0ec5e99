"""A recorded run, run again: its program imported, its choices taken again, its trace hash compared.

The program is found by its module's name, or by its file when that module is not on the path. It must be a function
without arguments at the top of its module, or one that `explore` has wrapped.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from miniray.testing.choices import RecordedChoices
from miniray.testing.recording import Recording, RecordingError, fault_of
from miniray.testing.simulation import Simulated, SimulationFailed, one_line, simulate


def rerun(recording: Recording) -> Simulated:
    """Take the recorded choices again.

    Raises:
        RecordingError: its program cannot be imported, or takes arguments.
    """
    program = _program(recording)
    choices, faults = RecordedChoices(recording.choices), fault_of(recording.faults)
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


def _program(recording: Recording) -> Callable[[], Any]:
    told = recording.program
    try:
        program = function_of(module_of(told["module"], Path(told["file"])), told["name"])
    except LookupError:
        raise RecordingError(
            f"{told['name']} of {told['file']} cannot be run again: it is not at the top of its module"
        ) from None
    if inspect.signature(program).parameters:
        only = f" (with first_seed={recording.seed}, seeds=1 in @explore: this seed alone)" if recording.seed else ""
        raise RecordingError(
            f"{told['name']} of {told['file']} takes arguments, which only its test can give: run it again with"
            f" python -m pytest {told['file']} -k {told['name'].rpartition('.')[2]}{only}"
        )
    return program


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
