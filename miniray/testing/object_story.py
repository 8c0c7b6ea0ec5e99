"""The story of an object, task or process: the last steps of a recorded run that name it, each with its cause.

It is attached to the error of a broken invariant, so that the reader begins where the trouble is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from miniray.testing.recording import Step

LAST_STEPS = 24


def story(steps: list[Step], about: tuple[str, ...], most: int = LAST_STEPS) -> str:
    """The last `most` steps that name one of `about`, or what belongs to it (p1.t2.0 belongs to p1.t2)."""
    found = [step for step in steps if any(_names(step, one) for one in about)]
    left_out = [f"  ... {len(found) - most} earlier steps"] if len(found) > most else []
    return "\n".join([f"the story of {', '.join(about)}:", *left_out, *map(_line, found[-most:])])


def _names(step: Step, one: str) -> bool:
    return any(word == one or word.startswith(f"{one}.") for word in _words([step.event, step.effects]))


def _words(what: Any) -> Iterator[str]:
    if isinstance(what, str):
        yield what
    elif isinstance(what, dict):
        for value in what.values():
            yield from _words(value)
    elif isinstance(what, list):
        for value in what:
            yield from _words(value)


def _line(step: Step) -> str:
    because = "" if step.cause is None else f", because of #{step.cause}"
    lines = [f"  #{step.number} {step.time:.6f} {step.process}{because}: {_show(step.event)}"]
    lines += [f"      -> {_show(effect)}" for effect in step.effects]
    return "\n".join(lines)


def _show(what: Any) -> str:
    if isinstance(what, list):
        return f"[{', '.join(map(_show, what))}]"
    if isinstance(what, dict) and "kind" in what:
        kind = what["kind"]
        if kind == "Received":
            return f"{_show(what['message'])} from {what['peer']}"
        if kind == "Send":
            return f"to {what['peer']}: {_show(what['message'])}"
        fields = {name: value for name, value in what.items() if name != "kind" and value not in ("", [], None)}
        return f"{kind}({', '.join(f'{name}={_show(value)}' for name, value in fields.items())})"
    if isinstance(what, dict) and "bytes" in what:
        return f"<{what['bytes']} bytes>"
    return str(what)
