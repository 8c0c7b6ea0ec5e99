"""Faults: what goes wrong in one simulated run, and when. Drawn from choices, before the run and during it.

Crashes strike a worker at one of its steps: before the step's effects (`AT_STEP`), between two frames that it sends
(`AT_SEND`), so that some peers hear of a step and others do not, just after a result with refs or a place has left
(`AFTER_RESULT`), when most of what it knows is under way, or between two effects of one step (`MID_STEP`): those before
it were performed and sent, the others are not, nor what the roles of this process had to say to each other. A node
process dies in these ways, too, and with a whole host nothing is left. Delays are mostly short, sometimes as long as a
timeout. A process may also stand still for a while, as under SIGSTOP, and so may a whole node with all that runs there,
its zygote included, for longer than any timeout: a machine that was suspended. Of several nodes the control store
crashes too, at any of its steps or in the middle of one, as often as not when it tells of a death, and begins again a
while later from its log; and links between it and nodes break. No program may notice either. In some runs the faults
end at some step (`healing.py`): from then on everything must come to its end in bounded time (`checkers/ends.py`),
although some nodes do not heal: they are dead, stand still, or are cut off, for ever. And in one random program of six
the stores have room for a few large values only (`seeds.py`): they are full, and whoever finds no room is told so.
"""

from __future__ import annotations

from enum import Enum

from miniray.core.record import Effect, Record, replace
from miniray.transport import Choices

SHORT_SECONDS = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005)
LONG_SECONDS = (0.002, 0.01, 0.05, 0.3)
SILENT_SECONDS = (0.0, 0.0, 0.0005, 0.3)
AWAY_SECONDS = (0.0, 0.0005, 0.01, 0.3, 2.0)  # of the control store; a node waits for it for 20 s
STRIKE_SECONDS = (0.0, 0.0001, 0.001, 0.02)
PAUSE_SECONDS = (0.05, 0.5, 1.5)
NODE_PAUSE_SECONDS = (0.3, 3.0, 20.0)  # no timeout of the protocol is longer than the last
_PAUSES = ((0, 0), (0, 0), (0, 0), (0, 0), (200, 0), (200, 100), (50, 0), (50, 100))  # of a process, of a node


class CrashMode(Enum):
    AT_STEP = 0
    AT_SEND = 1
    AFTER_RESULT = 2
    MID_STEP = 3


# Of twelve, so that MID_STEP takes a little of two others and what every other number gives is what it always gave.
_MODES = (
    *(CrashMode.AT_STEP,) * 3, CrashMode.MID_STEP,
    *(CrashMode.AT_SEND,) * 3, CrashMode.MID_STEP,
    *(CrashMode.AFTER_RESULT,) * 4,
)  # fmt: skip


class Crash(Record, frozen=True):
    """After so many further steps (sends, results, steps with effects) of workers, the one that makes the next dies."""

    after: int
    mode: CrashMode


class Break(Record, frozen=True):
    """After so many further frames between drivers and workers, the link of the next one breaks, and both ends live.
    For so long before that, all that its sender sends on it is lost without notice: the link is cut one way.
    `between_nodes`: only frames from one node to another count, since on one host such a link does not break."""

    after: int
    silent_seconds: float = 0.0
    between_nodes: bool = False


class Lasting(Enum):
    """What is for ever."""

    DEAD = "dead"
    STANDS_STILL = "stands still"
    CUT_OFF = "cut off"


class Unhealed(Record, frozen=True):
    """The node of this number (0 is the driver's, which always heals) is not part of what heals."""

    node: int
    how: Lasting


class ControlCrash(Record, frozen=True):
    """After so many further steps of the control store (those with effects), it dies: before the effects of the next
    one, or between two of them. It begins again after a while, from its log. `at_news`: counted are only steps in which
    it tells of a death, since that is what may get lost with it."""

    after: int
    mid_step: bool = False
    away_seconds: float = 0.0
    at_news: bool = False


class StrikeMoment(Enum):
    """When it matters that a node dies."""

    COPY_TO = "a copy is being made there"
    COPY_FROM = "a copy is being made of what lies there"
    REMAKE = "a task runs there that has run before"
    READ = "a task runs there that reads stored values"
    TASK = "any task runs there"
    ACTOR = "an actor begins there"


class NodeStrike(Record, frozen=True):
    """After so many of these moments on nodes other than the driver's, at the next one or so much later, that node
    dies. A strike waits for the one before it."""

    moment: StrikeMoment
    after: int = 0
    seconds: float = 0.0
    whole_host: bool = True  # else its process alone, whose workers end a moment later


class Faults(Record, frozen=True):
    """What may happen in one run.

    `one_long_in` and the like: one delay in so many is long, one direction of a link in so many is slow, one turn in so
    many is followed by a pause, one start of a worker in so many fails, after one step of a machine in so many a whole
    node stands still; 0: none. After `heal_after` steps of machines all of it ends, but for the `unhealed`; 0: never.
    """

    crashes: tuple[Crash, ...] = ()
    one_long_in: int = 0
    one_slow_link_in: int = 0
    one_pause_in: int = 0
    one_failed_start_in: int = 0
    heal_after: int = 0
    node_crashes: tuple[int, ...] = ()  # after so many steps of machines a node dies, but never the driver's
    one_node_pause_in: int = 0
    broken_links: tuple[Break, ...] = ()
    unhealed: tuple[Unhealed, ...] = ()  # from `heal_after` on
    control_crashes: tuple[ControlCrash, ...] = ()
    node_strikes: tuple[NodeStrike, ...] = ()
    control_breaks: tuple[int, ...] = ()  # after so many further frames to or from the control store, that link breaks


NO_FAULTS = Faults()


class CrashHere(Effect, frozen=True):
    """No machine decides this: a fault puts it where a step ends half-way."""


def end_half_way(effects: list[Effect], count: int) -> None:
    """Let only the first `count` effects of a step be performed. Then its process dies."""
    effects[count:] = [CrashHere()]


def draw(choices: Choices, nodes: int = 1) -> Faults:
    """A third of the runs have only delays, the others one to four crashes; of several nodes some crash as well."""
    count = (0, 0, 1, 2, 3, 4)[choices.choose(6, "crashes")]
    crashes = []
    for _ in range(count):
        mode = _MODES[choices.choose(len(_MODES), "kind of crash")]
        nearest = 1 if mode is CrashMode.AFTER_RESULT else 4
        after = choices.choose(nearest << choices.choose(6, "how far"), "steps to the next crash")
        crashes.append(Crash(after, mode))
    long_in = (0, 100, 20, 5)[choices.choose(4, "long delays")]
    slow_in = (0, 8, 3, 2)[choices.choose(4, "slow links")]
    pause_in, node_pause_in = _PAUSES[choices.choose(len(_PAUSES), "pauses")]
    faults = Faults(
        tuple(crashes),
        long_in,
        slow_in,
        pause_in,
        (0, 0, 0, 8)[choices.choose(4, "failed starts")],
        (0, 0, 30, 100, 300)[choices.choose(5, "healing")],
        one_node_pause_in=node_pause_in,
    )
    if nodes == 1:
        return faults
    return replace(faults, node_crashes=draw_node_crashes(choices, nodes))


def draw_node_crashes(choices: Choices, nodes: int) -> tuple[int, ...]:
    """None in half of the runs, else up to as many as there are nodes beside the driver's."""
    count = choices.choose(nodes, "node crashes") if choices.choose(2, "whether nodes crash") else 0
    return tuple(sorted(choices.choose(30 << choices.choose(6, "how far"), "a node crash") for _ in range(count)))


def draw_strikes(choices: Choices, faults: Faults, nodes: int) -> Faults:
    """With these: two thirds of the runs have one or more, and most of the others' crashes of nodes are left out, which
    come when nothing runs there yet. From a source of its own, like broken links."""
    count = 1 + choices.choose(nodes - 1, "strikes") if choices.choose(3, "whether nodes are struck") else 0
    moments, strikes = list(StrikeMoment), []
    for _ in range(count):
        moment = moments[choices.choose(len(moments), "when it matters")]
        after = choices.choose(1 << choices.choose(5, "how far"), "such moments before")
        seconds = STRIKE_SECONDS[choices.choose(len(STRIKE_SECONDS), "how much later")]
        strikes.append(NodeStrike(moment, after, seconds, bool(choices.choose(2, "the whole host"))))
    crashes = () if choices.choose(4, "no crashes of nodes") else faults.node_crashes
    return replace(faults, node_strikes=tuple(strikes), node_crashes=crashes)


def draw_links(choices: Choices, *, between_nodes: bool = False) -> tuple[Break, ...]:
    """Half of the runs have one to three. Drawn from a source of its own: other seeds are the runs that they were."""
    count = (0, 0, 0, 1, 2, 3)[choices.choose(6, "broken links")]
    breaks = []
    for _ in range(count):
        after = choices.choose(4 << choices.choose(6, "how far"), "frames to the next broken link")
        silent = SILENT_SECONDS[choices.choose(len(SILENT_SECONDS), "cut one way")]
        breaks.append(Break(after, silent, between_nodes))
    return tuple(breaks)


def draw_unhealed(choices: Choices, nodes: int) -> tuple[Unhealed, ...]:
    """Half of the nodes beside the driver's heal. Drawn from a source of its own, as broken links are."""
    drawn = [choices.choose(6, "whether a node heals") for _ in range(1, nodes)]
    lasting = (None, None, None, Lasting.DEAD, Lasting.STANDS_STILL, Lasting.CUT_OFF)
    return tuple(Unhealed(node, how) for node, how in enumerate(map(lasting.__getitem__, drawn), 1) if how is not None)


def draw_control(choices: Choices, faults: Faults) -> Faults:
    """With these, what befalls the control store: up to three crashes in two thirds of the runs, in half of them one or
    two broken links between it and nodes. From a source of its own, like other broken links."""
    crashes = []
    for _ in range((0, 0, 1, 1, 2, 3)[choices.choose(6, "crashes of the control store")]):
        at_news = bool(choices.choose(2, "when it tells of a death"))
        after = choices.choose(2 if at_news else 1 << choices.choose(7, "how far"), "steps to its next crash")
        mid_step = bool(choices.choose(2, "half-way through a step"))
        away = AWAY_SECONDS[choices.choose(len(AWAY_SECONDS), "how long it is away")]
        crashes.append(ControlCrash(after, mid_step, away, at_news))
    breaks = []
    for _ in range((0, 0, 1, 2)[choices.choose(4, "broken links of the control store")]):
        breaks.append(choices.choose(2 << choices.choose(7, "how far"), "frames to the next broken link"))
    return replace(faults, control_crashes=tuple(crashes), control_breaks=tuple(breaks))


def delay(choices: Choices, faults: Faults) -> float:
    """Seconds that one frame takes, or one process to look at what has arrived."""
    if faults.one_long_in and not choices.choose(faults.one_long_in, "a long delay"):
        return LONG_SECONDS[choices.choose(len(LONG_SECONDS), "how long")]
    return SHORT_SECONDS[choices.choose(len(SHORT_SECONDS), "delay")]


def slowness(choices: Choices, faults: Faults) -> float:
    """Seconds that every frame of one direction of one link takes longer."""
    if faults.one_slow_link_in and not choices.choose(faults.one_slow_link_in, "a slow link"):
        return LONG_SECONDS[choices.choose(len(LONG_SECONDS), "how slow")]
    return 0.0


def node_pause(choices: Choices, faults: Faults) -> float:
    """Seconds for which a node stands still now; mostly none."""
    if faults.one_node_pause_in and not choices.choose(faults.one_node_pause_in, "a pause of a node"):
        return NODE_PAUSE_SECONDS[choices.choose(len(NODE_PAUSE_SECONDS), "for how long")]
    return 0.0


def pause(choices: Choices, faults: Faults) -> float:
    """Seconds for which a process stands still now; mostly none."""
    if faults.one_pause_in and not choices.choose(faults.one_pause_in, "a pause"):
        return PAUSE_SECONDS[choices.choose(len(PAUSE_SECONDS), "for how long")]
    return 0.0
