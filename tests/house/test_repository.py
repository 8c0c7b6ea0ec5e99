"""The repository as a stranger gets it: nothing orphaned, nothing of anybody's workplace, commands that agree."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.house.sources import DOORS, PACKAGES, ROOT, imports, modules, require, show, tree

# Doors and programs: nobody inside needs to import them.
ENTRY_POINTS = (
    *DOORS,
    "miniray.__main__",
    "miniray.cli",
    "miniray._runtime.zygote",  # named in the command that `spawn.py` starts
)
# Tools for users' tests: each is a door of its own.
DOOR_ROOMS = ("miniray.testing.", "miniray.integrations.")

# Written in two halves, so that this file passes its own test.
WORKPLACE = (
    r"/wo" r"rk/",
    r"/tmp/" r"venv",
    r"/ro" r"ot/",
    r"/ho" r"me/\w",
    r"helper " r"session",
    r"issues " r"show",
    r"py" r"pi\.org",
    r"python" r"hosted",
    r"npm" r"js\.",
    r"proxy\.go" r"lang",
    r"index-" r"url",
    r"language " r"model",
    r"\bL" r"LM\b",
    r"cla" r"ude",
    r"anthr" r"opic",
    r"chat" r"gpt",
    r"co" r"pilot",
)
TEXT = (".py", ".md", ".toml", ".txt", ".cfg", ".ini", ".yml", ".yaml", ".ipynb", ".json", ".sh", "")
GENERATED = (".git", ".venv", "build", "dist", "__pycache__", ".hypothesis", ".miniray-failures")


@cache
def texts() -> tuple[Path, ...]:
    """What is generated is not looked into: there, folders come and go while other tests run."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in GENERATED and not name.endswith((".egg-info", "_cache"))]
        found += [Path(folder, name) for name in files if name not in GENERATED]
    return tuple(sorted(file for file in found if file.suffix in TEXT and file.is_file()))


def test_no_word_of_a_workplace() -> None:
    pattern = re.compile("|".join(WORKPLACE), re.IGNORECASE)
    wrong = [
        f"{show(file, number)}: {match.group()}"
        for file in texts()
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert not wrong, "\n".join(wrong)


def mentioned() -> set[str]:
    """Modules that some other module imports, or names as a string (lazy tables, entry points, `-m`)."""
    found = set()
    for module, file in modules().items():
        found |= {use.target for use in imports(module) if use.target != module}
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value, f"miniray.{node.value.lstrip('.')}"} - {module}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = [*project["scripts"].values(), *(v for group in project["entry-points"].values() for v in group.values())]
    return found | {point.split(":")[0] for point in points}


def test_no_orphans() -> None:
    require("miniray/_runtime/loop.py", "miniray/_api/remote.py", "miniray/testing/cluster.py", "transports/local.py")
    named = mentioned()
    orphans = [
        show(file)
        for module, file in modules().items()
        if module not in named and module not in ENTRY_POINTS and not module.startswith(DOOR_ROOMS)
        if file.name != "__init__.py"
    ]
    assert not orphans, f"nobody imports {orphans}"


def test_every_file_is_on_the_code_map() -> None:
    """A row of miniray/README.md names each file; the checkers have a table of their own."""
    code_map = (ROOT / "miniray/README.md").read_text().split("## Code map")[1]
    named = set(re.findall(r"`(?:\w+/)*(\w+\.py)`", code_map))
    files = [file for file in modules().values() if file.name != "__init__.py" and file.parent.name != "checkers"]
    missing = [show(file) for file in files if file.name not in named]
    assert not missing, f"no row of the code map in miniray/README.md says what {missing} are for"


def test_names_of_test_files_are_unique() -> None:
    """pytest imports them by name: two of one name cannot be collected together."""
    names = [path.name for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert not {name for name in names if names.count(name) > 1}


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    there = {module for module, file in modules().items() if file.name == "__init__.py"}
    assert listed == there
    loose = {show(file) for file in modules().values() if not (file.parent / "__init__.py").exists()}
    assert not loose, f"{loose}: their folder has no __init__.py, so no wheel holds them"


def test_nobody_imports_transports_by_name() -> None:
    inside = PACKAGES["miniray_transports"]
    wrong = [
        show(file, found.line)
        for module, file in modules().items()
        if inside not in file.parents
        for found in imports(module)
        if found.target.split(".")[0] in ("miniray_transports", "transports")
    ]
    assert not wrong, f'{wrong}: ask miniray.transport.load("...")'


def test_importing_miniray_is_light() -> None:
    heavy = ("pyarrow", "numpy", "pandas", "asyncio", "multiprocessing", "cloudpickle", "psutil")
    code = f"import sys, miniray; print(*[m for m in {heavy!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not loaded.stdout.split()


def command(name: str) -> str:
    """`NAME="..."` of .ci/run."""
    match = re.search(rf'^{name}="(.+)"$', (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert match, f".ci/run sets no {name}"
    return match.group(1)


@pytest.mark.parametrize("name", ["SETUP", "TESTS"])
def test_readme_and_ci_run_the_same_commands(name: str) -> None:
    require("README.md")
    assert command(name) in (ROOT / "README.md").read_text(), f"README.md does not say: {command(name)}"
