"""The standard library's own tests of `ProcessPoolExecutor`, run against `miniray.Executor`.

They lie in the interpreter's `test` package. Where that has none, those of an older interpreter that is installed
beside this one are taken (each minor version's tests are the ones before and some more); else they are skipped. What is
left out is named with its reason.
"""

from __future__ import annotations

import gc
import importlib
import sys
import unittest
import warnings
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import miniray
from miniray.executor import Future
from tests.integrations.pool_functions import Undriven

NAME = "test_concurrent_futures"
PARTS = ("executor", "test_as_completed", "test_deadlock", "test_future", "test_init", "test_process_pool",
         "test_shutdown", "test_wait", "util")  # fmt: skip

OF_ITS_PARTS = "looks at the standard executor's own thread or queue"
ALONE = "a worker dies of what it cannot unpickle; here that call alone fails, with the error itself"
SLOW = "sleeps for 5 seconds; test_executor.py asks the same in less"
OF_ITS_NAME = "a program that imports the class by name; test_executor_life.py has such programs"
LEFT_OUT = {
    "test_error_at_task_unpickle": ALONE,
    "test_error_during_result_unpickle_in_result_handler": ALONE,
    "test_exit_during_result_unpickle_in_result_handler": ALONE,
    "test_exit_at_task_unpickle": ALONE,
    "test_exit_during_result_pickle_on_worker": "wants SystemExit; here it is a TaskError, as when arguments do that",
    "test_cancel": "looks at a state that is passed over here: CANCELLED becomes CANCELLED_AND_NOTIFIED at once",
    "test_done_callback_raises": "reads what logging writes when it has no handlers; under pytest it has",
    "test_done_callback_raises_already_succeeded": "the same",
    "test_map_timeout": SLOW,
    "test_timeout": SLOW,
    "test_del_shutdown": OF_ITS_PARTS,
    "test_shutdown_no_wait": OF_ITS_PARTS,
    "test_shutdown_deadlock_pickle": OF_ITS_PARTS,
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": OF_ITS_PARTS,
    "test_python_finalization_error": OF_ITS_PARTS,
    "test_interpreter_shutdown": OF_ITS_NAME,
    "test_submit_after_interpreter_shutdown": OF_ITS_NAME,
    "test_hang_gh83386": OF_ITS_NAME,
}


def beside() -> str | None:
    """The newest of the older interpreters' tests."""
    folders = {
        int(folder.name.removeprefix("python3.")): folder / "test"
        for folder in Path(sys.base_prefix).parent.glob("*/lib/python3.*")
        if folder.name.removeprefix("python3.").isdecimal() and (folder / "test" / f"{NAME}.py").exists()
    }
    older = [minor for minor in folders if minor < sys.version_info.minor]
    return str(folders[max(older)]) if older else None


def found() -> dict[str, Any]:
    """All names of the suite."""
    name = f"test.{NAME}" if find_spec("test") and find_spec(f"test.{NAME}") else NAME
    if name == NAME:
        folder = beside()
        if folder is None:
            pytest.skip(f"no {NAME} in this interpreter's test package", allow_module_level=True)
        sys.path.append(folder)  # workers find it there, too
    suite = importlib.import_module(name)
    modules: list[ModuleType] = [suite]
    if hasattr(suite, "__path__"):
        modules = [importlib.import_module(f"{name}.{part}") for part in PARTS if find_spec(f"{name}.{part}")]
    return {name: value for module in modules for name, value in vars(module).items()}


suite = found()


class StrictExecutor(miniray.Executor):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, strict=True, **kwargs)


class Processes(suite["ExecutorMixin"]):  # type: ignore[misc]
    executor_type = StrictExecutor
    ctx = "fork"


def case(mixin: str, bases: tuple[type, ...] = (Processes, suite["BaseTestCase"])) -> type:
    """That class of tests, of our executor."""
    of = suite[mixin]
    left_out = dict.fromkeys(LEFT_OUT.keys() & {*dir(of)})
    return type(mixin, (of, *bases), left_out)


class TestExecutor(case("ProcessPoolExecutorTest")):  # type: ignore[misc]
    pass


class TestShutdown(case("ProcessPoolShutdownTest")):  # type: ignore[misc]
    pass


class TestWait(case("WaitTests")):  # type: ignore[misc]
    pass


class TestAsCompleted(case("AsCompletedTests")):  # type: ignore[misc]
    pass


class TestInitializer(case("InitializerMixin")):  # type: ignore[misc]
    """FailingInitializerMixin wants the error in a log of the worker; here it is the cause of what is raised."""


class TestDeadlock(case("ExecutorDeadlockTest")):  # type: ignore[misc]
    pass


class TestFuture(case("FutureTests", ())):  # type: ignore[misc]
    """Futures that nobody drives: what they do as soon as somebody asks for their condition."""


@pytest.fixture(autouse=True, scope="module")
def garbage_is_what_they_make() -> Iterator[None]:
    """Two of them collect it thirty times each; what the whole suite has made before costs most of that."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def standard_names_are_ours() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        patch.setattr(futures, "ProcessPoolExecutor", StrictExecutor)
        of_futures = sys.modules[suite["FutureTests"].__module__]
        patch.setattr(of_futures, "Future", partial(Future, Undriven()))
        patch.setattr(sys.modules[suite["create_future"].__module__], "Future", partial(Future, Undriven()))
        miniray.init(num_cpus=2)
        yield
        miniray.shutdown()
    if beside() in sys.path:
        sys.path.remove(str(beside()))


assert issubclass(TestFuture, unittest.TestCase)
