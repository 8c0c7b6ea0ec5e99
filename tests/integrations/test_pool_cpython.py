"""The standard library's own tests of `multiprocessing.Pool`, run against `miniray.Pool`.

From the interpreter's `test` package; skipped where that is not installed. None is left out; of one the function is
another: `test_unpickleable_result` returns a lambda, which travels here, so it is given one that returns a generator.
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


def unpickleable_result() -> Iterator[int]:
    return (number for number in ())


class _Processes:
    TYPE = "processes"
    Pool = staticmethod(miniray.Pool)
    Process = multiprocessing.Process
    RemoteTraceback = RemoteTraceback
    TimeoutError = multiprocessing.TimeoutError
    Value = staticmethod(multiprocessing.Value)
    current_process = staticmethod(multiprocessing.current_process)


class TestPool(_Processes, suite._TestPool, unittest.TestCase):  # type: ignore[misc]
    pass


class TestPoolWorkerErrors(_Processes, suite._TestPoolWorkerErrors, unittest.TestCase):  # type: ignore[misc]
    pass


class TestPoolWorkerLifetime(_Processes, suite._TestPoolWorkerLifetime, unittest.TestCase):  # type: ignore[misc]
    pass


class TestInitializers(suite.TestInitializers):  # type: ignore[misc]
    """Its pool's initializer gets a proxy of a `Manager`."""


@pytest.fixture(autouse=True, scope="module")
def standard_names_are_ours() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        patch.setattr(multiprocessing, "Pool", miniray.Pool)
        patch.setattr(suite, "unpickleable_result", unpickleable_result)
        miniray.init(num_cpus=2)
        yield
        miniray.shutdown()
