"""The layers (DESIGN.md section 4): imports run downward only, and each foreign package has its rooms.

The longest room that contains a module is its row. A room may always import itself, but no module may take
part in a circle of imports.
"""

from __future__ import annotations

import ast
import sys

import pytest

from tests.house.sources import DOORS, imports, is_ours, modules, show, tree, within

L0 = (
    "miniray.core.record",
    "miniray.core.ids",
    "miniray.core.resources",
    "miniray.core.failures",
    "miniray.core.task_spec",
)
L1 = ("miniray.core.messages", "miniray.core.machine")
TOP = (*DOORS[4:], "miniray.cli", "miniray.dashboard", "miniray.demo", "miniray.__main__")

# room -> the rooms it may import. Not listed: nothing of ours but itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "miniray.core": (),
    "miniray.core.record": (),
    "miniray.core.ids": (),
    "miniray.core.resources": L0,
    "miniray.core.failures": L0,
    "miniray.core.task_spec": L0,
    "miniray.core.messages": L0,
    "miniray.core.machine": L0,
    "miniray.core.owner": (*L0, *L1),
    "miniray.core.worker": (*L0, *L1),
    "miniray.core.node": (*L0, *L1),
    "miniray.core.control": (*L0, *L1),
    "miniray.errors": (),
    "miniray.transport": ("miniray.core.record", "miniray.core.ids", "miniray.core.machine"),
    "miniray_transports": (
        "miniray.transport",
        "miniray.core.ids",
        "miniray.core.record",
        "miniray.core.machine",
    ),
    "miniray._store": (*L0, "miniray.errors"),
    "miniray._serialization": (*L0, "miniray.errors"),
    "miniray._runtime": (
        "miniray.core",
        "miniray.transport",
        "miniray._store",
        "miniray._serialization",
        "miniray.errors",
    ),
    "miniray._api": (
        *L0,
        *L1,
        "miniray._runtime",
        "miniray.errors",
        "miniray._serialization",  # it makes bytes of arguments and values of bytes; see miniray/README.md
        "miniray.core.owner.events",  # what it tells the owner role
    ),
    "miniray.testing": (
        "miniray.core",
        "miniray.transport",
        "miniray.errors",
        "miniray._runtime",  # it runs the shipping process, executor and loop
        "miniray._serialization.namespaces",  # and names what by-value functions come from
        "miniray._serialization.by_value",  # which is numbered anew in each run
        "miniray._store",
        "miniray._api",
        "miniray",
    ),
    "miniray": ("miniray._api", "miniray.errors", *TOP),
    **{room: (*DOORS, *TOP) for room in TOP},
    "miniray.pool_worker": ("miniray", "miniray.errors"),  # it is imported in each worker, so it stays small
}

# These grant only the module itself, not what lies in the package of that name.
EXACT = ("miniray",)

# Foreign packages at module level. Elsewhere they are imported inside a function, when a value needs them.
FOREIGN: dict[str, tuple[str, ...]] = {
    "miniray.core.record": ("msgspec",),
    "miniray._store": ("pyarrow", "numpy"),
    "miniray._serialization": ("pyarrow", "numpy", "cloudpickle"),
    "miniray._runtime": ("psutil",),
    "miniray.testing": ("hypothesis",),
    "miniray.testing.plugin": ("pytest",),
    "miniray.demo": ("numpy", "tqdm"),
}
ONLY_THERE = {  # at no level outside; who wants cloudpickle early imports miniray._serialization early
    "msgspec": ("miniray.core.record",),
    "cloudpickle": ("miniray._serialization",),
    "pyarrow": ("miniray._store", "miniray._serialization", "miniray.testing", *TOP),
}
PURE = ("miniray.core", "miniray.transport", "miniray.errors", "miniray_transports")  # nothing foreign at any level


def room_of(module: str, rooms: dict[str, tuple[str, ...]]) -> str | None:
    return max((room for room in rooms if within(module, room)), key=len, default=None)


def allowed(module: str, target: str) -> bool:
    room = room_of(module, MAY_IMPORT)
    assert room is not None, f"{module} has no room in MAY_IMPORT"
    if room != "miniray" and room_of(target, MAY_IMPORT) == room:
        return True
    return any(target == grant if grant in EXACT else within(target, grant) for grant in MAY_IMPORT[room])


@pytest.mark.parametrize("module", modules())
def test_imports_run_downward(module: str) -> None:
    wrong = [
        f"{show(modules()[module], found.line)}: {module} may not import {found.target}"
        for found in imports(module)
        if is_ours(found.target) and found.target != module and not allowed(module, found.target)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_row_of_its_own_room() -> None:
    strays = [
        name
        for name in modules()
        if name not in PURE and name != "miniray" and room_of(name, MAY_IMPORT) in ("miniray", "miniray.core")
    ]
    strays = [name for name in strays if name != "miniray.core"]
    assert not strays, f"{strays}: which layer? Give each a row in MAY_IMPORT (DESIGN.md section 4 asks in this order)"


@pytest.mark.parametrize("module", modules())
def test_foreign_packages_stay_in_their_rooms(module: str) -> None:
    room = room_of(module, FOREIGN)
    at_load = FOREIGN[room] if room else ()
    pure = any(within(module, place) for place in PURE)
    wrong = []
    for found in imports(module):
        top = found.target.split(".")[0]
        if top in sys.stdlib_module_names or is_ours(found.target) or top in at_load:
            continue
        homes = ONLY_THERE.get(top)
        away = homes is not None and not any(within(module, home) for home in homes)
        if (found.at_load or pure or away) and not found.for_types:
            wrong.append(f"{show(modules()[module], found.line)}: {top}{' at module level' if found.at_load else ''}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [name for name in modules() if any(within(name, room) for room in TOP)])
def test_top_rooms_use_public_names_only(module: str) -> None:
    wrong = [
        f"{show(modules()[module], found.line)}: {found.target}.{found.name}"
        for found in imports(module)
        if is_ours(found.target) and f"{found.target}.{found.name or ''}".find("._") >= 0
        and found.name != "__version__"
    ]
    for node in ast.walk(tree(modules()[module])):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "miniray":
            if (node.attr.startswith("_") and node.attr != "__version__") or node.attr == "core":
                wrong.append(f"{show(modules()[module], node.lineno)}: miniray.{node.attr}")
    assert not wrong, "an outsider could not have written this (law 6):\n" + "\n".join(wrong)


def test_no_circles() -> None:
    edges = {
        module: [found.target for found in imports(module) if found.at_load and found.target in modules()]
        for module in modules()
    }
    done: dict[str, None] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module in done:
            return
        for target in edges[module]:
            visit(target, (*path, module))
        done[module] = None

    for module in edges:
        visit(module, ())
