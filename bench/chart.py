"""`python -m bench.chart FILE.json [INTO.svg]`: how fast each pool is beside `multiprocessing.Pool`, as one picture.

FILE.json is what `python -m bench pool --slow --json FILE.json` has kept. Each line is a row of the table, each dot the
median of the blocks' ratios; twice as fast lies as far to the right of the standard pool as half as fast to its left.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path

from bench.measure import MINIRAY, ratios
from bench.versus import POOLS

REFERENCE = "mp.Pool"
COLOURS = {
    MINIRAY: "#d6336c", "Executor": "#1971c2", "loky": "#2f9e44", "mpire": "#e8890c", "Ray Pool": "#7048e8",
    "Dask": "#868e96",
}  # fmt: skip
FULL_NAMES = {"Executor": "ProcessPoolExecutor", "Ray Pool": "Ray's Pool"}
WIDTH, LEFT, RIGHT, TOP, LINE, BOTTOM = 860, 360, 60, 64, 26, 40
STYLE = "font-family='system-ui, sans-serif' font-size='13'"


def speeds(row: dict) -> dict[str, float]:
    """How many times as fast as the standard pool each system is, where both have samples that end."""
    found = {}
    for system in POOLS:
        both = ratios(row["samples"].get(system) or [], row["samples"].get(REFERENCE) or [])
        if system != REFERENCE and both and 0 < both[0] < math.inf:
            found[system] = both[0] if "/" in row["unit"] else 1 / both[0]
    return found


def shown(ratio: float) -> str:
    return f"{ratio:.0f} x" if ratio >= 9.95 else f"{ratio:.2g} x"


def draw(rows: list[dict]) -> str:
    lines = [(row["name"], found) for row in rows if MINIRAY in (found := speeds(row))]
    if not lines:
        raise SystemExit(f"no row has samples of both {MINIRAY} and {REFERENCE}")
    everything = [ratio for _, found in lines for ratio in found.values()]
    least, most = math.floor(math.log10(min(everything))), math.ceil(math.log10(max(everything)))
    height = TOP + LINE * len(lines) + BOTTOM

    def x(ratio: float) -> float:
        return LEFT + (math.log10(ratio) - least) / (most - least) * (WIDTH - LEFT - RIGHT)

    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' {STYLE}>",
        f"<rect width='{WIDTH}' height='{height}' fill='#ffffff'/>",
        "<text x='12' y='22' font-weight='bold' fill='#212529'>Times as fast as multiprocessing.Pool</text>",
    ]
    at = 12
    for system, colour in COLOURS.items():
        name = FULL_NAMES.get(system, system)
        parts.append(f"<circle cx='{at + 5}' cy='41' r='5' fill='{colour}'/>")
        parts.append(f"<text x='{at + 15}' y='46' fill='#212529'>{escape(name)}</text>")
        at += 40 + 8 * len(name)
    bottom = TOP + LINE * len(lines)
    for power in range(least, most + 1):
        at, strong = x(10.0**power), power == 0
        stroke = "#495057" if strong else "#dee2e6"
        parts.append(f"<line x1='{at:.1f}' y1='{TOP - 6}' x2='{at:.1f}' y2='{bottom}' stroke='{stroke}'/>")
        text = "multiprocessing.Pool" if strong else f"{10.0**power:g} x"
        parts.append(f"<text x='{at:.1f}' y='{bottom + 18}' text-anchor='middle' fill='#495057'>{text}</text>")
    for index, (name, found) in enumerate(lines):
        y = TOP + LINE * index + LINE / 2
        parts.append(f"<text x='12' y='{y + 4}' fill='#212529'>{escape(name)}</text>")
        parts.append(f"<line x1='{LEFT}' y1='{y}' x2='{WIDTH - RIGHT}' y2='{y}' stroke='#f1f3f5'/>")
        for system in [*(one for one in found if one != MINIRAY), MINIRAY]:  # ours above the others
            radius = 6 if system == MINIRAY else 4
            parts.append(f"<circle cx='{x(found[system]):.1f}' cy='{y}' r='{radius}' fill='{COLOURS[system]}'/>")
        text = shown(found[MINIRAY])
        parts.append(f"<text x='{x(found[MINIRAY]) + 10:.1f}' y='{y + 4}' fill='#212529'>{text}</text>")
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    into = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).with_name("figures.svg")
    into.write_text(draw(json.loads(Path(sys.argv[1]).read_text())["rows"]))
    print(f"drawn into {into}")


if __name__ == "__main__":
    main()
