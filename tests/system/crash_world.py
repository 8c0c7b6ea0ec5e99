"""The real world of `crash_scenarios.py`: SIGKILL, files, and the clock. Its `main` is a driver of one scenario."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import crash_scenarios
from quiescence import assert_quiet, await_end

import miniray


AT_FORK = """
import os, signal

def die_if_doomed():
    try:
        os.rename({doom!r}, {doomed!r})
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

os.register_at_fork(after_in_child=die_if_doomed)
"""


class RealWorld:
    """Notes are bytes appended to a file; names are pids in a file.

    Args:
        folder: an empty one, seen by every process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def die(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("SIGKILL does not return")

    def note(self, key: str) -> int:
        with open(self.folder / f"{key}.notes", "ab") as file:
            file.write(b".")
        return self.count(key)

    def count(self, key: str) -> int:
        path = self.folder / f"{key}.notes"
        return path.stat().st_size if path.exists() else 0

    def here(self, name: str) -> None:
        (self.folder / f"{name}.pid").write_text(str(os.getpid()))

    def kill(self, name: str) -> None:
        pid = int((self.folder / f"{name}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        await_end(pid)

    def doom_next_start(self) -> None:
        (self.folder / "doom").write_bytes(b".")

    def prepare_doom(self) -> None:
        """Before the session begins: the zygote's interpreter runs `sitecustomize`, and its children inherit that."""
        code = AT_FORK.format(doom=str(self.folder / "doom"), doomed=str(self.folder / "doomed.notes"))
        (self.folder / "sitecustomize.py").write_text(code)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(self.folder), os.environ["PYTHONPATH"]])

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def main(name: str, folder: str) -> None:
    """Run one scenario, print what it told, and ask that nothing is left."""
    world = RealWorld(Path(folder))
    world.prepare_doom()
    miniray.init(num_cpus=crash_scenarios.NUM_CPUS)
    told = getattr(crash_scenarios, name)(world)
    print(json.dumps(told))
    assert_quiet()
    miniray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
