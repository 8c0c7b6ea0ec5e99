"""What people patch into `multiprocessing.Pool`: it is refused with a word of what to write instead, and that works."""

from __future__ import annotations

import multiprocessing.pool
from typing import Any

import pytest

import miniray
import miniray.multiprocessing.pool
import miniray.pool
from tests.integrations import pool_functions as functions

pytestmark = pytest.mark.usefixtures("session")
MODULES = [miniray.pool, miniray.multiprocessing.pool]


def patched(module: Any) -> Any:
    """As it stands in many a program, but for the module that it is patched into."""

    def istarmap(self: Any, func: Any, iterable: Any, chunksize: int = 1) -> Any:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        task_batches = module.Pool._get_tasks(func, iterable, chunksize)
        result = module.IMapIterator(self)
        self._taskqueue.put(
            (self._guarded_task_generation(result._job, module.starmapstar, task_batches), result._set_length)
        )
        return (item for chunk in result for item in chunk)

    return istarmap


@pytest.mark.parametrize("module", [multiprocessing.pool, *MODULES])
def test_a_patched_in_istarmap_says_what_to_write_instead(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(x, 2) for x in range(20)]
    monkeypatch.setattr(module.Pool, "istarmap", patched(module), raising=False)
    made = miniray.multiprocessing.pool.Pool if module is miniray.multiprocessing.pool else miniray.Pool
    with made(2) as pool:
        kind = AttributeError if module is multiprocessing.pool else NotImplementedError
        with pytest.raises(kind, match=r"pool\.imap\(lambda row: f\(\*row\), rows, chunksize\)"):
            pool.istarmap(pow, rows, chunksize=3)
        assert list(pool.imap(lambda row: pow(*row), rows, 3)) == [x * x for x in range(20)]


def test_other_private_parts_of_the_standard_pool_are_missed_with_the_same_word(pool: Any) -> None:
    with pytest.raises(AttributeError, match="'Pool' object has no attribute '_guarded_task_generation'; multiproc"):
        _ = pool._guarded_task_generation
    with pytest.raises(AttributeError, match="'Pool' object has no attribute 'mpa'$"):
        _ = pool.mpa
    assert not hasattr(pool, "istarmap") and pool.map(functions.square, [3]) == [9]


def test_a_subclasss_property_that_fails_says_why() -> None:
    class Named(miniray.Pool):
        @property
        def title(self) -> Any:
            return self.name.title()

    with Named(1) as pool, pytest.raises(AttributeError, match="'Named' object has no attribute 'name'$"):
        _ = pool.title


def test_a_class_beside_the_pool_has_its_say() -> None:
    class Told:
        def __getattr__(self, name: str) -> str:
            return f"told {name}"

    class Both(miniray.Pool, Told):
        pass

    with Both(1) as pool:
        assert pool.story == "told story" and pool.apply(functions.square, (3,)) == 9
