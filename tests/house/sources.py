"""The repository as the laws see it: modules, their syntax trees, and what each imports.

Everything is read once and parsed, never imported: a law must be able to judge a tree that does not run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"miniray": ROOT / "miniray", "miniray_transports": ROOT / "transports"}
# What users import. The first four are for everybody; the others stand on them.
DOORS = (
    "miniray",
    "miniray.errors",
    "miniray.transport",
    "miniray.testing",
    "miniray.pool",
    "miniray.pool_worker",
    "miniray.multiprocessing",
    "miniray.executor",
    "miniray.actor_pool",
    "miniray.queue",
    "miniray.state",
    "miniray.timeline",
    "miniray.integrations",
)


class Import(NamedTuple):
    """One import: the module it leads to, the name taken from it, and when it happens."""

    target: str
    name: str | None  # `from target import name`, where the name is not itself a module of ours
    line: int
    at_load: bool  # at module level, and not for type checkers only
    for_types: bool


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, for both packages."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = file
    return found


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def in_room(room: str) -> dict[str, Path]:
    return {name: file for name, file in modules().items() if within(name, room)}


def show(file: Path, line: int | None = None) -> str:
    return f"{file.relative_to(ROOT)}{'' if line is None else f':{line}'}"


@cache
def imports(module: str) -> tuple[Import, ...]:
    return tuple(_walk_imports(module, tree(modules()[module]), at_load=True, for_types=False))


def _walk_imports(module: str, node: ast.AST, *, at_load: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, None, child.lineno, at_load, for_types)
        elif isinstance(child, ast.ImportFrom):
            source = _absolute(module, child)
            for alias in child.names:
                inner = f"{source}.{alias.name}"
                target, name = (inner, None) if inner in modules() else (source, alias.name)
                yield Import(target, name, child.lineno, at_load, for_types)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _walk_imports(module, child, at_load=False, for_types=for_types)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for part in child.body:
                holder = ast.Module([part], [])
                yield from _walk_imports(module, holder, at_load=False, for_types=True)
            rest = ast.Module(child.orelse, [])
            yield from _walk_imports(module, rest, at_load=at_load, for_types=for_types)
        else:
            yield from _walk_imports(module, child, at_load=at_load, for_types=for_types)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")
    drop = node.level - (modules()[module].name == "__init__.py")
    parts = package[: len(package) - drop]
    return ".".join([*parts, *([node.module] if node.module else [])])


def is_ours(target: str) -> bool:
    return target.split(".")[0] in PACKAGES


def subclasses(of: str, room: str = "miniray") -> dict[str, Path]:
    """Names of the classes that derive, directly or not, from the class named `of`."""
    bases: dict[str, tuple[list[str], Path]] = {}
    for file in in_room(room).values():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = ([ast.unparse(base).split(".")[-1] for base in node.bases], file)
    found: dict[str, Path] = {}
    while new := {
        name: file
        for name, (parents, file) in bases.items()
        if name not in found and any(parent == of or parent in found for parent in parents)
    }:
        found |= new
    return found


def table(file: Path, name: str) -> dict[str, ast.expr]:
    """The literal dict bound to `name` (also `self.name`): key as text -> value. Several are merged.

    It may take in the table `on` of a part, which is a literal in that part's own file.
    """
    found: dict[str, ast.expr] = {}
    for node in ast.walk(tree(file)):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Dict):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(ast.unparse(target).split(".")[-1] == name for target in targets):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if key is None:
                    literal = ast.unparse(value).endswith(".on")
                    assert literal, f"{show(file, node.lineno)}: {name} is no literal table (it unpacks another)"
                    continue
                found[ast.unparse(key)] = value
    return found


def require(*paths: str) -> None:
    """Skip while a file is not written yet; from then on the law holds."""
    absent = [path for path in paths if not (ROOT / path).exists()]
    if absent:
        pytest.skip(f"not written yet: {', '.join(absent)}")
