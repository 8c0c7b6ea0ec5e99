"""Options of tasks and actors: checked here, once, when they are given."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from typing import Any

from miniray.core.record import Record
from miniray.core.resources import Demand, demand
from miniray.core.task_spec import TaskOptions

TASK_DEFAULTS: dict[str, Any] = {
    "num_cpus": 1,
    "num_gpus": 0,
    "memory": 0,
    "resources": None,
    "num_returns": 1,
    "max_retries": 3,
    "retry_exceptions": False,
    "writable_arguments": False,
    "raw_output": False,
    "name": None,
}
ACTOR_DEFAULTS: dict[str, Any] = {
    "num_cpus": 0,
    "num_gpus": 0,
    "memory": 0,
    "resources": None,
    "max_restarts": 0,
    "max_task_retries": 0,
    "writable_arguments": False,
    "raw_output": False,
    "name": None,
    "start": "zygote",
}
METHOD_DEFAULTS: dict[str, Any] = {
    "num_returns": 1,
    "max_task_retries": 0,
    "retry_exceptions": False,
    "writable_arguments": False,
    "function": None,
    "name": None,
}
_RETRIES = {"task": "max_retries", "actor": "max_restarts", "method": "max_task_retries"}  # what counts its attempts
_MAX_RETURNS = 1 << 16  # each is a ref, made at the call
_RESERVED = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


class CallOptions(Record, frozen=True):
    """Checked options: what travels with each task, and what the API itself needs."""

    task: TaskOptions
    num_returns: int
    given: dict[str, Any]  # as the user said them, for `.options(...)` on top
    task_retries: int = 0  # of an actor: what its methods' `max_task_retries` begin with


def check(what: str, name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> CallOptions:
    """Options of `what` ("task", "actor", "method") called `name`.

    Raises:
        TypeError: an unknown option, or one of the wrong type.
        ValueError: a number out of range.
    """
    unknown = [option for option in given if option not in defaults]
    if unknown:
        raise TypeError(
            f"{what} {name}: unknown option {', '.join(map(repr, unknown))}; there are: {', '.join(sorted(defaults))}"
        )
    full = {**defaults, **given}
    num_returns = _whole(name, "num_returns", full.get("num_returns", 1), least=0)
    if num_returns > _MAX_RETURNS:
        raise ValueError(f"{name}: num_returns must be at most {_MAX_RETURNS}, not {num_returns}: return a list")
    retries = _whole(name, _RETRIES[what], full[_RETRIES[what]], least=-1)
    task_retries = _whole(name, "max_task_retries", full.get("max_task_retries", 0), least=-1)
    shown = full["name"]
    if shown is not None and not isinstance(shown, str):
        raise TypeError(f"{name}: name must be a str, not {shown!r}")
    retry_on = _retry_on(name, full.get("retry_exceptions", False))
    if what == "method" and retry_on and not task_retries:
        raise ValueError(f"{name}: retry_exceptions needs max_task_retries=N: how often the call may be made again")
    writable = full["writable_arguments"]
    raw = full.get("raw_output", False)
    check_bools(name, writable_arguments=writable, raw_output=raw)
    start = full.get("start", "zygote")
    if start not in ("zygote", "fork"):
        raise ValueError(f"{name}: start must be 'zygote' or 'fork', not {start!r:.80}")
    fork = start == "fork"
    task = TaskOptions(shown or name, demand_of(name, full), retries, retry_on, writable, raw, fork)
    return CallOptions(task, num_returns, dict(given), task_retries)


def runs_later(function: object) -> bool:
    """Whether a call of it runs nothing of it yet: a generator or async function."""
    kinds = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction
    return any(is_kind(function) for is_kind in kinds)


def check_bools(word: str, **given: Any) -> None:
    """Any text is true: `force="no"` would force."""
    for argument, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"{word}: {argument} must be True or False, not {value!r:.80}")


def demand_of(name: str, full: Mapping[str, Any]) -> Demand:
    quantities: dict[str, float] = {}
    for resource, option in _RESERVED.items():
        quantities[resource] = _amount(name, option, full.get(option) or 0)
    extra = full.get("resources")
    if extra is not None:
        if not isinstance(extra, Mapping):
            raise TypeError(f"{name}: resources must be a dict of names to numbers, not {extra!r}")
        for resource, value in extra.items():
            if not isinstance(resource, str):
                raise TypeError(f"{name}: a resource is named by a str, not {resource!r}")
            if resource in _RESERVED:
                raise ValueError(f"{name}: say {_RESERVED[resource]}=... rather than resources={{{resource!r}: ...}}")
            quantities[resource] = _amount(name, f"resources[{resource!r}]", value)
    return demand(quantities)


def _amount(name: str, option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: {option} must be a number, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{name}: {option} must be zero or more, not {value!r}")
    if value >= 2**40:
        raise ValueError(f"{name}: {option} must be below 2**40, not {value!r}")
    return float(value)


def _whole(name: str, option: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: {option} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name}: {option} must be {least} or more, not {value}")
    return value


def _retry_on(name: str, value: Any) -> bytes:
    if value is False or value is None:
        return b""
    if value is True:
        return b"*"
    kinds = tuple(value) if isinstance(value, list | tuple) else None
    if kinds is None or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        raise TypeError(f"{name}: retry_exceptions must be True, False or a list of exception classes, not {value!r}")
    from miniray._serialization.values import serialize

    data = serialize(kinds).to_bytes()
    pickle.loads(data)
    return data
