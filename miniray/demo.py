"""The demo: one real job in four ways, the same answer each time (issue: `miniray demo`).

The input is what every Python has: the sources of its own standard library. Their words are counted serially, with
`multiprocessing.Pool`, with `miniray.Pool`, and as a map-reduce of tasks whose intermediate tables are passed by
reference. Then statistics over one large array that all tasks share, with both pools' means. Then a worker is killed
in the middle of its work. Results are compared; the exit status is 1 if any two differ.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import sysconfig
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
_FILES_A_PIECE = 24
_PIECES_OF_ARRAY = 20


@dataclass
class Step:
    what: str
    seconds: float
    copied_bytes: str
    note: str = ""


# ---- the work itself: plain functions ----


def sources() -> list[str]:
    """The files of the standard library (without its tests), a few hundred."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = [str(path) for path in root.rglob("*.py") if not {"test", "tests", "site-packages"} & set(path.parts)]
    return sorted(found)


def pieces(files: list[str]) -> list[list[str]]:
    return [files[start : start + _FILES_A_PIECE] for start in range(0, len(files), _FILES_A_PIECE)]


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
    def __init__(self, workers: int, megabytes: int) -> None:
        self.workers = workers
        self.steps: list[Step] = []
        self.recoveries = 0
        self.pieces = pieces(sources())
        self.array = np.random.default_rng(1).standard_normal((megabytes << 20) // 8)
        edges = np.linspace(0, len(self.array), _PIECES_OF_ARRAY + 1).astype(int).tolist()
        self.ranges = list(zip(edges, edges[1:], strict=False))

    @contextmanager
    def timed(self, what: str, copied: str, note: str = "") -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.steps.append(Step(what, time.perf_counter() - start, copied, note))

    def serially(self) -> Counter[str]:
        with self.timed("words, serially", "-"):
            return merge(*[count_words(files) for files in self._bar(self.pieces, "serially")])

    def with_pool(self, make: Callable[[int], Any], name: str) -> Counter[str]:
        with self.timed(f"words, {name}", "tables"), make(self.workers) as pool:
            tables = list(self._bar(pool.imap_unordered(count_words, self.pieces), name))
            return merge(*tables)

    def map_reduce(self) -> Counter[str]:
        """Tables stay where they were made: refs go to the merging tasks, two levels deep."""
        count, join = miniray.remote(count_words), miniray.remote(merge)
        with self.timed("words, miniray tasks, tables by reference", "one table"):
            tables = [count.remote(files) for files in self.pieces]
            while len(tables) > 1:
                tables = [join.remote(*tables[at : at + 8]) for at in range(0, len(tables), 8)]
            progress = self._bar(range(1), "map-reduce")
            result: Counter[str] = miniray.get(tables[0])
            for _ in progress:
                pass
            return result

    def statistics_by_multiprocessing(self) -> list[tuple[float, float, float]]:
        size = f"{self.array.nbytes * _PIECES_OF_ARRAY >> 20:,} MB"
        with self.timed("statistics, multiprocessing.Pool", size), multiprocessing.Pool(self.workers) as pool:
            jobs = ((self.array, start, stop) for start, stop in self.ranges)
            return list(self._bar(pool.imap(_statistics_of_piece, jobs), "multiprocessing.Pool", _PIECES_OF_ARRAY))

    def statistics_by_reference(self) -> list[tuple[float, float, float]]:
        measure = miniray.remote(statistics)
        with self.timed("statistics, miniray, one array by reference", f"{self.array.nbytes >> 20:,} MB"):
            shared = miniray.put(self.array)
            refs = [measure.remote(shared, start, stop) for start, stop in self.ranges]
            return [miniray.get(ref) for ref in self._bar(refs, "by reference")]

    def with_a_death(self, folder: str) -> Counter[str]:
        """One task kills its worker with SIGKILL; it is run again, and the answer is right all the same."""
        count = miniray.remote(count_or_die)
        marker = os.path.join(folder, "killed")
        with self.timed("words, one worker killed in the middle", "tables"):
            refs = [count.remote(files, marker) for files in self.pieces]
            total = merge(*[miniray.get(ref) for ref in self._bar(refs, "with a death")])
        self.recoveries += os.path.exists(marker)
        return total

    def _bar(self, items: Any, name: str, total: int | None = None) -> Any:
        length = total if total is not None else (len(items) if hasattr(items, "__len__") else len(self.pieces))
        return tqdm(items, desc=f"{name:22}", total=length, leave=False, disable=not sys.stderr.isatty())

    def report(self, same: bool, words: Counter[str]) -> None:
        width = max(len(step.what) for step in self.steps)
        print(f"\n{'':{width}}  seconds   bytes copied between processes")
        for step in self.steps:
            print(f"{step.what:{width}}  {step.seconds:7.2f}   {step.copied_bytes}")
        common = ", ".join(f"{word} {count:,}" for word, count in words.most_common(5))
        print(f"\n{sum(map(len, self.pieces)):,} files, {words.total():,} words ({len(words):,} different): {common}, ...")
        print(f"recoveries from killed workers: {self.recoveries}")
        print("all results are equal" if same else "RESULTS DIFFER")


def run(workers: int, megabytes: int) -> int:
    """The whole demo; 0 if all results were equal and the killed worker was recovered from."""
    import tempfile

    demo = Demo(workers, megabytes)
    print(f"miniray {miniray.__version__}: word counts over {sum(map(len, demo.pieces)):,} files of the standard library")
    words = demo.serially()
    same = demo.with_pool(multiprocessing.Pool, "multiprocessing.Pool") == words
    expected = demo.statistics_by_multiprocessing()
    with demo.timed("starting a miniray session", "-"):
        miniray.init(num_cpus=workers)
    try:
        same &= demo.with_pool(miniray.Pool, "miniray.Pool") == words
        same &= demo.map_reduce() == words
        same &= demo.statistics_by_reference() == expected
        with tempfile.TemporaryDirectory(prefix="miniray-demo-") as folder:
            same &= demo.with_a_death(folder) == words
    finally:
        miniray.shutdown()
    demo.report(same, words)
    return 0 if same and demo.recoveries == 1 else 1
