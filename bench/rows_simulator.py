"""How many seeds of the simulator a minute, on one core: random programs of about ten steps, under random faults.

On one node, and as they are drawn: of those on up to three nodes most get parts that use them, and are larger.
"""

from __future__ import annotations

from time import perf_counter

from bench.measure import MINIRAY, Goal, MeasurementError, Row, cores, in_process, pin_threads

SEEDS = 150
WARM_SEEDS = 10
STEPS = range(8, 13)  # operations of a program: most are tasks or calls


def seeds_a_minute(count: int, nodes: int) -> float:
    """Runs the first `count` seeds whose program has so many steps; a seed that fails ends the sample."""
    from miniray.testing.choices import SeededChoices
    from miniray.testing.drawing import draw_program
    from miniray.testing.seeds import run_seed

    pin_threads(cores()[0])
    seeds: list[int] = []
    seed = 0
    while len(seeds) < count + WARM_SEEDS:
        if len(draw_program(SeededChoices(seed))) in STEPS:
            seeds.append(seed)
        seed += 1
    for seed in seeds[:WARM_SEEDS]:
        run_seed(seed, nodes=nodes)
    began = perf_counter()
    for seed in seeds[WARM_SEEDS:]:
        run_seed(seed, nodes=nodes)
    return 60 * count / (perf_counter() - began)


def simulator(count: int) -> list[Row]:
    return [
        _row("seeds of about ten steps, one node, one core", count, 1, [Goal(at_least=1000)]),
        _row("the same on one to three nodes, as drawn", count, 0, []),
    ]


def _row(name: str, count: int, nodes: int, goals: list[Goal]) -> Row:
    found: list[float] = []
    notes = []
    try:
        found = [in_process("bench.rows_simulator:seeds_a_minute", SEEDS, nodes) for _ in range(count)]
    except MeasurementError as error:
        notes.append(f"{MINIRAY}: {error}")
    return Row(name, "seeds/min", {MINIRAY: found}, goals, notes)


ROWS = {"simulator": simulator}
