"""The command line: `miniray demo`, `miniray replay FILE`, `miniray --version`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

INTERRUPTED = 130  # as a shell tells it
WRONG_FILE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="miniray", description="Parallel Python with ownership.")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command")
    demo = commands.add_parser("demo", help="one job done in four ways, compared, and one worker killed in the middle")
    demo.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    demo.add_argument("--megabytes", type=int, default=160, help="size of the array shared with every task (160)")
    demo.add_argument("--files", type=int, help="count the words of so many files only (all of the standard library)")
    replay = commands.add_parser("replay", help="the story of a recorded run of a simulation, and its picture")
    replay.add_argument("file", type=Path, help="what `miniray.testing` wrote when a run failed")
    replay.add_argument("--html", type=Path, help="where the page with the picture goes (beside FILE)")
    replay.add_argument("--svg", type=Path, help="write the picture alone, here, and no page unless --html is given")
    replay.add_argument("--all", action="store_true", help="tell every step, and draw every message")
    replay.add_argument("--run", action="store_true", help="run it again, and say whether it is the same run")
    replay.add_argument("--about", metavar="ID", help="tell the last steps of one task (p1.t7) or object only")
    options = parser.parse_args(arguments)
    if options.version:
        import miniray

        print(miniray.__version__)
        return 0
    if options.command == "demo":
        if min(options.workers, options.megabytes, 1 if options.files is None else options.files) < 1:
            parser.error("--workers, --megabytes and --files must be at least 1")
        from miniray.demo import run

        try:
            return run(options.workers, options.megabytes, options.files)
        except KeyboardInterrupt:
            return INTERRUPTED
    if options.command == "replay":
        return _replay(options)
    parser.print_help(sys.stderr)
    return 2


def _replay(options: argparse.Namespace) -> int:
    from miniray.testing.page import to_html
    from miniray.testing.recording import RecordingError, read
    from miniray.testing.sequence import to_svg
    from miniray.testing.story import story, tell

    try:
        recording = read(options.file)
        if options.about is not None:
            print(story(recording, options.about), flush=True)
            return 0
        print(tell(recording, everything=options.all))
        page = options.html or (None if options.svg else options.file.with_suffix(".html"))
        pictures = {options.svg: to_svg(recording, everything=options.all)} if options.svg else {}
        if page is not None:
            pictures[page] = to_html(recording, everything=options.all)
        for file, text in pictures.items():
            file.write_text(text, encoding="utf-8")
            print(f"picture: {file}")
        if options.run:
            from miniray.testing.rerun import compare, rerun

            print(compare(recording, rerun(recording)))
        sys.stdout.flush()
    except (RecordingError, LookupError) as error:
        print(f"miniray replay: {error.args[0]}", file=sys.stderr)
        return WRONG_FILE
    except BrokenPipeError:  # by `| head`, say: who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest goes when the interpreter ends
        return 0
    except OSError as error:
        print(f"miniray replay: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return WRONG_FILE
    return 0
