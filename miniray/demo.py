"""The demo: one real job in four ways, the same answer each time.

The input is what every Python has: the sources of its own standard library. Their words are counted serially, with
`multiprocessing.Pool`, with `miniray.Pool`, and as a map-reduce of tasks whose intermediate tables are passed by
reference. Then statistics over one large array that all tasks share, with both pools' means. Then a worker is killed
in the middle of its work. Results are compared; the exit status is 1 if any two differ.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import miniray

_WORD = re.compile(r"[A-Za-z_]\w+")
_PIECES = 10  # each gives a table of more than 100 kB: it stays in shared memory
_PIECES_OF_ARRAY = 20
_TABLES_A_MERGE = 4
_ROOM_BYTES = 256 << 20  # of the store, beside the array
_INLINE_BYTES = 100_000  # smaller values travel in messages, by way of their owner
_BAR = "{desc} {bar:30} {n_fmt}/{total_fmt}"


@dataclass
class Step:
    """One way to do one job, and what became of it."""

    what: str
    seconds: float = 0.0
    copied_bytes: int = 0  # that the driver pickled, unpickled or put into shared memory
    recoveries: int = 0
    right: bool = True


# ---- the work itself: plain functions ----


def sources(most: int | None = None) -> list[str]:
    """The files of the standard library, with its tests where they are installed; or so many of them, of everywhere."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(str(path) for path in root.rglob("*.py") if "site-packages" not in path.relative_to(root).parts)
    return found if most is None else found[:: max(1, len(found) // most)][:most]


def pieces(files: list[str]) -> list[list[str]]:
    """Every tenth file: like every other piece, with words of everywhere."""
    return [files[start::_PIECES] for start in range(_PIECES)]


def count_words(files: list[str]) -> Counter[str]:
    words: Counter[str] = Counter()
    for file in files:
        words.update(_WORD.findall(Path(file).read_text("utf-8", "replace")))
    return words


def merge(*tables: Counter[str]) -> Counter[str]:
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table)
    return total


def statistics(array: Any, start: int, stop: int) -> tuple[float, float, float]:
    part = array[start:stop]
    return float(part.sum()), float(part.min()), float(part.max())


def count_or_die(files: list[str], marker: str) -> Counter[str]:
    """The first process that comes here kills itself in the middle."""
    words = count_words(files[: len(files) // 2])
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return merge(words, count_words(files[len(files) // 2 :]))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _statistics_of_piece(arguments: tuple[Any, int, int]) -> tuple[float, float, float]:
    return statistics(*arguments)


# ---- the ways to do it ----


class Demo:
    def __init__(self, workers: int, megabytes: int, files: int | None) -> None:
        self.workers = workers
        self.steps: list[Step] = []
        self.pieces = pieces(sources(files))
        self.array = np.random.default_rng(1).standard_normal((megabytes << 20) // 8)
        edges = np.linspace(0, len(self.array), _PIECES_OF_ARRAY + 1).astype(int).tolist()
        self.ranges = list(zip(edges, edges[1:], strict=False))
        self.words: Counter[str] = Counter()
        self.table_bytes: list[int] = []
        self.measured: list[tuple[float, float, float]] = []

    @contextmanager
    def timed(self, what: str) -> Iterator[Step]:
        step = Step(what)
        start = time.perf_counter()
        yield step
        step.seconds = time.perf_counter() - start
        self.steps.append(step)

    def serially(self) -> None:
        with self.timed("words, serially"):
            tables = [count_words(files) for files in self._bar(self.pieces, "words, serially")]
            self.words = merge(*tables)
        self.table_bytes = [len(pickle.dumps(table, 5)) for table in tables]

    def with_pool(self, make: Callable[[int], Any], name: str) -> None:
        with self.timed(f"words, {name}") as step, make(self.workers) as pool:
            words = merge(*self._bar(pool.imap_unordered(count_words, self.pieces), step.what))
        step.copied_bytes, step.right = sum(self.table_bytes), words == self.words

    def map_reduce(self) -> None:
        """Tables stay where they were made: refs go to the merging tasks, and only the last one comes here."""
        count, join = miniray.remote(count_words), miniray.remote(merge)
        with self.timed("words, miniray, tables by reference") as step:
            counted = tables = [count.remote(files) for files in self.pieces]
            while len(tables) > 1:
                groups = [tables[at : at + _TABLES_A_MERGE] for at in range(0, len(tables), _TABLES_A_MERGE)]
                tables = [join.remote(*group) for group in groups]
            for _ in self._bar(counted, step.what):
                _, counted = miniray.wait(counted) if len(counted) > 1 else ([], counted)
            words: Counter[str] = miniray.get(tables[0])
        small = [size for size in self.table_bytes if size < _INLINE_BYTES]
        step.copied_bytes, step.right = len(pickle.dumps(words, 5)) + sum(small), words == self.words

    def statistics_by_multiprocessing(self) -> None:
        with self.timed("statistics, multiprocessing.Pool") as step, multiprocessing.Pool(self.workers) as pool:
            jobs = ((self.array, start, stop) for start, stop in self.ranges)
            self.measured = list(self._bar(pool.imap(_statistics_of_piece, jobs), step.what, _PIECES_OF_ARRAY))
        step.copied_bytes = self.array.nbytes * _PIECES_OF_ARRAY

    def statistics_by_reference(self) -> None:
        measure = miniray.remote(statistics)
        with self.timed("statistics, miniray, array by reference") as step:
            shared = miniray.put(self.array)
            refs = [measure.remote(shared, start, stop) for start, stop in self.ranges]
            measured = [miniray.get(ref) for ref in self._bar(refs, step.what)]
        step.copied_bytes, step.right = self.array.nbytes, measured == self.measured

    def with_a_death(self, folder: str) -> None:
        """One task kills its worker with SIGKILL; it is run again, and the answer is right all the same."""
        count = miniray.remote(count_or_die)
        marker = os.path.join(folder, "killed")
        with self.timed("words, miniray, one worker killed") as step:
            refs = [count.remote(files, marker) for files in self.pieces]
            words = merge(*[miniray.get(ref) for ref in self._bar(refs, step.what)])
        step.recoveries = int(os.path.exists(marker))
        step.copied_bytes, step.right = sum(self.table_bytes), words == self.words and step.recoveries == 1

    def _bar(self, items: Any, name: str, total: int = _PIECES) -> Any:
        length = len(items) if hasattr(items, "__len__") else total
        hidden = not sys.stderr.isatty()
        return tqdm(items, desc=f"{name:40}", total=length, leave=False, disable=hidden, bar_format=_BAR)

    def report(self) -> None:
        width = max(len(step.what) for step in self.steps)
        jobs = ("starting", "words", "statistics")  # they ran in another order: what forks goes before any session
        print(f"{'':{width}}  seconds  MB copied  recoveries  result")
        for step in sorted(self.steps, key=lambda step: jobs.index(step.what.partition(" ")[0].rstrip(","))):
            copied = f"{step.copied_bytes / 1e6:,.1f}" if step.copied_bytes else "-"
            verdict = "DIFFERS" if not step.right else "equal" if step.what.startswith(("words", "stat")) else "-"
            print(f"{step.what:{width}}  {step.seconds:7.2f}  {copied:>9}  {step.recoveries or '-':>10}  {verdict}")
        common = ", ".join(f"{word} {count:,}" for word, count in self.words.most_common(3))
        print(f"\n{self.words.total():,} words, {len(self.words):,} different: {common}, ...")
        print("copied: what the driver pickled, unpickled or put into shared memory")


def run(workers: int, megabytes: int, files: int | None = None) -> int:
    """The whole demo; 0 if all results were equal and the killed worker was recovered from.

    Args:
        megabytes: the size of the array.
        files: how many files have their words counted; None: all that there are.
    """
    began = time.perf_counter()
    demo = Demo(workers, megabytes, files)
    print(f"miniray {miniray.__version__}, {workers} workers")
    print(f"words       of the {sum(map(len, demo.pieces)):,} files of Python's standard library")
    print(f"statistics  of one array of {demo.array.nbytes / 1e6:,.0f} MB, in {_PIECES_OF_ARRAY} tasks\n", flush=True)
    demo.serially()
    demo.with_pool(multiprocessing.Pool, "multiprocessing.Pool")
    demo.statistics_by_multiprocessing()
    with demo.timed("starting a miniray session"):
        miniray.init(num_cpus=workers, object_store_memory=demo.array.nbytes + _ROOM_BYTES)
    try:
        demo.with_pool(miniray.Pool, "miniray.Pool")
        demo.map_reduce()
        demo.statistics_by_reference()
        with tempfile.TemporaryDirectory(prefix="miniray-demo-") as folder:
            demo.with_a_death(folder)
    finally:
        miniray.shutdown()
    demo.report()
    same = all(step.right for step in demo.steps)
    verdict = "all results are equal" if same else "RESULTS DIFFER"
    print(f"{verdict}; {sum(step.recoveries for step in demo.steps)} recovery; {time.perf_counter() - began:.1f} s")
    return 0 if same else 1
