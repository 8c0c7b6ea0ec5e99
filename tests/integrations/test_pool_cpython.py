"""The standard library's own tests of `multiprocessing.Pool`, run against `miniray.Pool`.

From the interpreter's `test` package; skipped where that is not installed. What is left out is named with its reason.
"""

from __future__ import annotations

import multiprocessing
import unittest
import warnings
from collections.abc import Iterator
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]

import pytest

import miniray

suite = pytest.importorskip("test._test_multiprocessing")

LEFT_OUT = {
    "test_unpickleable_result": "returns a lambda, which travels here",
}


class _Processes:
    TYPE = "processes"
    Pool = staticmethod(miniray.Pool)
    Process = multiprocessing.Process
    RemoteTraceback = RemoteTraceback
    TimeoutError = multiprocessing.TimeoutError
    Value = staticmethod(multiprocessing.Value)
    current_process = staticmethod(multiprocessing.current_process)


def _without_left_out(case: type) -> type:
    return type(case.__name__, (case,), dict.fromkeys(LEFT_OUT.keys() & {*dir(case)}))


class TestPool(_Processes, _without_left_out(suite._TestPool), unittest.TestCase):  # type: ignore[misc]
    pass


class TestPoolWorkerErrors(_Processes, _without_left_out(suite._TestPoolWorkerErrors), unittest.TestCase):  # type: ignore[misc]
    pass


class TestPoolWorkerLifetime(_Processes, _without_left_out(suite._TestPoolWorkerLifetime), unittest.TestCase):  # type: ignore[misc]
    pass


@pytest.fixture(autouse=True, scope="module")
def standard_names_are_ours() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        patch.setattr(multiprocessing, "Pool", miniray.Pool)
        miniray.init(num_cpus=2)
        yield
        miniray.shutdown()
