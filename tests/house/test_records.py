"""The contract between roles: each record has exactly the rows that it needs, and no table a row for nothing."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.house.sources import ROOT, in_room, modules, require, show, subclasses, table, tree

MESSAGES_FILE = ROOT / "miniray/core/messages.py"
ROLES = ("owner", "worker", "node", "control")
MACHINES = ("miniray/core/owner/owner.py", "miniray/core/worker/worker.py", "miniray/core/node/node_manager.py")

# Told to every process: each role there that wants it has a row.
BROADCAST = ("ProcessDied", "NodeDied", "SessionEnded")

MESSAGES = [name for name, file in subclasses("Message", "miniray.core").items() if file == MESSAGES_FILE]


@cache
def handlers() -> dict[str, dict[str, str]]:
    """Record -> role -> the method that its `_on` table, or the `on` of a part, names."""
    found: dict[str, dict[str, str]] = {}
    for role in ROLES:
        for file in in_room(f"miniray.core.{role}").values():
            for key, value in {**table(file, "_on"), **table(file, "on")}.items():
                found.setdefault(key.split(".")[-1], {})[role] = ast.unparse(value)
    return found


@cache
def constructed() -> dict[str, str]:
    """Class name -> a file, other than messages.py, that makes one (calls it, or picks it to be called)."""
    found: dict[str, str] = {}
    for name, file in modules().items():
        if file == MESSAGES_FILE or not name.startswith("miniray."):
            continue
        for node in ast.walk(tree(file)):
            made: list[ast.expr] = []
            if isinstance(node, ast.Call):
                made = [node.func]
            elif isinstance(node, ast.IfExp):
                made = [node.body, node.orelse]
            for expression in made:
                if isinstance(expression, ast.Name | ast.Attribute):
                    found[ast.unparse(expression).split(".")[-1]] = show(file)
    return found


@pytest.mark.parametrize("message", MESSAGES)
def test_each_message_has_one_receiver(message: str) -> None:
    require(*MACHINES)
    roles = sorted(handlers().get(message, {}))
    expected = "at least one role" if message in BROADCAST else "exactly one role"
    assert len(roles) == 1 or (roles and message in BROADCAST), f"{message}: {expected} handles it, but {roles} do"


@pytest.mark.parametrize("message", MESSAGES)
def test_each_message_has_a_sender(message: str) -> None:
    require(*MACHINES, "miniray/_runtime/worker_main.py")
    assert message in constructed(), f"nobody sends {message}"


def test_messages_live_in_one_file() -> None:
    strays = {name: show(file) for name, file in subclasses("Message").items() if file != MESSAGES_FILE}
    assert not strays, strays


def test_tables_of_machines_name_records() -> None:
    known = {*subclasses("Message"), *subclasses("Event")}
    unknown = sorted(set(handlers()) - known)
    assert not unknown, f"{unknown}: rows of an `_on` table are messages and events"


def test_handlers_are_named_for_handling() -> None:
    wrong = {
        record: method
        for record, rows in handlers().items()
        for method in rows.values()
        if not method.split(".")[-1].startswith("_on_")
    }
    assert not wrong, f"{wrong}: handlers are called `_on_<record>`"


@pytest.mark.parametrize("event", subclasses("Event", "miniray.core"))
def test_each_event_is_handled(event: str) -> None:
    require(*MACHINES, "miniray/_runtime/loop.py")
    if event == "Received":
        return  # the envelope: machines dispatch on what is in it
    assert event in handlers(), f"no machine has a row for {event}"


@pytest.mark.parametrize("effect", subclasses("Effect", "miniray.core"))
def test_each_effect_can_be_performed(effect: str) -> None:
    require("miniray/_runtime/perform.py")
    if effect == "Send":
        return  # the loop's own: what a frame holds is decided there
    rows = [key.split(".")[-1] for key in table(ROOT / "miniray/_runtime/perform.py", "PERFORM")]
    assert effect in rows, f"PERFORM has no row for {effect}"


def test_perform_has_no_row_for_nothing() -> None:
    require("miniray/_runtime/perform.py")
    rows = [key.split(".")[-1] for key in table(ROOT / "miniray/_runtime/perform.py", "PERFORM")]
    assert rows, "PERFORM is not a literal dict"
    assert not set(rows) - set(subclasses("Effect"))


def failure_kinds() -> list[str]:
    (found,) = [
        node
        for node in tree(ROOT / "miniray/core/failures.py").body
        if isinstance(node, ast.ClassDef) and node.name == "FailureKind"
    ]
    return [ast.unparse(line.targets[0]) for line in found.body if isinstance(line, ast.Assign)]


@pytest.mark.parametrize("kind", failure_kinds())
def test_each_failure_becomes_an_exception(kind: str) -> None:
    require("miniray/_api/raising.py")
    rows = {
        ast.unparse(key)
        for node in ast.walk(tree(ROOT / "miniray/_api/raising.py"))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if key is not None
    }
    assert f"FailureKind.{kind}" in rows, f"no row for FailureKind.{kind} in a literal dict of _api/raising.py"
