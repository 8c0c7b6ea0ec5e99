"""`python -m bench [ROW ...] [--blocks N] [--json FILE] [--against COMMIT]`: measure, and print one table."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

from bench import rows_leaks, rows_lifecycle, rows_objects, rows_pool, rows_simulator, rows_sync, rows_tasks
from bench.against import OLD, ComparisonError, compare, lost
from bench.measure import MINIRAY, Row, machine
from bench.versus import SLOW, SYSTEMS, keep_only

POOL_ROWS = rows_pool.ROWS
ROWS = {
    **rows_sync.ROWS, **rows_tasks.ROWS, **rows_objects.ROWS, **rows_lifecycle.ROWS, **rows_simulator.ROWS, **POOL_ROWS
}  # fmt: skip
ON_REQUEST = {**rows_tasks.ON_REQUEST, **rows_leaks.ON_REQUEST}  # slow


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if math.isinf(value):
        return "hangs"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def limit_of(row: Row) -> str:
    """The bare limit among the row's systems, by name and figure."""
    return ", ".join(f"{number(row.median(name))} ({name})" for name in row.samples if name not in SYSTEMS) or "-"


def verdicts(row: Row) -> str:
    said = []
    for goal in row.goals:
        verdict = row.verdict(goal)
        if verdict is None:
            continue
        ratio, least, greatest, holds = verdict
        judged = f", goal {goal.text()}: {'met' if holds else 'MISSED'}" if goal.bounded else ""
        what = f"{ratio:.3g} x {goal.against} ({least:.2g} to {greatest:.2g})" if goal.against else number(ratio)
        said.append(what + judged)
    return "; ".join(said) or "-"


def cells(row: Row, columns: list[str]) -> list[str]:
    figures = [number(row.median(name)) for name in columns]
    return [row.name, row.unit, *figures, limit_of(row), verdicts(row)]


def print_table(rows: list[Row]) -> None:
    columns = [name for name in SYSTEMS if any(row.samples.get(name) for row in rows)]
    lines = [["row", "unit", *columns, "bare limit", f"{MINIRAY} against it (median, range of the blocks' ratios)"]]
    lines += [cells(row, columns) for row in rows]
    print_lines(lines)
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    if notes:
        print("\nNot measured: " + "; ".join(notes))


def print_lines(lines: list[list[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for index, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def print_comparison(commit: str, rows: list[Row]) -> None:
    lines = [["row", "unit", commit, "this tree", "this tree against it (median, range of the blocks' ratios)"]]
    for row in rows:
        lines.append([row.name, row.unit, number(row.median(OLD)), number(row.median(MINIRAY)), verdicts(row)])
    print_lines(lines)
    for note in dict.fromkeys(note for row in rows for note in row.notes):
        print(f"not measured: {note}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = f"of {', '.join(ROWS)} (these by default), {', '.join(ON_REQUEST)}; pool: {', '.join(POOL_ROWS)}"
    parser.add_argument("rows", nargs="*", metavar="ROW", help=names)
    parser.add_argument("--blocks", type=int, default=5, help="samples a system (times 3 or 4 where they are short)")
    parser.add_argument("--json", type=Path, help="write every sample there, too")
    parser.add_argument("--alone", action="store_true", help=f"only {MINIRAY} and the bare limits, no peers")
    parser.add_argument("--slow", action="store_true", help=f"the slow peers, too: {', '.join(sorted(SLOW))}")
    parser.add_argument("--against", metavar="COMMIT", help="this tree beside an old commit, interleaved")
    options = parser.parse_args()
    known = {**ROWS, **ON_REQUEST}
    asked = [row for name in options.rows or ROWS for row in (POOL_ROWS if name == "pool" else [name])]
    if unknown := [name for name in asked if name not in known]:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(known)}")
    about, rows = machine(), []
    print("\n".join(f"{what}: {said}" for what, said in about.items()), end="\n\n", flush=True)
    if options.against:
        try:
            rows = compare(options.against, asked, options.blocks)
        except ComparisonError as error:
            parser.error(str(error))
        print_comparison(options.against, rows)
    else:
        keep_only({MINIRAY} if options.alone else set(SYSTEMS) - (set() if options.slow else SLOW))
        for name in asked:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            rows += known[name](options.blocks)
        print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1))


    if options.against and any(map(lost, rows)):
        sys.exit("slower, or larger, than it may be: " + "; ".join(row.name for row in rows if lost(row)))


if __name__ == "__main__":
    main()
