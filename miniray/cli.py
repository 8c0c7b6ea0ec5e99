"""The command line: `miniray demo`, `miniray --version`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


INTERRUPTED = 130  # as a shell tells it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="miniray", description="Parallel Python with ownership.")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command")
    demo = commands.add_parser("demo", help="one job done in four ways, compared, and one worker killed in the middle")
    demo.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    demo.add_argument("--megabytes", type=int, default=160, help="size of the array shared with every task (160)")
    options = parser.parse_args(arguments)
    if options.version:
        import miniray

        print(miniray.__version__)
        return 0
    if options.command == "demo":
        if options.workers < 1 or options.megabytes < 1:
            parser.error("--workers and --megabytes must be at least 1")
        from miniray.demo import run

        try:
            return run(options.workers, options.megabytes)
        except KeyboardInterrupt:
            return INTERRUPTED
    parser.print_help(sys.stderr)
    return 2
