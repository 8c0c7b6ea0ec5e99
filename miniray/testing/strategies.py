"""Hypothesis strategies: schedules and faults of simulated runs, to be drawn beside the arguments of a program.

    @given(amounts=st.lists(st.integers()), schedule=schedules(), faults=fault_schedules())
    def test_sum(amounts, schedule, faults):
        done = simulate(lambda: total(amounts), choices=schedule, faults=faults)
        assert done.value == sum(amounts)

Both shrink towards a cluster in which nothing is late and nothing dies, so program and schedule shrink together.
"""

from __future__ import annotations

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as missing:
    if missing.name != "hypothesis":
        raise
    raise ModuleNotFoundError(
        "miniray.testing.strategies needs Hypothesis, which miniray does not install: pip install hypothesis",
        name="hypothesis",
    ) from None

from miniray.testing.choices import DrawnChoices
from miniray.testing.faults import SILENT_SECONDS, Break, Crash, CrashMode, Faults, Lasting, Unhealed
from miniray.testing.graphs import GraphStep, TaskGraph
from miniray.testing.tallies import ActorProgram, ActorStep, Do

MAX_NUMBERS = 200  # drawn one by one; what a run needs beyond comes from the seed
MAX_CRASHES = 4
MAX_MOMENT = 128  # steps (or sends) of workers between one crash, or broken link, and the next
MAX_NODE_MOMENT = 1000  # steps of machines until a node crashes
MAX_TAKEN = 3  # results of earlier steps, each way
MAX_CHILDREN = 2
FAILS_ONE_IN = 6
ONE_IN = (0, 200, 50, 8)  # how rare a fault is; 0: never


def schedules() -> st.SearchStrategy[DrawnChoices]:
    """Sources of choices for `simulate(choices=)`: what happens first, and how long it takes."""
    numbers = st.lists(st.integers(0, 1 << 16), max_size=MAX_NUMBERS)
    return st.builds(DrawnChoices, numbers, st.integers(0, (1 << 32) - 1))


def fault_schedules(
    *, max_crashes: int = MAX_CRASHES, max_node_crashes: int = 0, max_broken_links: int = 0, max_unhealed: int = 0
) -> st.SearchStrategy[Faults]:
    """Faults for `simulate(faults=)`; with `max_crashes=0` no worker dies, and things are only late.

    The rest is for `simulate(nodes=)` of two and more: how many nodes crash, and how many links between nodes break.
    `max_unhealed`, which is less than `nodes`: at some step all faults end, but for so many nodes, which never heal.
    """
    crash = st.builds(Crash, st.integers(0, MAX_MOMENT), st.sampled_from(CrashMode))
    one_in = st.sampled_from(ONE_IN)
    silent = st.sampled_from(sorted(set(SILENT_SECONDS)))
    cut = st.builds(Break, st.integers(0, MAX_MOMENT), silent, st.just(True))
    left = st.builds(Unhealed, st.integers(1, max(1, max_unhealed)), st.sampled_from(Lasting))
    unhealed = st.lists(left, max_size=max_unhealed, unique_by=lambda one: one.node)
    return st.builds(
        Faults,
        crashes=st.lists(crash, max_size=max_crashes).map(tuple),
        one_long_in=one_in,
        one_slow_link_in=one_in,
        one_pause_in=one_in,
        one_failed_start_in=one_in if max_crashes else st.just(0),
        one_node_pause_in=one_in,
        node_crashes=st.lists(st.integers(0, MAX_NODE_MOMENT), max_size=max_node_crashes).map(tuple),
        broken_links=st.lists(cut, max_size=max_broken_links).map(tuple),
        heal_after=st.integers(1, MAX_NODE_MOMENT) if max_unhealed else st.just(0),
        unhealed=unhealed.map(tuple),
    )


def task_graphs(max_tasks: int = 8) -> st.SearchStrategy[TaskGraph]:
    """Programs of 1 to `max_tasks` tasks that take one another's results, have children, and may raise; shrinks to one
    task. `graph.run` is the program, `graph.expected()` the outcomes that it must give.

    With faults that kill (`max_crashes` above 0) they hold as well, unless a task's retries are used up.
    """
    # Steps name others by how far back they are, so that one may be left out while a graph shrinks.
    back = st.lists(st.integers(1, max(1, max_tasks - 1)), max_size=MAX_TAKEN)
    step = st.tuples(back, back, st.integers(0, MAX_CHILDREN), st.integers(0, FAILS_ONE_IN - 1))
    return st.lists(step, min_size=1, max_size=max_tasks).map(_graph)


def _graph(drawn: list[tuple[list[int], list[int], int, int]]) -> TaskGraph:
    def earlier(place: int, back: list[int]) -> tuple[int, ...]:
        return tuple(place - far for far in back if far <= place)

    return TaskGraph(
        tuple(
            GraphStep(earlier(at, some), earlier(at, nested), children, fails == FAILS_ONE_IN - 1)
            for at, (some, nested, children, fails) in enumerate(drawn)
        )
    )


def actor_programs(max_steps: int = 12) -> st.SearchStrategy[ActorProgram]:
    """Programs of 1 to `max_steps` steps that make actors, call them (from tasks and other actors too, and with calls
    that raise), pass their handles on, kill them and drop them; shrinks to one actor that is made.

    `program.run` is the program, `program.expected()` the outcomes that it must give when nobody dies by a fault. With
    faults that kill, `program.allows(outcomes)` says whether it may end so.
    """
    one = st.integers(0, max_steps - 1)
    step = st.tuples(st.sampled_from(Do), one, st.integers(0, 9), one)
    return st.lists(step, min_size=1, max_size=max_steps).map(_actor_program)


def _actor_program(drawn: list[tuple[Do, int, int, int]]) -> ActorProgram:
    """A step that its actor cannot do is a call instead; the first makes an actor.

    What is left out leaves the other steps what they are, or shrinking would have to change two at once: actors are
    counted from the first, dropped ones too, and a step of a dropped one is none.
    """
    steps: list[ActorStep] = []
    dropped: dict[int, None] = {}
    killed: dict[int, None] = {}
    keeps: dict[int, int] = {}
    made = 0
    for do, which, amount, other in drawn:
        if do is Do.CREATE or not made:
            steps.append(ActorStep(Do.CREATE))
            made += 1
            continue
        actor = which % made
        if actor in dropped:
            continue
        given = other % actor if actor else None
        if (
            (do is Do.GIVE and (given is None or given in dropped))
            or (do is Do.TASK and actor in killed)
            or (do is Do.RELAY and keeps.get(actor) in killed)
        ):
            do = Do.CALL
        if do is Do.GIVE and given is not None:
            keeps[actor] = given
        elif do is Do.KILL:
            killed[actor] = None
        elif do is Do.DROP:
            dropped[actor] = None
        calls = do in (Do.CALL, Do.FAIL, Do.TASK, Do.RELAY)
        steps.append(ActorStep(do, actor, amount if calls else 0, keeps[actor] if do is Do.GIVE else 0))
    return ActorProgram(tuple(steps))
