"""A task that shows that it runs, and ends when it is told to: by files, since whoever looks may kill its process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import miniray


@miniray.remote
def wait_for(path: Path, started: Path) -> int:
    with open(started, "a") as file:
        file.write(f"{os.getpid()}\n")
    while not path.exists():
        time.sleep(0.002)
    return os.getpid()


def started_pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []
