"""Signals and finalisers at any moment: afterwards every invariant holds, the tables are empty, the session works.

The number of moments is 300; MINIRAY_TEST_MOMENTS asks for others.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

MOMENTS = int(os.environ.get("MINIRAY_TEST_MOMENTS", "300"))

PRELUDE = """
    import gc, os, random, signal, sys, threading, time
    import numpy as np
    import miniray
    from quiescence import assert_quiet

    @miniray.remote
    def f(x):
        return x

    @miniray.remote
    def nested(x):
        return miniray.get(f.remote(x)) + 1

    @miniray.remote
    class Actor:
        def echo(self, x):
            return x

    miniray.init(num_cpus=2, object_store_memory=100 << 20)
    moments = int(sys.argv[1])
    dice = random.Random(int(sys.argv[2]))
    actor = Actor.remote()

    def submit_and_get(i):
        refs = [f.remote(i), nested.remote(i)]
        assert miniray.get(refs) == [i, i + 1]

    def large(i):
        ref = miniray.put(np.full(20_000, i))
        assert miniray.get(ref)[-1] == i
        assert miniray.get(f.remote(ref))[0] == i

    def boxes(i):
        box = miniray.put([f.remote(i)])
        assert miniray.get(miniray.get(box)[0]) == i

    def calls(i):
        assert miniray.get([actor.echo.remote(i) for _ in range(3)]) == [i] * 3

    def closures(i):
        @miniray.remote
        def inner():
            return i
        assert miniray.get(inner.remote()) == i

    def waits(i):
        refs = [f.remote(j) for j in range(5)]
        ready, rest = miniray.wait(refs, num_returns=3)
        assert len(ready) == 3 and len(rest) == 2
        f.remote(i).future()  # without `result()`: the standard library's Condition is not safe against interrupts

    for work in (submit_and_get, large, boxes, calls, closures, waits):
        work(0)  # what they import is there: the standard library's import leaves files open when interrupted

    def finish():
        global actor
        del actor
        assert miniray.get([nested.remote(i) for i in range(50)], timeout=20) == list(range(1, 51))
        assert_quiet(10)
        f.__init__, nested.__init__  # alive
        print("quiet", flush=True)
        miniray.shutdown()
"""

BY_TIMER = """
    def armed(work, i):
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00001, 0.003))
        try:
            while True:
                work(i)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    signal.signal(signal.SIGALRM, signal.default_int_handler)
    miniray.get(f.remote(0))
    landed = 0
    for i in range(moments):
        try:
            armed(dice.choice([submit_and_get, large, boxes, calls, closures, waits]), i)
        except KeyboardInterrupt:
            landed += 1
    assert landed == moments, landed
    finish()
"""

BY_THREAD = """
    main = threading.main_thread().ident
    miniray.get(f.remote(0))
    wanted, done = threading.Semaphore(0), False

    def interrupt():
        while True:
            wanted.acquire()
            if done:
                return
            time.sleep(dice.uniform(0, 0.003))
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    landed = 0
    for i in range(moments):
        try:
            wanted.release()
            while True:
                submit_and_get(i)
                calls(i)
        except KeyboardInterrupt:
            landed += 1
    done = True
    wanted.release()
    thread.join()
    assert landed == moments, landed
    finish()
"""

FINALISERS = """
    errors = []
    sys.unraisablehook = lambda unraisable: errors.append(repr(unraisable.exc_value))

    class Finalised:
        def __init__(self, action):
            self.action = action
            if dice.random() < 0.7:
                self.cycle = self

        def __del__(self):
            self.action()

    kept = []

    def submit(i):
        return lambda: kept.append(f.remote(i))

    def put(i):
        return lambda: kept.append(miniray.put(i))

    def submit_and_drop(i):
        return lambda: nested.remote(i)

    def drop(i):
        refs = [f.remote(i), miniray.put(np.full(20_000, i))]
        return lambda: refs.clear()

    def use_in_cycle(i):
        ref = miniray.put(i)
        return lambda: kept.append(f.remote(ref))

    def call(i):
        return lambda: actor.echo.remote(i)

    gc.set_threshold(20, 2, 2)  # so that they run anywhere
    for i in range(moments):
        Finalised(dice.choice([submit, put, submit_and_drop, drop, use_in_cycle, call])(i))
        dice.choice([submit_and_get, boxes, calls, closures, waits])(i)
    gc.set_threshold(700, 10, 10)
    gc.collect()
    assert not errors, errors[:3]
    miniray.get(kept, timeout=20)
    kept.clear()
    finish()
"""

LONG_GET = """
    ref = miniray.remote(lambda: time.sleep(60)).remote()
    try:
        print("waits", flush=True)
        if sys.argv[3] == "get":
            miniray.get(ref)
        elif sys.argv[3] == "wait":
            miniray.wait([ref])
        else:
            ref.future().result()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    miniray.cancel(ref, force=True)
    del ref
    finish()
"""


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("how", ["by timer", "by another thread"])
def test_interrupts_at_any_moment(script, how, seed):
    source = PRELUDE + {"by timer": BY_TIMER, "by another thread": BY_THREAD}[how]
    assert script(source, MOMENTS, seed).end() == "quiet\n"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_finalisers_at_any_moment(script, seed):
    assert script(PRELUDE + FINALISERS, MOMENTS, seed).end() == "quiet\n"


@pytest.mark.parametrize("how", ["get", "wait"])
def test_interrupts_end_a_long_wait_at_once(script, how):
    driver = script(PRELUDE + LONG_GET, 0, 0, how)
    assert driver.line() == "waits"
    time.sleep(0.2)  # it is (most likely) waiting by now; a signal before that counts as well
    sent = time.monotonic()
    driver.send(signal.SIGINT)
    assert driver.line() == "interrupted"
    assert time.monotonic() - sent < 10.0, "and not when the task ends"
    assert driver.end() == "quiet\n"


SWALLOWED = """
    @miniray.remote
    def stubborn(i):
        for _ in range(20):
            try:
                time.sleep(0.02)
            except BaseException:
                pass
        return i

    refs = [stubborn.remote(i) for i in range(4)]
    swallowed = rounds = 0
    while swallowed < 3:
        try:
            os.write(1, b"ready\\n")  # one interrupt comes after this call and before the next: all of it in this block
            while True:
                submit_and_get(rounds)
                rounds += 1
        except BaseException as error:
            assert type(error) is KeyboardInterrupt, repr(error)
            swallowed += 1
    assert miniray.get(refs, timeout=20) == [0, 1, 2, 3]
    refs.clear()
    finish()
"""


@pytest.mark.parametrize("group", [False, True])
def test_a_program_that_swallows_interrupts_goes_on(script, group):
    """Nor does anything of it end when a terminal sends them to all of its processes."""
    driver = script(PRELUDE + SWALLOWED, 0, 0)
    for _ in range(3):
        assert driver.line() == "ready"
        if group:
            os.killpg(driver.pid, signal.SIGINT)
        else:
            driver.send(signal.SIGINT)
    assert driver.end() == "quiet\n"


def test_a_second_interrupt_ends_what_the_first_could_not(script):
    """The tasks swallow the one that cancels them; the session ends nevertheless."""
    driver = script(PRELUDE + """
    @miniray.remote
    def endless():
        while True:
            try:
                time.sleep(0.02)
            except BaseException:
                pass

    refs = [endless.remote() for _ in range(3)]
    interrupts = 0
    while interrupts < 2:
        try:
            print("waits", flush=True)
            while True:
                try:
                    miniray.get(refs)
                except miniray.errors.TaskCancelledError:
                    time.sleep(0.01)
        except KeyboardInterrupt:
            interrupts += 1
            for ref in refs:
                miniray.cancel(ref)
    miniray.shutdown()
    print("ended", flush=True)
    """, 0, 0)
    for _ in range(2):
        assert driver.line() == "waits"
        driver.send(signal.SIGINT)
    assert driver.end() == "ended\n"


def test_a_handler_may_use_miniray_and_the_wait_goes_on(script):
    source = PRELUDE + """
    got, number = [], iter(range(10**6))
    signal.signal(signal.SIGALRM, lambda *_: got.append(f.remote(next(number))))  # may interrupt itself
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    ref = miniray.remote(lambda: time.sleep(0.5)).remote()
    assert miniray.get(ref) is None
    for i in range(200):
        submit_and_get(i)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # one may be on its way again
    assert sorted(miniray.get(got)) == list(range(len(got))) and len(got) > 5
    got.clear()
    del ref
    finish()
    """
    assert script(source, 0, 0).end() == "quiet\n"


def test_a_signal_that_was_put_off_ends_no_program_that_has_taken_its_handler_out(script):
    """As whoever sets an alarm around a call does: it went off in the last moment."""
    driver = script(PRELUDE + """
    lock, called = miniray.UnbrokenLock(), []
    for i in range(20):
        before = signal.signal(signal.SIGALRM, lambda *_: called.append(i))
        with lock:
            signal.raise_signal(signal.SIGALRM)
        signal.signal(signal.SIGALRM, before)
        submit_and_get(i)
    signal.signal(signal.SIGALRM, lambda *_: called.append("at the end"))
    with lock:
        signal.raise_signal(signal.SIGALRM)
    miniray.shutdown()
    while "at the end" not in called:
        time.sleep(0.01)
    print("alive", flush=True)
    """, 0, 0)
    assert driver.end() == "alive\n"
