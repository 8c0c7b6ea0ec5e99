"""Ctrl-C at every place of the runtime and the API where Python can run a handler, one a run.

These places are after a call, at the start of a function and at the end of a loop's body; all of them with `CI=true`,
otherwise one in `STRIDE`.
Afterwards no lock, token or stretch is held, the interrupt was raised exactly once, the session works, and when the
refs are gone the tables are empty: nothing that was decided was lost. `tests/system/test_interrupts.py` does the same
with real signals, at random.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import miniray
from miniray._runtime.newborn import live
from miniray._runtime.signals import Signals, UnbrokenLock, Wrapper, unbroken
from tests.places import Places
from tests.runtime.scripted_cluster import ScriptedCluster

STRIDE = 1 if os.environ.get("CI") == "true" else 3
PACKAGE = str(Path(miniray.__file__).parent)
WATCHED = (os.path.join(PACKAGE, "_runtime", ""), os.path.join(PACKAGE, "_api", ""))


@pytest.fixture
def cluster() -> Iterator[ScriptedCluster]:
    made = ScriptedCluster()
    gc.disable()  # its finalisers are places too, but not at the same count in each run
    yield made
    gc.enable()
    made.close()


def submits_and_gets(f: Any) -> None:
    refs = [f.remote(number) for number in range(2)]
    assert miniray.get(refs) == [0, 1]
    assert miniray.get(f.remote("x")) == "x"


def waits(f: Any) -> None:
    refs = [f.remote(number) for number in range(3)]
    ready, rest = miniray.wait(refs, num_returns=2, timeout=60)
    assert len(ready) == 2 and len(rest) == 1
    miniray.wait(refs, num_returns=3, timeout=0.5)


def puts_and_passes_on(f: Any) -> None:
    ref = miniray.put([1])
    assert miniray.get(ref) == [1]
    miniray.cancel(f.remote(f.remote(2)))
    del ref
    miniray.get(f.remote(3))


def makes_functions(f: Any) -> None:
    assert miniray.get(miniray.remote(lambda x: x).remote(4)) == 4


PROGRAMS = (submits_and_gets, waits, puts_and_passes_on, makes_functions)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_ctrl_c_at_every_place(
    cluster: ScriptedCluster, program: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    f = miniray.remote(lambda x: x)
    miniray.get(f.remote(0))
    for strike_at in itertools.count(1, STRIDE):
        places = Places(strike_at, cluster.interrupt, WATCHED)
        interrupts = 0
        try:
            places.run(lambda: program(f))
        except KeyboardInterrupt as error:
            error.__traceback__ = None  # it holds refs
            interrupts += 1
        if not places.struck:
            break
        try:
            interrupts += len(cluster.resent)
            cluster.resent.clear()
            cluster.check_released()
            assert interrupts == 1, f"raised {interrupts} times"
            assert miniray.get(f.remote(5)) == 5
            cluster.check_quiet()
        except BaseException as error:
            error.add_note(f"interrupted at place {strike_at}: {places.struck}")
            raise
    with capsys.disabled():
        print(f" [{strike_at - 1:,} places]", end="")


# ---- handlers


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGUSR1)}
    yield Signals(lambda: None, lambda number: None)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_handler_may_call_the_one_before_it(signals: Signals) -> None:
    """The commonest way to add a handler; one wrapper for all would call itself without end."""
    calls: list[str] = []
    signal.signal(signal.SIGALRM, lambda number, frame: calls.append("first"))
    signals.install()
    before: Any = signal.getsignal(signal.SIGALRM)

    def second(number: int, frame: FrameType | None) -> None:
        calls.append("second")
        before(number, frame)

    signal.signal(signal.SIGALRM, second)
    signals.look_again()
    assert isinstance(signal.getsignal(signal.SIGALRM), Wrapper)
    signal.raise_signal(signal.SIGALRM)
    assert calls == ["second", "first"]
    for _ in range(3):  # wrapped already: no chain of wrappers
        signal.signal(signal.SIGALRM, before)
        signals.look_again()
    assert signal.getsignal(signal.SIGALRM) is before
    signals.uninstall()
    signal.raise_signal(signal.SIGALRM)
    assert calls == ["second", "first", "first"]


def test_every_signal_that_was_noted_is_handled_though_the_first_raises(signals: Signals) -> None:
    calls: list[int] = []

    def raises(number: int, frame: FrameType | None) -> None:
        calls.append(number)
        raise TimeoutError

    signal.signal(signal.SIGALRM, raises)
    signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(number))
    signals.install()
    assert signals.enter(threading.get_ident())
    for _ in range(2):
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGUSR1)
    assert not calls
    with pytest.raises(TimeoutError):
        signals.leave()
    assert sorted(calls) == sorted([signal.SIGALRM, signal.SIGUSR1])
    assert not signals.noted and not signals.depth
    signals.uninstall()


def test_the_main_thread_is_guarded_by_whoever_begins_a_session() -> None:
    """At once, and not only when it waits; and afterwards it is not, however often that was."""

    def in_another_thread(action: Callable[[], None]) -> None:
        thread = threading.Thread(target=action)
        thread.start()
        thread.join()

    before = signal.getsignal(signal.SIGINT)
    for _ in range(3):
        another = Signals(lambda: None, lambda number: None)
        in_another_thread(another.install)
        guarded = signal.getsignal(signal.SIGINT)
        assert isinstance(guarded, Wrapper) and guarded.signals is another
        in_another_thread(another.uninstall)
        assert signal.getsignal(signal.SIGINT) is before


# ---- locks


def hold_in_another_thread(lock: UnbrokenLock, until: threading.Event) -> threading.Thread:
    is_held = threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            assert until.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(30)
    return holder


def test_no_handler_runs_where_a_lock_is_held(cluster: ScriptedCluster) -> None:
    lock = UnbrokenLock()
    with lock, lock:
        cluster.interrupt(sys._getframe())
    assert cluster.resent == [signal.SIGINT], "it comes again"
    with lock, pytest.raises(ZeroDivisionError):
        _ = 1 // 0
    with pytest.raises(KeyboardInterrupt):
        cluster.interrupt(sys._getframe())
    assert not lock.is_mine()


def test_a_new_handler_is_guarded_against_from_the_next_lock_on(signals: Signals) -> None:
    signals.install()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    resent: list[int] = []
    signals._resend = resent.append
    with UnbrokenLock():
        signal.raise_signal(signal.SIGALRM)
    assert resent == [signal.SIGALRM]
    signals.uninstall()


def test_a_lock_held_by_another_thread_is_waited_for_unbroken(signals: Signals) -> None:
    """The wait for it may be that of a `finally`, which is done to its end."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signals.install()
    lock, resent = UnbrokenLock(), threading.Event()
    signals._resend = lambda number: resent.set()
    holder = hold_in_another_thread(lock, resent)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with lock:
        assert resent.is_set()
    holder.join(30)
    signals.uninstall()


def test_a_lock_that_the_parent_held_defers_nothing_in_a_forked_child(signals: Signals) -> None:
    with UnbrokenLock():
        child = os.fork()
        if child == 0:
            Signals(lambda: None, lambda number: os._exit(1)).handle(lambda *_: os._exit(0), signal.SIGALRM, None)
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_that_lets_go_of_its_parents_lock_defers_nothing_afterwards() -> None:
    lock, parent = UnbrokenLock(), os.getpid()
    with lock:
        child = os.fork()
    if os.getpid() != parent:
        Signals(lambda: None, lambda number: os._exit(1)).handle(lambda *_: os._exit(0), signal.SIGALRM, None)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_newborn_process_is_not_in_the_unbroken_code_that_forked_it_and_holds_no_lock() -> None:
    lock = UnbrokenLock()

    def be_born() -> None:
        free = threading.Event()
        threading.Thread(target=lambda: lock.__enter__() or free.set(), daemon=True).start()
        assert free.wait(10)
        there = Signals(lambda: None, lambda number: os._exit(1))
        there.handle(lambda *_: os._exit(0), signal.SIGALRM, sys._getframe())

    @unbroken
    def fork() -> int:
        with lock:
            return os.fork() or live(be_born)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(), 0)[1]) == 0


def test_a_lock_that_another_thread_held_is_free_in_a_forked_child() -> None:
    """A pool's own thread may hold the pool's at any moment; the child is to be told that the pool is not its own."""
    lock, may_end = UnbrokenLock(), threading.Event()
    holder = hold_in_another_thread(lock, may_end)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)  # ends it, if it waits
        with lock, lock:
            os._exit(0)
    may_end.set()
    holder.join(30)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
