"""The interpreter's exit with a pool that is alive: what is left of the program is what the standard pool leaves of it.

Each program is a real process, once for each import; what it says, writes and returns is compared.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

from miniray.pool.dispatch import LATE

STANDARD = "from multiprocessing.pool import Pool"
OURS = (
    "from miniray import Pool",
    "import miniray.multiprocessing as multiprocessing; Pool = multiprocessing.Pool",
    "import multiprocessing.pool; from miniray import Pool",  # what the standard library does at exit, it does last
)
HEAD = """
import atexit, os, sys, threading, time
from multiprocessing import get_context
{imports}
def square(x): return x * x
def nap(seconds): time.sleep(seconds); return seconds
def say(*words): print(*words, flush=True)
class Last:
    def __del__(self): say("deleted")
class Number(int): pass
if __name__ == "__main__":
    last = Last()
    out = open(sys.argv[1], "w")
"""


Left = tuple[int | None, str, str, str]


class Program:
    """One that runs."""

    def __init__(self, imports: str, body: str, folder: Path, *options: str) -> None:
        folder.mkdir()
        self._out, program = folder / "out", folder / "program.py"
        program.write_text(HEAD.format(imports=imports) + indent(dedent(body).strip(), "    ") + "\n")
        self._process = subprocess.Popen(
            [sys.executable, *options, str(program), str(self._out)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def left(self) -> Left:
        """Its exit code, its words, what is in its file, its complaints."""
        try:
            words, complaints = self._process.communicate(timeout=100)
        finally:
            self._process.kill()
        return self._process.returncode, words, self._out.read_text(), complaints


def left(body: str, folder: Path, *options: str) -> Left:
    """By the program under the standard library, and under ours."""
    programs = {
        imports: Program(imports, body, folder / str(number), *options)
        for number, imports in enumerate((STANDARD, *OURS))
    }
    found = {imports: program.left() for imports, program in programs.items()}
    there = found[STANDARD]
    assert found == dict.fromkeys(found, there)
    return there


USES = {
    "map": "pool = Pool(2); out.write(str(pool.map(square, range(3))))",
    "initializer, instances, methods": """
        pool = Pool(2, square, (3,))
        out.write(str(pool.map(square, map(Number, range(3)))))
        out.write(pool.apply(Number(3).__str__))
    """,
    "imap, its iterator held": "pool = Pool(2); rest = pool.imap(square, range(100)); out.write(str(next(rest)))",
    "imap of a generator": """
        pool = Pool(2)
        rest = pool.imap(square, (x for x in range(100)))
        out.write(str(next(rest)))
    """,
    "results are pending": """
        pool = Pool(2)
        pending = [pool.apply_async(nap, (60,), callback=say, error_callback=say) for _ in range(5)]
        pending.append(pool.map_async(nap, [60] * 9, callback=say, error_callback=say))
        out.write("written")
    """,
    "a callback runs": """
        pool = Pool(2)
        called = threading.Event()
        def late(value):
            called.set()
            time.sleep(1.5)
            say("called back")
        pool.apply_async(square, (3,), callback=late)
        called.wait()
        out.write("written")
    """,
    "forked": "pool = Pool(2, context=get_context('fork')); out.write(str(pool.map(square, range(3))))",
    "closed with calls": "pool = Pool(2); pool.map_async(nap, [60] * 3); pool.close(); out.write('written')",
    "terminated": "pool = Pool(2); out.write(str(pool.map(square, range(3)))); pool.terminate()",
    "dropped": "pool = Pool(2); out.write(str(pool.map(square, range(3)))); del pool",
    "two pools of another thread": """
        def make():
            global pools
            pools = [Pool(1), Pool(1)]
            out.write(str([pool.map(square, range(3)) for pool in pools]))
        threading.Thread(target=make).start()
    """,
    "in a cycle": "last.pool = Pool(1); last.self = last; out.write('written')",
    "in a cycle, with a call": """
        last.pool = Pool(2)
        last.self = last
        out.write(str(last.pool.map(square, range(3))))
    """,
    "a function for atexit": """
        pool = Pool(2)
        atexit.register(lambda: out.write(str(pool.map(square, range(3)))))
    """,
    "sys.exit": "pool = Pool(2); out.write(str(pool.map(square, range(3)))); sys.exit(4)",
    "in a child of multiprocessing": """
        pool = Pool(2)
        def child():
            inner = Pool(1)
            say(inner.map(square, range(3)))
        process = get_context("fork").Process(target=child)
        process.start()
        process.join()
        out.write(str(pool.map(square, range(3))))
    """,
}


@pytest.mark.parametrize("use", USES)
def test_exit_leaves_what_the_standard_pool_leaves(use: str, tmp_path: Path) -> None:
    code, words, written, complaints = left(USES[use], tmp_path)
    assert (code, complaints) == (4 if use == "sys.exit" else 0, "") and written
    assert words.endswith("deleted\n")


def test_exit_of_an_interactive_interpreter(tmp_path: Path) -> None:
    assert left(USES["map"], tmp_path, "-i")[1:3] == ("deleted\n", "[0, 1, 4]")


def test_exit_of_a_child_that_the_program_forks(tmp_path: Path) -> None:
    """The standard pool's never ends."""
    body = """
        last.pool = Pool(1)
        last.self = last
        out.write("written")
        out.flush()
        if not os.fork():
            sys.exit(0)
        os.wait()
        say(last.pool.map(square, range(3)))
    """
    written = Program(OURS[0], body, tmp_path / "ours").left()
    assert written == (0, "deleted\n[0, 1, 4]\ndeleted\n", "written", "")


@pytest.mark.parametrize(
    "waits",
    [
        "pool.map(nap, [60] * 3)",
        "pool.apply(nap, (60,))",
        "pool.apply_async(nap, (60,)).get()",
        "[*pool.imap(nap, [0.01] * 10 + [60] * 20)]",
        "[pool.apply(nap, (0.01,)) for _ in iter(int, 1)]",
        "[pool.apply_async(nap, (0.01,)).get() for _ in iter(int, 1)]",
        "[*pool.imap(nap, iter(lambda: 0.01, 1))]",
    ],
)
def test_daemon_threads_that_wait_leave_no_traceback(waits: str, tmp_path: Path) -> None:
    body = f"""
        pool = Pool(2)
        threading.Thread(target=lambda: {waits}, daemon=True).start()
        Pool(1).map(nap, [0.1])
        say("the end")
    """
    for number, imports in enumerate(OURS):  # the standard pool leaves one itself, if a call comes just as it ends
        assert Program(imports, body, tmp_path / str(number)).left() == (0, "the end\n", "", "")


def test_a_callback_has_its_time_though_a_thread_waits_for_another_result(tmp_path: Path) -> None:
    body = """
        pool = Pool(2)
        called = threading.Event()
        def late(value):
            called.set()
            time.sleep(1.5)
            say("called back")
        threading.Thread(target=pool.apply, args=(nap, (60,)), daemon=True).start()
        while not pool._cache:
            time.sleep(0.01)
        pool.apply_async(square, (3,), callback=late)
        called.wait()
    """
    assert left(body, tmp_path) == (0, "called back\n", "", "")


def test_a_use_after_the_end_says_so(tmp_path: Path) -> None:
    """The standard pool's would wait for ever."""
    body = """
        from miniray.errors import TaskCancelledError
        def late():
            try:
                say(pool.map(square, [1]))
            except TaskCancelledError as error:
                say(error)
            pool.close()
            pool.join()
            say("joined")
        atexit.register(late)
        pool = miniray.Pool(2)
        pending = pool.apply_async(nap, (60,), callback=say, error_callback=say)
        atexit.register(lambda: say(pool.apply(square, (5,))))
    """
    code, words, _, complaints = Program("import miniray", body, tmp_path / "ours").left()
    assert (code, complaints) == (0, "")
    assert words.splitlines() == ["25", LATE, "joined", "deleted"]
