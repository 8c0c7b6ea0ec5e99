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

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def main(name: str, folder: str) -> None:
    """Run one scenario, print what it told, and ask that nothing is left."""
    miniray.init(num_cpus=crash_scenarios.NUM_CPUS)
    told = getattr(crash_scenarios, name)(RealWorld(Path(folder)))
    print(json.dumps(told))
    assert_quiet()
    miniray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
