"""A recorded run: the FILE that `python -m miniray replay FILE` reads. JSON, one object:

    format      FORMAT; a file of another format is refused
    program     {"file", "module", "name"}: the function that ran; its name is dotted ("Class.method", "<locals>" too)
    cluster     {"num_cpus": 2, "nodes": 1, ...}: the further arguments of `simulate`, as far as they are not usual
    faults      a record of `faults.py`, as `plain` makes it; `fault_of` makes the record again
    seed        the number, or null when the choices came from elsewhere
    choices     the list of whole numbers that were taken: with program, cluster and faults they are the run
    error       {"type": "builtins.AssertionError", "text", "traceback"}, or null: what the run ended with
    trace_hash  of every step of every machine: a replay that gives another one is another run
    matters     the few sentences that say what went wrong, in the order in which it happened
    processes   {"p1": "driver", "p0": "node", "p2": "worker", ...}; of several nodes also {"control.p0": "control"}
    tasks       {"p1.t7": {"name": "Counter.add", "site": "/a/prog.py:31 in main", "parent": "p1.t2" or null,
                "actor": "p1.t1.0" or null}}: what the user calls them; `name` of the creation of an actor is "Counter"
    steps       a list of
        number   1, 2, 3, ... in the whole run
        time     virtual seconds
        process  "p3"
        event    {"kind": "TaskFinished", <field>: <value>, ...}
        effects  the same, in their order; a message that is sent is {"kind": "Send", "peer": "p1", "message": {...}}
        cause    number of the step that led to this one, or null (a deadline came)

Events are those of the machines, and these, which happen to a process from outside of them (no effects):

    Began        users' code begins: the program in the driver
    TaskStarted  task, attempt, sequence: users' code of a task (or call) begins now
    Crashed      status (negative: a signal), why: "fault", "fault mid-step" (the effects of its last step are those
                 that were performed), "killed" (the node was told to), "itself", "its node died"; it does no more
    StartFailed  reason: the process could not be started
    Paused       seconds: it stands still, as under SIGSTOP; of a node with whole_node: and all that runs there
    LinkSilent   peer, seconds: what it sends there is lost, and nobody is told; then
    LinkBroke    peer: the link breaks, and both live
    BeganAgain   the control store that had crashed is there again, with what its log says
    LeftBehind   how: "stands still" or "cut off"; of a node, with all that runs there, and for ever

Causes: of `Received` the step that sent it; of `TaskStarted` the one with its `RunTask`; of `TaskFinished`, and of what
users' code does, its `TaskStarted` (or `Began`); of `PeerLost` and `ProcessEnded` the `Crashed`.

Values are plain JSON. Ids are as `show` writes them: p3, p1.t7, p1.t7.0. Bytes: {"bytes": length, "hash": hex}, enums
"Class.MEMBER", records {"kind": class, ...}, tuples lists. Functions are named by their hash: {"bytes", "hash"}, too;
`tasks` has their names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import Any

from miniray.core.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES, TASK_ID_BYTES, show
from miniray.core.record import Record
from miniray.testing import faults as _faults
from miniray.testing.faults import Faults

FORMAT = "miniray recording 1"
_ID_BYTES = (PROCESS_ID_BYTES, TASK_ID_BYTES, OBJECT_ID_BYTES)
_HASH_BYTES = 8
_PAYLOADS = ("payload", "data", "error", "retry_on")  # fields of users' bytes, which may be as long as an id


class RecordingError(ValueError):
    """This file is no recorded run, or cannot be run again here; the message says why."""


class Step(Record, frozen=True):
    """One step of one machine, or something that happened to a process; fields as above."""

    number: int
    time: float
    process: str
    event: dict[str, Any]
    effects: list[dict[str, Any]]
    cause: int | None


class Recording(Record, frozen=True):
    """A whole run; fields as above."""

    program: dict[str, str]
    cluster: dict[str, Any]
    faults: dict[str, Any]
    seed: int | None
    choices: list[int]
    error: dict[str, str] | None
    trace_hash: str
    matters: list[str]
    processes: dict[str, str]
    tasks: dict[str, dict[str, Any]]
    steps: list[Step]


def write(recording: Recording, file: Path) -> None:
    """Write it, one step a line; folders are made.

    Raises:
        OSError: it cannot be written there.
    """
    fields = {name: getattr(recording, name) for name in recording.__struct_fields__ if name != "steps"}
    lines = [json.dumps({name: getattr(step, name) for name in step.__struct_fields__}) for step in recording.steps]
    head = [f"{json.dumps(name)}: {json.dumps(value)},\n" for name, value in {"format": FORMAT, **fields}.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{" + "".join(head) + '"steps": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


def read(file: Path) -> Recording:
    """The run that was written there.

    Raises:
        RecordingError: there is no such file, or it holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordingError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordingError(f"{file} is no recorded run: it is not JSON ({error})") from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise RecordingError(f'{file} is no recorded run of this version: its "format" is not "{FORMAT}"')
    try:
        steps = [Step(**step) for step in found.pop("steps")]
        return Recording(steps=steps, **found)
    except (KeyError, TypeError) as error:
        raise RecordingError(f"{file} is no whole recorded run: {error}") from error


# ---- records as plain JSON ------------------------------------------------------------------------------


def hashed(data: bytes) -> Any:
    return {"bytes": len(data), "hash": blake2b(data, digest_size=_HASH_BYTES).hexdigest()} if data else ""


def plain(what: Any, payload: Callable[[bytes], Any] = hashed) -> Any:
    """A record, or anything inside one, as JSON; payloads as length and hash."""
    if isinstance(what, bytes | bytearray | memoryview):
        data = bytes(what)
        return show(data) if len(data) in _ID_BYTES else payload(data)
    if isinstance(what, Enum):
        return f"{type(what).__name__}.{what.name}"
    if isinstance(what, list | tuple):
        return [plain(part, payload) for part in what]
    if isinstance(what, dict):
        return {str(name): plain(value, payload) for name, value in what.items()}
    fields = getattr(type(what), "__struct_fields__", None)
    if fields is not None:
        made = {"kind": type(what).__name__}
        for name in fields:
            value = getattr(what, name)
            is_payload = name in _PAYLOADS and isinstance(value, bytes)
            made[name] = payload(value) if is_payload else plain(value, payload)
        return made
    return what if what is None or isinstance(what, bool | int | float | str) else repr(what)


def fault_of(given: dict[str, Any]) -> Faults:
    """The faults that `plain` has written.

    Raises:
        RecordingError: they are not faults of this version.
    """
    try:
        made = _record_of(given)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise RecordingError(f"the faults of this recorded run are not of this version: {error}") from error
    if not isinstance(made, Faults):
        raise RecordingError("the faults of this recorded run are no Faults")
    return made


def _record_of(given: Any) -> Any:
    if isinstance(given, list):
        return tuple(_record_of(part) for part in given)
    if isinstance(given, dict):
        fields = {name: _record_of(value) for name, value in given.items() if name != "kind"}
        return getattr(_faults, given["kind"])(**fields)
    if isinstance(given, str) and "." in given:
        kind, member = given.split(".")
        return getattr(_faults, kind)[member]
    return given
