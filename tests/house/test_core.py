"""Core decides and does nothing else (laws 1, 5 and 9): no clock, no dice, no system, no order by hash."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.sources import imports, in_room, is_ours, show, tree

CORE = in_room("miniray.core")

# What a decision can need. Everything else (time, random, os, threading, logging, asyncio, socket, secrets, uuid,
# datetime, pickle ...) reads or changes the world: it is an effect, and its result an event.
STANDARD = frozenset(
    (
        "__future__ abc bisect collections dataclasses enum functools heapq itertools math operator struct types typing"
    ).split()
)
DOES = frozenset("open print input exec eval compile __import__ breakpoint".split())
DIFFERS_FROM_RUN_TO_RUN = frozenset(("id", "hash"))


@pytest.mark.parametrize("module", CORE)
def test_core_reads_no_clock_and_rolls_no_dice(module: str) -> None:
    wrong = [
        f"{show(CORE[module], found.line)}: {found.target}"
        for found in imports(module)
        if not is_ours(found.target) and found.target.split(".")[0] not in STANDARD
        if (module, found.target) != ("miniray.core.record", "msgspec")
    ]
    assert not wrong, "law 1 (a machine is told the time and the choice):\n" + "\n".join(wrong)


@pytest.mark.parametrize("module", CORE)
def test_core_calls_no_builtin_that_does_or_differs(module: str) -> None:
    wrong = [
        f"{show(CORE[module], node.lineno)}: {node.func.id}()"
        for node in ast.walk(tree(CORE[module]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in DOES | DIFFERS_FROM_RUN_TO_RUN
    ]
    assert not wrong, "\n".join(wrong)


def makes_a_set(node: ast.AST) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("set", "frozenset")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Sub | ast.BitXor):
        return any(  # `a.keys() & b.keys()` is a set
            isinstance(side, ast.Call) and isinstance(side.func, ast.Attribute) and side.func.attr in ("keys", "items")
            for side in (node.left, node.right)
        )
    return False


def membership_operands(file: Path) -> Iterator[ast.AST]:
    """What stands on the right of `in` and `not in`: a set there is asked, never iterated."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Compare):
            for operator, operand in zip(node.ops, node.comparators, strict=True):
                if isinstance(operator, ast.In | ast.NotIn):
                    yield operand


def set_constants(file: Path) -> dict[str, ast.expr]:
    """Module-level `NAME = frozenset(...)` or `NAME = {...}`."""
    found = {}
    for node in tree(file).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and makes_a_set(node.value):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id.lstrip("_").isupper():
                found[target.id] = node.value
    return found


@pytest.mark.parametrize("module", CORE)
def test_core_makes_no_set_that_it_could_iterate(module: str) -> None:
    file = CORE[module]
    asked = [*membership_operands(file), *set_constants(file).values()]
    exempt = {id(inner) for operand in asked for inner in ast.walk(operand)}
    wrong = [
        f"{show(file, node.lineno)}: {ast.unparse(node)}"
        for node in ast.walk(tree(file))
        if isinstance(node, ast.expr) and makes_a_set(node) and id(node) not in exempt
    ]
    assert not wrong, "law 5 (bytes hash differently from run to run; use a dict):\n" + "\n".join(wrong)


def test_constant_sets_of_core_are_only_asked() -> None:
    names = {name for file in CORE.values() for name in set_constants(file)}
    wrong = []
    for file in CORE.values():
        asked = {id(operand) for operand in membership_operands(file)}
        for node in ast.walk(tree(file)):
            read = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names
            if read and id(node) not in asked:
                wrong.append(f"{show(file, node.lineno)}: {node.id}")
    assert not wrong, "\n".join(wrong)
