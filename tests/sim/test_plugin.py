"""The fixture `simulated_cluster` in a user's project: what fails prints the line that replays it, misuse is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import miniray
from miniray.cli import main

BANK = '''
import pytest
from hypothesis import given, strategies as st

import miniray
from miniray.testing import explore

@miniray.remote
class Account:
    def __init__(self):
        self.money = 0

    def get(self):
        return self.money

    def set(self, money):
        self.money = money

@miniray.remote
def pay(account, amount):
    miniray.get(account.set.remote(miniray.get(account.get.remote()) + amount))

runs = []

@pytest.mark.simulated(seeds=3, faults="none")
def test_right(simulated_cluster):
    account = Account.remote()
    miniray.get(pay.remote(account, 3))
    assert miniray.get(account.get.remote()) == 3
    runs.append(1)

def test_it_ran_so_often():
    assert len(runs) == 3

@pytest.mark.simulated(seeds=100, faults="delays", num_cpus=3)
@pytest.mark.parametrize("amount", [1, "a/b"])
def test_lost_update(simulated_cluster, amount):
    account = Account.remote()
    miniray.get([pay.remote(account, 1) for _ in range(2)])
    assert miniray.get(account.get.remote()) == 2, amount

@pytest.mark.usefixtures("simulated_cluster")
class TestAccount:
    def test_wrong(self):
        assert miniray.get(Account.remote().get.remote()) == 1

@pytest.fixture
def account(simulated_cluster):
    return Account.remote()

def test_outside(account):
    pass

@pytest.mark.simulated
def test_no_fixture():
    pass

@explore
def test_twice(simulated_cluster):
    pass

@given(st.integers())
def test_given(simulated_cluster, number):
    pass
'''


def run(folder: Path, text: str, *options: str) -> str:
    (folder / "test_bank.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "miniray.testing.plugin", "--strict-markers", *options]
    command.append("--color=no")
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110).stdout


def test_in_a_users_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(tmp_path, BANK)
    assert "3 failed, 2 passed, 4 errors" in told.splitlines()[-1], told
    files = list(dict.fromkeys(re.findall(r"miniray replay (\S+)", told)))  # CI has them in its summary, too
    names = [r"test_lost_update-1-\w{6}-\d+", r"test_lost_update-a-b-\w{6}-\d+", "TestAccount-test_wrong-0"]
    assert len(files) == len(names)
    for file, name in zip(files, names, strict=True):
        assert re.fullmatch(rf"\.miniray-failures/{name}\.json", file)
    monkeypatch.chdir(tmp_path)
    assert main(["replay", files[0]]) == 0 and "test_bank.py" in capsys.readouterr().out
    for why in (
        "a fixture began a session beside simulated_cluster",
        "the mark 'simulated' is for tests that take the fixture",
        "simulated_cluster and @explore are the same",
        "simulated_cluster is not for @given",
    ):
        assert why in told
    assert not re.search(r"miniray/testing/\w+\.py:\d+:", told), "frames of miniray.testing are shown"


def test_more_seeds_for_all(tmp_path: Path) -> None:
    told = run(tmp_path, BANK, "--miniray-seeds", "5", "-k", "right or often")
    assert "assert 5 == 3" in told and "1 failed, 1 passed" in told.splitlines()[-1]


LAZY = """
import sys

def test_nothing_is_loaded():
    loaded = {"hypothesis", "pyarrow", "numpy", "cloudpickle", "miniray._runtime", "miniray._api"} & set(sys.modules)
    assert "miniray.testing.plugin" in sys.modules and not loaded
"""


def test_who_does_not_ask_for_it_loads_nothing(tmp_path: Path) -> None:
    told = run(tmp_path, LAZY)
    assert "1 passed" in told.splitlines()[-1], told


def test_pytest_finds_it_by_itself() -> None:
    file = Path(miniray.__file__).parent.parent / "pyproject.toml"
    points = tomllib.loads(file.read_text())["project"]["entry-points"]["pytest11"]
    assert points == {"miniray.testing.plugin": "miniray.testing.plugin"}
