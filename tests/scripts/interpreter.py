"""Runs a script: commands at the left margin, below each what the machines decided (README.md has the language).

`run(text)` gives the text back with the outputs that really came, so a test is one comparison and its diff is the
explanation. A command that cannot be obeyed, a machine's broken invariant, and an `end` that finds something left raise
`ScriptError` with the line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from miniray.core.failures import Failure, FailureKind
from miniray.core.ids import (
    CONTROL_INDEX,
    LOCAL_BITS,
    FunctionId,
    ObjectId,
    ProcessId,
    given_id,
    process_id,
    return_id,
    show,
    task_id,
    task_of,
)
from miniray.core.machine import Awaited, AwaitEnded, Send
from miniray.core.node.node_manager import LEASES_PER_NODE
from miniray.core.owner.events import (
    CancelRequested,
    CopyWanted,
    ExtentNeeded,
    FunctionDropped,
    FunctionExported,
    KillRequested,
    Ready,
    RefsDropped,
    RefsHeld,
    Submitted,
    ValueOffered,
    ValuePut,
    ViewHeld,
    ViewsDropped,
)
from miniray.core.record import Effect, Event
from miniray.core.resources import demand
from miniray.core.task_spec import Failed, Inline, Stored, TaskOptions, TaskSpec, Value
from miniray.testing.by_hand import SESSION, World

EXTENT_BYTES = 8 << 20
STORED_BYTES = 1 << 16
MAX_DEADLINES = 200
_HIDDEN = ("demand", "payload", "options", "cause", "duration_microseconds", "reason")


class ScriptError(AssertionError):
    """What is wrong, and in which line."""


def run(text: str) -> str:
    """The script, with the outputs that came."""
    script = Script()
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("  "):
            continue  # an expectation: what came is written in its place
        lines.append(line)
        if line and not line.startswith("#"):
            try:
                lines.extend(f"  {output}" for output in script.obey(line))
            except Exception as error:
                raise ScriptError(f"line {number}, {line!r}: {error!r}") from error
    if not script.ended:
        raise ScriptError("the script has no `end`: is nothing left?")
    return "\n".join(lines) + "\n"


class Script:
    """One world, and what the script calls its objects."""

    def __init__(self) -> None:
        self.world = World(cpus=1)
        self.world.settle()
        self.world.effects.clear()
        self.ended = False
        self._names: dict[bytes, str] = {}
        self._ids: dict[str, ObjectId] = {}
        self._counters: dict[ProcessId, int] = {}
        self._given: dict[ProcessId, int] = {}

    def obey(self, line: str) -> list[str]:
        silent = line.startswith("silently ")
        words = shlex.split(line.removeprefix("silently ").replace("[", " [ ").replace("]", " ] "), posix=False)
        if words[0].endswith(":"):
            said = self._in_process(process(words[0][:-1]), words[1], words[2:])
        else:
            verb: Callable[..., list[str] | None] = getattr(self, f"_do_{words[0]}")
            said = verb(*(word for word in words[1:] if word not in ("->", "-"))) or []
        effects, self.world.effects[:] = list(self.world.effects), []
        output = said + [self._line(me, effect) for me, effect in effects]
        return [] if silent else output

    # ---- commands of the world ----

    def _do_world(self, *options: str) -> None:
        """Another world than that of one CPU."""
        self.world = World(**{name: int(count) for name, count in (option.split("=") for option in options)})
        self.world.settle()
        self.world.effects.clear()

    def _do_deliver(self, source: str, target: str, count: str = "1") -> None:
        for _ in range(int(count)):
            self.world.deliver(process(source), process(target))

    def _do_drain(self, source: str, target: str) -> None:
        """All that is under way there."""
        way = process(source), process(target)
        for _ in range(len(self.world.ways[way])):
            self.world.deliver(*way)

    def _do_settle(self) -> None:
        self.world.settle()

    def _do_advance(self, seconds: str) -> None:
        self.world.advance(float(seconds))

    def _do_cut(self, first: str, second: str, *options: str) -> None:
        given = dict(option.split("=") for option in options if "=" in option)
        kept = [None if one == "all" else int(one) for one in given.get("keep", "all").split("/")]
        self.world.cut(process(first), process(second), (kept[0], kept[-1]), unreachable="unreachable" in options)

    def _do_crash(self, me: str, *options: str) -> None:
        given = dict(option.split("=") for option in options)
        keep = int(given["keep"]) if "keep" in given else None
        self.world.crash(process(me), int(given.get("status", "-9")), keep)

    def _do_half(self, me: str, count: str) -> None:
        self.world.half(process(me), int(count))

    def _do_reap(self, me: str) -> None:
        self.world.reap(process(me))

    def _do_join(self) -> None:
        self.world.join()

    def _do_start(self, me: str) -> None:
        self.world.start(process(me))

    def _do_logged(self, me: str) -> None:
        """The oldest record that is not on its disk yet is there."""
        self.world.logged(process(me))

    def _do_restart(self, me: str) -> None:
        assert me == "control.p0", "only the control store begins again"
        self.world.restart()

    def _do_land(self, node: str) -> None:
        """The oldest copy that this node is making ends."""
        self.world.land(*next(one for one in self.world.landing if one[0] == process(node)))

    def _do_possible(self) -> list[str]:
        possible = self.world.possible()
        return [" ".join([verb, *(show(one) for one in what if isinstance(one, bytes))]) for verb, *what in possible]

    def _do_show(self, me: str, *names: str) -> list[str]:
        return [self._value_of(process(me), self._ids[name]) for name in names]

    def _do_tables(self, me: str) -> list[str]:
        found = self.world.leftovers().get(process(me), {})
        return [", ".join(f"{name} {value}" for name, value in found.items()) or "all empty"]

    def _do_end(self, *why_not: str) -> list[str]:
        """Let time pass until nobody waits for anything, and ask that nothing is left."""
        self.ended = True
        for _ in range(MAX_DEADLINES):
            self.world.settle()
            deadline = self.world.deadline()
            if deadline is None:
                break
            self.world.advance(deadline - self.world.now)
        left = {show(me): figures for me, figures in self.world.leftovers().items()}
        running = [show(me) for me, one in self.world.members.items() if one.alive and one.running is not None]
        self.world.effects.clear()
        if (left or running) and not why_not:
            raise ScriptError(f"left over: {left}, running: {running}")
        return [f"left over: {left}" if left else "nothing is left"]

    # ---- commands in a process ----

    def _in_process(self, me: ProcessId, verb: str, words: list[str]) -> list[str]:
        world = self.world
        if verb == "finish":
            plain, options = _options(words)
            member = world.members[me]
            assert member.running is not None, "nothing runs there"
            task = member.running.task.task_id
            values = [self._value(me, return_id(task, i), part) for i, part in enumerate(_split(plain))]
            world.finish(me, *values, microseconds=int(options.get("took", 10_000)), retry="retry" in options)
        else:
            world.turn(me, self._event(me, verb, words))
        return []

    def _event(self, me: ProcessId, verb: str, words: list[str]) -> Event:
        if verb in ("submit", "create", "call"):
            return self._submitted(me, verb, words)
        if verb == "put":
            object_id = self._new(me, words[0])
            return ValuePut(object_id, self._value(me, object_id, words[1:]))
        if verb == "offer":
            self._given[me] = self._given.get(me, 0) + 1
            object_id = self._name(words[0], given_id(process(words[1]), me, self._given[me]))
            return ValueOffered(object_id, self._value(me, object_id, words[2:]))
        if verb == "define":
            return FunctionExported(function(words[0]), Inline(b"", self._inside(words[1:])))
        if verb == "undefine":
            return FunctionDropped(function(words[0]))
        if verb == "extent":
            return ExtentNeeded(EXTENT_BYTES)
        if verb == "awake":
            return AwaitEnded()
        names = [self._ids[word] for word in words if word in self._ids]
        if verb == "cancel":
            return CancelRequested(names[0], "force" in words, "recursive" in words, "unstarted" not in words)
        if verb == "kill":
            return KillRequested(names[0])
        if verb == "view":
            return ViewHeld(names[0])
        kinds = {"hold": RefsHeld, "drop": RefsDropped, "await": Awaited, "want": CopyWanted, "unview": ViewsDropped}
        assert len(names) == len(words), f"unknown names among {words}"
        return kinds[verb](names)

    def _submitted(self, me: ProcessId, verb: str, words: list[str]) -> Event:
        """`submit r x y [z]`: x and y are arguments, z is inside one."""
        plain, options = _options(words)
        object_id = self._new(me, plain[0])
        actor = self._ids[plain.pop(1)] if verb == "call" else None
        cpus = float(options.get("cpus", 0 if verb == "create" else 1))
        retries = int(options.get("retries", 3 if verb == "submit" else 0))  # as for users
        named = TaskOptions(plain[0], demand({"CPU": cpus}) if verb != "call" else (), retries, fork="fork" in options)
        inside = self._inside(plain[1:])
        slots = tuple(self._ids[word] for word in takewhile(lambda word: word != "[", plain[1:]))
        defined = function(options["function"]) if "function" in options else FunctionId(b"")
        parent = task_of(self._ids[options["parent"]]) if "parent" in options else None
        spec = TaskSpec(
            task_of(object_id), defined, b"", named, int(options.get("returns", 1)), slots, inside,
            actor=actor, creates_actor=verb == "create", parent=parent,
        )  # fmt: skip
        for index in range(1, spec.num_returns):
            self._name(f"{plain[0]}.{index}", return_id(spec.task_id, index))
        return Submitted(spec)

    def _new(self, me: ProcessId, name: str) -> ObjectId:
        counter = self._counters[me] = self._counters.get(me, 0) + 1
        return self._name(name, return_id(task_id(me, counter)))

    def _name(self, name: str, object_id: ObjectId) -> ObjectId:
        assert name not in self._ids, f"there is a {name} already"
        self._ids[name] = object_id
        self._names[object_id] = name
        self._names.setdefault(task_of(object_id), name)
        return object_id

    def _inside(self, words: list[str]) -> tuple[ObjectId, ...]:
        inside = words[words.index("[") + 1 : words.index("]")] if "[" in words else []
        return tuple(self._ids[word] for word in inside)

    def _value(self, me: ProcessId, object_id: ObjectId, words: list[str]) -> Value:
        """`"text"`, `stored` or `error`, and the refs inside: `[x y]`."""
        inside = self._inside(words)
        if words[0] == "error":
            return Failed(Failure(FailureKind.TASK_ERROR, "", "planned", contains=inside))
        if words[0] == "stored":
            return Stored(self.world.members[me].seal(object_id, STORED_BYTES), inside)
        return Inline(words[0].strip('"').encode(), inside)

    # ---- what came ----

    def _line(self, me: ProcessId, effect: Effect) -> str:
        if isinstance(effect, Send):
            return f"{show(me)} -> {show(effect.peer)}: {self._show(effect.message)}"
        if isinstance(effect, Ready):
            return f"{show(me)} Ready: {', '.join(self._value_of(me, one) for one in effect.object_ids)}"
        return f"{show(me)} {self._show(effect)}"

    def _value_of(self, me: ProcessId, object_id: ObjectId) -> str:
        owner = self.world.members[me].owner
        assert owner is not None
        value = owner.values.get(object_id)
        if value is None:
            return f"{self._show(object_id)} {'pending' if owner.knows(object_id) else 'unknown'}"
        return f"{self._show(object_id)} = {self._show(value)}"

    def _show(self, what: Any) -> str:
        if isinstance(what, bytes):
            return self._names.get(what) or (show(what) if len(what) in (8, 14, 18) else what.decode())
        if isinstance(what, (list, tuple)):
            return f"[{', '.join(map(self._show, what))}]"
        if isinstance(what, int) and what >= LEASES_PER_NODE:  # a lease of another node than the first
            return "n{}.{}".format(*divmod(what, LEASES_PER_NODE))
        if isinstance(what, Inline):
            return f'"{what.data.decode()}"' + (self._show(what.contains) if what.contains else "")
        if isinstance(what, Stored):
            place = f"stored at {show(what.place.holder)}"
            return place + (self._show(what.contains) if what.contains else "")
        if isinstance(what, Failure):
            return what.kind.name + (self._show(what.contains) if what.contains else "")
        fields = getattr(type(what), "__struct_fields__", None)
        return repr(what) if fields is None else self._show_record(what, fields)

    def _show_record(self, what: Any, fields: tuple[str, ...]) -> str:
        """Fields that have no default by their order, others by their name, if they say something."""
        defaults = type(what).__struct_defaults__
        required = len(fields) - len(defaults)
        shown = []
        for index, name in enumerate(fields):
            value = getattr(what, name)
            if name in _HIDDEN or (name == "attempt" and value == 1) or (name == "function" and not value):
                continue
            if index < required:
                shown.append(self._show(value))
            elif value != defaults[index - required]:
                shown.append(f"{name}={self._show(value)}")
        return f"{type(what).__name__}({', '.join(shown)})"


def process(name: str) -> ProcessId:
    """As `show` names it: `p2`, `n1.p2` on another node, `control.p0`."""
    found = re.fullmatch(r"(?:n(\d+)\.|(control)\.)?p(\d+)", name)
    assert found, f"{name!r} is no process"
    index = CONTROL_INDEX if found[2] else int(found[1] or 0)
    return process_id(SESSION, (index << LOCAL_BITS) + int(found[3]))


def function(name: str) -> FunctionId:
    return FunctionId(name.encode())


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Words without `name=value`, and those; `retry` and `fork` alone are options, too."""
    named = [word for word in words if re.fullmatch(r"[a-z]+=\S+", word)]
    options = dict(word.split("=", 1) for word in named)
    options.update((word, "") for word in ("retry", "fork") if word in words)
    return [word for word in words if word not in named and word not in options], options


def _split(words: list[str]) -> list[list[str]]:
    """Values of several returns are separated by `|`."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
