"""What users say of a simulated cluster, looked at before anything runs: a mistake is one error that names it.

`Faults` is a record of records, so it is checked by the types that its fields declare; then comes what is impossible in
a cluster of that size, and would be passed over in silence.
"""

from __future__ import annotations

import inspect
from enum import Enum
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from miniray._api.options import runs_later
from miniray.core.record import Record
from miniray.testing.faults import Faults

_LEAST = ("zero", "one")
_OF_SEVERAL = ("node_crashes", "node_strikes", "control_crashes", "control_breaks")


def check_whole(name: str, given: object, least: int | None = None) -> None:
    """
    Raises:
        TypeError: no whole number.
        ValueError: it is less than `least`.
    """
    expected = f"{name} must be a whole number" + ("" if least is None else f", {_LEAST[least]} or more")
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{expected}, not {given!r:.80}")
    if least is not None and given < least:
        raise ValueError(f"{expected}, not {given}")


def check_allowed(allow: object) -> None:
    """
    Raises:
        TypeError: no errors that a program may end with.
    """
    kinds = allow if isinstance(allow, tuple) else (allow,)
    if kinds is not allow or not all(isinstance(one, type) and issubclass(one, BaseException) for one in kinds):
        raise TypeError(f"allow must be a tuple of exception classes, not {allow!r:.80}")


def what_it_is(program: object) -> str:
    """For an error that refuses it."""
    kind = "the generator or async function " if runs_later(program) else ""
    return f"{kind}{program!r:.80}"


def check_program(program: object) -> None:
    """
    Raises:
        TypeError: it cannot be called without arguments.
    """
    if not callable(program) or runs_later(program):
        raise TypeError(f"simulate takes a plain function without arguments, not {what_it_is(program)}")
    try:
        signature = inspect.signature(program)
    except ValueError:  # nobody knows: something built in
        return
    try:
        signature.bind()
    except TypeError as error:
        name = getattr(program, "__qualname__", "program")
        raise TypeError(
            f"simulate takes a function without arguments, and {name}{signature} needs some ({error}):"
            " give lambda: f(...)"
        ) from None


def check_faults(given: Faults, nodes: int) -> None:
    """
    Raises:
        TypeError, ValueError: a field is wrong.
        ValueError: in a cluster of so many nodes something of it can never happen.
    """
    _check_record("faults", given)
    for name in _OF_SEVERAL:
        if nodes == 1 and getattr(given, name):
            of_control = name.startswith("control")
            why = "but one node has no control store" if of_control else "but the driver's node never crashes"
            raise ValueError(f"faults has {name}, {why}: give nodes=2, or more")
    if nodes == 1 and any(one.between_nodes for one in given.broken_links):
        raise ValueError("faults has a Break between nodes, and there is one node: give nodes=2, or more")
    for one in given.unhealed:
        if not 0 < one.node < nodes:
            raise ValueError(
                f"faults has {one}: of nodes={nodes} those from 1 to {nodes - 1} may stay as they are, and 0, the"
                " driver's, always heals"
            )
    if given.unhealed and not given.heal_after:
        raise ValueError("faults has unhealed nodes, but nothing ever heals: give heal_after, too")
    if len({one.node for one in given.unhealed}) < len(given.unhealed):
        raise ValueError(f"faults has the same node more than once in unhealed: {given.unhealed}")


_types_of = cache(get_type_hints)


def _check_record(name: str, record: Record) -> None:
    for field in record.__struct_fields__:
        _check(f"{name}.{field}", getattr(record, field), _types_of(type(record))[field])


def _check(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is tuple:
        (of, _) = get_args(kind)
        if type(value) is not tuple:
            raise TypeError(f"{name} must be a tuple of {of.__name__}, not {value!r:.80}")
        for index, one in enumerate(value):
            _check(f"{name}[{index}]", one, of)
    elif kind is int:
        check_whole(name, value, 0)
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number, zero or more, not {value!r:.80}")
        if not value >= 0:
            raise ValueError(f"{name} must be a number, zero or more, not {value}")
    elif not isinstance(value, kind):
        of_which = f", one of {', '.join(map(str, kind))}" if issubclass(kind, Enum) else ""
        raise TypeError(f"{name} must be of {kind.__name__}{of_which}, not {value!r:.80}")
    elif isinstance(value, Record):
        _check_record(name, value)
