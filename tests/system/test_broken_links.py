"""A unix socket between two living processes breaks: the code of the simulator, over the transport of one host."""

from __future__ import annotations

import os
import socket
import time

import numpy as np
import pytest
from quiescence import assert_quiet, eventually
from waiting_tasks import started_pids, wait_for

import miniray
from miniray._runtime.context import current
from miniray.errors import ActorUnavailableError


@miniray.remote
class Keeper:
    def __init__(self):
        self.calls = 0
        self.kept = []

    def pid(self):
        return os.getpid()

    def wait_for(self, path, started):
        self.calls += 1
        started.write_text(str(self.calls))
        while not path.exists():
            time.sleep(0.002)
        return self.calls

    def keep(self, box):
        self.kept = box

    def total(self):
        return int(miniray.get(self.kept[0]).sum())


def break_links():
    """Of this process to every worker, at both ends."""
    process = current()
    transport = process.loop._transport
    for peer, link in list(transport._links.items()):
        if peer != transport._broker and link.connection is not None:
            link.connection.shutdown(socket.SHUT_RDWR)


def test_a_call_that_was_under_way_fails_and_the_actor_goes_on(session, tmp_path):
    actor = Keeper.remote()
    pid = miniray.get(actor.pid.remote())
    call = actor.wait_for.remote(tmp_path / "go", tmp_path / "started")
    eventually(lambda: started_pids(tmp_path / "started"), "a start")
    break_links()
    says = r"(?s)wait_for may have run, or not.*called +at \S*test_broken_links.py:\d+ in "
    with pytest.raises(ActorUnavailableError, match=says):
        miniray.get(call)
    later = actor.pid.remote()
    (tmp_path / "go").touch()
    assert miniray.get(later) == pid, "in a new session, after what still ran of the old one"
    del call, later, actor
    assert_quiet()


def test_a_call_with_retries_is_made_again_by_the_same_actor(session, tmp_path):
    actor = Keeper.remote()
    call = actor.wait_for.options(max_task_retries=1).remote(tmp_path / "go", tmp_path / "started")
    eventually(lambda: started_pids(tmp_path / "started"), "a start")
    break_links()
    (tmp_path / "go").touch()
    assert miniray.get(call) == 2
    del call, actor
    assert_quiet()


def test_a_leased_worker_ends_before_its_task_runs_elsewhere(session, tmp_path):
    ref = wait_for.remote(tmp_path / "go", tmp_path / "started")
    (first,) = eventually(lambda: started_pids(tmp_path / "started"), "a start")
    break_links()
    second = eventually(lambda: started_pids(tmp_path / "started")[1:], "a second start")
    assert not os.path.exists(f"/proc/{first}/fd/0"), "the first must not run beside the second"
    (tmp_path / "go").touch()
    assert [miniray.get(ref)] == second
    del ref
    assert_quiet()


def test_a_holder_keeps_what_it_holds(session):
    actor = Keeper.remote()
    ref = miniray.put(np.arange(500_000))
    miniray.get(actor.keep.remote([ref]))
    break_links()
    del ref
    assert miniray.get(actor.total.options(max_task_retries=-1).remote()) == 499_999 * 250_000
    break_links()
    assert miniray.get(actor.pid.options(max_task_retries=-1).remote())
    miniray.get(actor.keep.remote([]))
    del actor
    assert_quiet()
