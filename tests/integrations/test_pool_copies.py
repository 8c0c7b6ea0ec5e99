"""Calls that travel in one group share nothing that they would not share under the standard pool.

There, each task is a pickle of its own. So a function may change its arguments, or itself, and no other call sees it;
and what it returned is not what it makes of it later.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import miniray
from miniray.pool_worker.board import Board, Marks
from miniray.pool_worker.parcels import MAP
from tests.integrations import pool_functions as functions

CALLS = 60
USES: dict[str, Callable[[Any, Any, Any], list[Any]]] = {
    "apply_async": lambda pool, f, items: [one.get(30) for one in [pool.apply_async(f, (item,)) for item in items]],
    "imap": lambda pool, f, items: list(pool.imap(f, items)),
    "imap_unordered": lambda pool, f, items: sorted(pool.imap_unordered(f, items)),
    "map": lambda pool, f, items: pool.map(f, items, chunksize=1),
    "starmap": lambda pool, f, items: pool.starmap(f, [(item,) for item in items], chunksize=1),
    "submit": lambda pool, f, items: [one.result(30) for one in [pool.submit(f, item) for item in items]],
}


@pytest.fixture(scope="module", params=["zygote", "fork"])
def pool(request: Any, session: None) -> Iterator[Any]:
    context = multiprocessing.get_context("fork") if request.param == "fork" else None
    with miniray.Pool(2, context=context) as made, miniray.Executor(2, mp_context=context) as executor:
        made.submit = executor.submit
        for function in (functions.note_in, functions.fill_and_return, functions.first_of):  # known to be short
            list(made.imap(function, [[0] for _ in range(500)]))
        yield made


@pytest.mark.parametrize("use", USES)
def test_an_argument_of_two_calls_is_two(use: str, pool: Any) -> None:
    noted: list[Any] = []
    assert USES[use](pool, functions.note_in, [noted] * CALLS) == [1] * CALLS


@pytest.mark.parametrize("use", USES)
def test_what_is_returned_is_what_it_was_then(use: str, pool: Any) -> None:
    assert USES[use](pool, functions.fill_and_return, range(CALLS)) == [[x] for x in range(CALLS)]


@pytest.mark.parametrize("size", [3, 30_000])
def test_an_array_that_is_filled_again_and_again(size: int, pool: Any) -> None:
    found = list(pool.imap(functions.fill_array, [(size, x) for x in range(CALLS)]))
    assert [(len(one), one[0], one[-1]) for one in found] == [(size, x, x) for x in range(CALLS)]


@pytest.mark.parametrize("size", [10, 1000, 20_000])
@pytest.mark.parametrize("use", USES)
def test_arrays_may_be_changed_which_were_read_only_before(use: str, size: int, pool: Any) -> None:
    array = np.zeros(size)
    array.flags.writeable = False
    assert USES[use](pool, functions.add_one, [array] * 5) == [1.0] * 5
    assert list(pool.imap(functions.add_one, (array for _ in range(5)))) == [1.0] * 5


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["method", "instance", "partial"])
def test_each_call_has_the_function_as_it_was(kind: str, use: str, pool: Any) -> None:
    counter = functions.Counter()
    partial = functools.partial(functions.note_first, [])
    function: Any = {"method": counter.add, "instance": counter, "partial": partial}[kind]
    assert USES[use](pool, function, range(CALLS)) == [1] * CALLS


@pytest.mark.parametrize("use", ["imap", "imap_unordered"])
@pytest.mark.parametrize("make", [list, functools.partial(np.full, 100_000)])
def test_an_input_may_fill_one_thing_again_and_again(make: Any, use: str, pool: Any) -> None:
    def lines() -> Iterator[Any]:
        line = [0] if make is list else make(0)
        for x in range(CALLS):
            line[0] = x
            yield line

    assert USES[use](pool, functions.first_of, lines()) == list(range(CALLS))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    use=st.sampled_from([use for use in USES if use != "submit"]),
    kind=st.sampled_from(["notes", "returns", "method", "partial"]),
    shared=st.lists(st.integers(0, 2), min_size=1, max_size=40),
)
def test_whatever_calls_share_is_shared_as_there(
    use: str, kind: str, shared: list[int], pool: Any, standard: Any
) -> None:
    def run(pool: Any) -> list[Any]:
        function = {
            "notes": functions.note_in, "returns": functions.append_and_return, "method": functions.Counter().add,
            "partial": functools.partial(functions.note_first, []),
        }[kind]  # fmt: skip
        lists: list[list[int]] = [[], [1], [2, 2]]
        return USES[use](pool, function, [lists[one] for one in shared])

    assert run(pool) == run(standard)


def test_one_chunk_shares_what_it_shares_under_the_standard_pool(session: None) -> None:
    with miniray.Pool(1) as pool, multiprocessing.get_context("spawn").Pool(1) as standard:
        pool.map(functions.note_in, [[] for _ in range(2000)])
        for chunk in (10, 100):
            noted: list[Any] = []
            found = [one.map(functions.note_in, [noted] * 400, chunksize=chunk) for one in (pool, standard)]
            assert max(found[0]) <= max(found[1]) == chunk  # a chunk that travels in parts shares less


def test_refs_and_what_cannot_be_pickled_go_by_themselves(pool: Any) -> None:
    items = [x if x % 7 else miniray.put(x) for x in range(CALLS)]
    found = list(pool.imap(functions.same, [[item] for item in items]))
    assert [miniray.get(one[0]) if x % 7 == 0 else one[0] for x, one in enumerate(found)] == list(range(CALLS))
    found = list(pool.imap(functions.same, ([item] for item in items), chunksize=3))
    assert [miniray.get(one[0]) if x % 7 == 0 else one[0] for x, one in enumerate(found)] == list(range(CALLS))
    results = pool.imap(functions.unpicklable_on_three, range(6))
    for x in range(6):
        if x == 3:
            with pytest.raises(multiprocessing.pool.MaybeEncodingError):
                next(results)
        else:
            assert next(results) == x


def test_instances_of_classes_that_travel_by_value_are_packed_too(pool: Any) -> None:
    class Box:
        def __init__(self) -> None:
            self.noted: list[int] = []

    def note(box: Any) -> Any:
        box.noted.append(1)
        return box

    box = Box()
    list(pool.imap(note, [Box() for _ in range(200)]))
    found = list(pool.imap(note, [box] * CALLS))
    assert [one.noted for one in found] == [[1]] * CALLS and type(found[0]) is Box


def test_an_outcome_is_in_the_letterbox_before_the_next_call_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """So no slow call keeps it, however slow the watching thread is."""
    from miniray.pool.outcomes import read_posted
    from miniray.pool_worker.worker import PoolWorker

    board = Board(1)
    monkeypatch.setattr(PoolWorker, "__init__", lambda self: None)
    worker: Any = PoolWorker()  # type: ignore[call-arg]
    worker._marks, worker._kept, worker._watch = Marks(board.path, 0), {}, lambda run: None

    class Group:
        delivered = 0
        number = 7
        member = None

    seen: list[list[Any]] = []

    def look(x: int) -> Any:
        posted = board.posted(0, 7, 0)
        results, errors = ([], {}) if posted is None else read_posted(Group(), posted)  # type: ignore[arg-type]
        seen.append([errors.get(index, result) for index, result in enumerate(results)])
        if x == 2:
            raise LookupError(x)
        return {"x": x} if x % 2 else x

    worker.run(look, 7, MAP, [0, 1, 2, 3], (60.0, True, True))
    assert [[repr(one) for one in early] for early in seen] == [
        ["0", "{'x': 1}", "LookupError(2)"][:count] for count in range(4)
    ]
    assert board.posted(0, 8, 0) is board.posted(0, 7, 4) is None
    board.close()


def test_an_outcome_that_is_being_posted_when_its_worker_dies_is_not_there() -> None:
    class Dying:
        """Shared words, of which the last can never be written."""

        def __init__(self, words: Any, last: int) -> None:
            self._words, self._left = words, last

        def __setitem__(self, index: int, value: int) -> None:
            if not self._left:
                raise SystemExit
            self._left -= 1
            self._words[index] = value

    board = Board(1)
    marks: Any = Marks(board.path, 0)
    assert marks.begin_posts(7) and marks.post(b"first")
    words = marks.words
    for written in range(2):
        marks.words = Dying(words, written)
        with pytest.raises(SystemExit):
            marks.post(b"second")
        posted = board.posted(0, 7, 0)
        assert posted is not None and list(posted.pickles()) == [b"first"]
        assert board.posted(0, 7, 1) is None
    board.close()
