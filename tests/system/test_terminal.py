"""Ctrl-C in a terminal, a real one: it reaches the driver once, workers stay quiet, and the session goes on."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path

import pytest

SECONDS = 20
ROOT = Path(__file__).parents[2]

SOURCE = """
    import os, subprocess, sys, time
    import miniray

    def slow(x=0):
        child = subprocess.Popen(["sleep", "60"])
        try:
            print("a worker speaks", x, sys.stdout.isatty())  # from now on it may be interrupted
            child.wait()
        finally:  # an interrupted call leaves nothing, which would be told as a warning
            child.kill()
            child.wait()

    @miniray.remote
    def f(x):
        return x

    miniray.init(num_cpus=2)
    task = miniray.remote(slow)
    pool = miniray.Pool(1)
    refs = []
    waits = {
        "get": lambda: refs.append(task.remote()) or miniray.get(refs),
        "wait": lambda: miniray.wait(refs),
        "future": lambda: refs[0].future().result(),
        "map": lambda: pool.map(slow, [1]),
        "apply": lambda: pool.apply(slow),
        "imap": lambda: next(pool.imap(slow, [2])),
    }
    for name, wait in waits.items():
        try:
            print("waits:", name)
            wait()
        except KeyboardInterrupt:
            print("interrupted:", name)
        assert miniray.get([f.remote(i) for i in range(10)]) == list(range(10))
    print("goes on")
    sys.stdin.readline()
"""

SPEAKS = {  # the others wait for the first one's task; an interrupted `map` or `apply` leaves the worker free
    "get": "a worker speaks 0 True", "map": "a worker speaks 1 True", "apply": "a worker speaks 0 True",
    "imap": "a worker speaks 2 True",
}  # fmt: skip


class Terminal:
    """A program in the foreground of a terminal of its own."""

    def __init__(self, path: Path) -> None:
        self.side, theirs = pty.openpty()
        self.text = ""
        self.at = 0
        attributes = termios.tcgetattr(theirs)
        attributes[3] &= ~termios.ECHO  # it may come in the middle of what the program writes
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(path)], stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, preexec_fn=take_terminal, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.close(theirs)

    def read_until(self, wanted: str) -> None:
        """Until the screen shows `wanted`, behind what was waited for before."""
        deadline = time.monotonic() + SECONDS
        while (found := self.text.find(wanted, self.at)) < 0:
            ready, _, _ = select.select([self.side], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {wanted!r} in {SECONDS} s:\n{self.text}"
            try:
                self.text += os.read(self.side, 10_000).decode().replace("\r", "")
            except OSError:
                raise AssertionError(f"it has ended:\n{self.text}") from None
        self.at = found + len(wanted)

    def type(self, keys: str) -> None:
        os.write(self.side, keys.encode())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.side)


@pytest.fixture
def terminal(tmp_path):
    path = tmp_path / "driver.py"
    path.write_text(textwrap.dedent(SOURCE))
    made = Terminal(path)
    yield made
    made.end()


def test_ctrl_c_in_a_terminal(terminal):
    names = ("get", "wait", "future", "map", "apply", "imap")
    for name in names:
        terminal.read_until(f"waits: {name}\n")
        if name in SPEAKS:
            terminal.read_until(f"{SPEAKS[name]}\n")
        terminal.type("\x03")
        terminal.read_until(f"interrupted: {name}\n")
    terminal.read_until("goes on\n")
    terminal.type("\n")
    assert terminal.process.wait(SECONDS) == 0
    screen = re.sub(r"pid=\d+", "pid=N", terminal.text)
    spoken = ["(slow pid=N) a worker speaks 0 True", *list(SPEAKS.values())[1:]]
    told = [line for line in screen.splitlines() if line and line not in spoken]
    assert told == [line for name in names for line in (f"waits: {name}", f"interrupted: {name}")] + ["goes on"]
