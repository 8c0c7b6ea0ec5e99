"""Driving: which thread polls, and who holds the state (DESIGN.md section 6). Threads are dealt with here alone.

Two things are held:

- the *state lock*: for one or more turns and their effects; never across a poll;
- the *poller token*: one thread is in `poll`. Whoever waits takes it and drives the loop itself: a handoff to another
  thread costs 20 us, a baton and back 39 us, as much as the round trip that is waited for.

A thread that is done hands the token to another waiting thread at once. Only when none waits does the background
thread take it, when for `WATCH_SECONDS` nobody else had it:

    PARKED    someone else has been driving for long; sleeps until the token is free
    WATCHING  looks once a millisecond whether the token lies free (less often while it is taken again and again)
    DRIVING   has the token, and sleeps in `poll` until the loop's deadline or something arrives

A waiter that finds it DRIVING kicks it out of `poll`. Nothing is woken under a lock; three rules do instead:

- *Say, then look.* Whoever is about to sleep first makes that visible (`_parked`, `_background_parked`, `asleep`), and
  then looks once more at what it would sleep through. Whoever changes something does so first, and then looks for
  sleepers. So one of the two sees the other.
- *Whoever leaves passes on* (`_pass_on`), also one that was woken for the token and did not need it any more.
- `asleep` says that the token's holder, whoever it is, polls without a near deadline: who leaves work behind (an
  unflushed push, a dropped ref, a waiter made ready) must rouse it. Otherwise it looks by itself.

A thread that comes back into `post` while it holds the lock (a finaliser, a signal handler) has its event queued; a
blocking call from there, or from within another wait, raises. Hence the lock is an RLock, though it is never taken
twice: it alone knows at every instant whose it is. Signals of the main thread are noted while it is inside
(`signals.py`). `tests/runtime/test_driving.py` tries the interleavings.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from miniray._runtime.loop import Loop
from miniray._runtime.signals import Signals
from miniray._runtime.spinning import Spinner
from miniray._runtime.waiters import Waiter
from miniray.core.record import Event
from miniray.transport import Clock, Transport

WATCH_SECONDS = 0.001
NAP_SECONDS = 0.004  # the same while a thread calls and waits, calls and waits: each look costs it 40 us, and the GIL
HANDOVERS = 2  # of the token within WATCH_SECONDS: that is such a thread
PARK_AFTER_SECONDS = 0.02
NEAR_SECONDS = 0.002  # a deadline nearer than this needs no rousing


class ReentrantWaitError(RuntimeError):
    """A blocking call from within the runtime: by a finaliser or a signal handler that ran inside of it."""

    def __init__(self) -> None:
        super().__init__(
            "a blocking call (get, wait, a put of a large value) was made by a finaliser or signal handler that "
            "interrupted miniray itself; there, only calls that do not block are possible"
        )


class Driving:
    """Runs one process's loop by its own threads.

    Args:
        collect: turns what `__del__`s left behind into events; called under the lock, after other turns.
        left_behind: whether there is something to collect.
        may_spin: whether a waiting thread may look for a moment before it sleeps (`spinning.py`).
        on_broken: a turn has raised, so nothing can be trusted any more: no turn follows, and waits end.
    """

    def __init__(
        self,
        loop: Loop,
        transport: Transport,
        clock: Clock,
        collect: Callable[[], list[Event]],
        left_behind: Callable[[], bool],
        may_spin: Callable[[], bool],
        on_broken: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._clock = clock
        self._collect = collect
        self._left_behind = left_behind
        self._on_broken = on_broken
        self._broken = False
        self._spinner = Spinner(transport, clock, may_spin)
        self._lock = threading.RLock()
        self._is_owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]
        self._deferred: deque[Event] = deque()
        self._token = threading.Lock()
        self._generation = 0  # how often the token was taken
        self._parked: deque[Waiter] = deque()
        self._waiting: dict[int, None] = {}  # the threads inside of `wait`
        self._main_waiter: Waiter | None = None
        self._background: threading.Thread | None = None
        self._background_sleep = threading.Lock()
        self._background_sleep.acquire()
        self._background_parked = False
        self._background_drives = False
        self._token_wanted = False
        self._stopping = False
        self._resend: list[int] = []
        self.asleep = False
        self.signals = Signals(self._wake_main, self._send_again)

    # ---- turns ----

    def post(self, *events: Event) -> None:
        """Step these events now, with what follows, and send what they decide."""
        if self._is_owned():
            self._deferred.extend(events)
            return
        signals = self.signals
        guarded = get_ident() == signals.main
        if guarded:
            signals.depth += 1
        try:
            with self._lock:
                if self._broken:
                    return
                loop = self._loop
                for event in events:
                    loop.turn(event)
                self._finish_turns()
            if self._deferred:  # by a finaliser, after the last look
                self.post()
            elif self.asleep:
                self.rouse()
        except Exception as error:
            self._break(error)
        finally:
            if guarded:
                signals.leave()

    def _break(self, error: Exception) -> None:
        self._broken = True
        self._on_broken(error)  # before any wait looks again
        self._stopping = True
        self.wake_all()

    def _finish_turns(self) -> None:
        """Send what was decided; then what came meanwhile, and drops: nobody waits for them."""
        loop = self._loop
        if loop.outboxes:
            loop.flush()
        while self._deferred or self._left_behind():
            left = self._collect()
            while self._deferred:  # first: a finaliser may have submitted what it has then dropped
                loop.turn(self._deferred.popleft())
            for event in left:
                loop.turn(event)
            if loop.outboxes:
                loop.flush()

    def locked(self, action: Callable[[], Any]) -> Any:
        """Do something small to what the lock protects."""
        if self._is_owned():
            return action()
        guarded = self.signals.enter(get_ident())
        try:
            try:
                with self._lock:
                    return action()
            finally:
                if self._deferred:
                    self.post()
        finally:
            if guarded:
                self.signals.leave()

    # ---- waiting ----

    def wait(self, waiter: Waiter, timeout: float | None = None) -> bool:
        """Drive the loop, or sleep while another thread does, until `waiter` is ready; False after `timeout` seconds.
        With a timeout of 0 it does neither.

        Raises:
            ReentrantWaitError: from within another wait of this thread, or under the lock.
        """
        if timeout is not None and timeout <= 0:
            return waiter.is_ready
        me = get_ident()
        if self._is_owned() or me in self._waiting:
            raise ReentrantWaitError
        deadline = None if timeout is None else self._clock() + timeout
        self.signals.look_again()
        over = False
        while not over:
            guarded = self.signals.enter(me)
            try:
                over = self._wait_guarded(me, waiter, deadline, guarded)
            finally:
                if guarded:
                    self.signals.leave()  # raises what a signal's handler raises; if it does not, the wait goes on
        return waiter.is_ready

    def _wait_guarded(self, me: int, waiter: Waiter, deadline: float | None, guarded: bool) -> bool:
        """Until ready, stopped or late: True; or until a signal has come: False."""
        noted = self.signals.noted if guarded else ()
        over = False
        self._waiting[me] = None
        try:
            while not over and not noted:
                if self._token.acquire(False):
                    try:
                        self._generation += 1
                        self.asleep = True  # say, then look
                        while not (over := waiter.is_ready or self._stopping or self._is_late(deadline)) and not noted:
                            self._poll_once(deadline, spin=True)
                    except Exception as error:
                        self._break(error)
                    finally:
                        self.asleep = False
                        self._token.release()
                else:
                    self._sleep(waiter, deadline, guarded)
                    over = waiter.is_ready or self._stopping or self._is_late(deadline)
        finally:
            del self._waiting[me]
            self._pass_on()
        return over

    def _is_late(self, deadline: float | None) -> bool:
        return deadline is not None and self._clock() >= deadline

    def _poll_once(self, deadline: float | None = None, *, spin: bool = False) -> None:
        """One poll, until the loop's deadline or this one, and the turns that come of it. `asleep` is said already."""
        with self._lock:
            if self._deferred or self._left_behind():  # now, while others work for us
                self._finish_turns()
            due = self._loop.deadline()
        if self._deferred:
            return
        timeout = None
        first = due if deadline is None or (due is not None and due < deadline) else deadline
        if first is not None:
            timeout = max(0.0, first - self._clock())
            if timeout <= NEAR_SECONDS:
                self.asleep = False
        arrivals = self._spinner.look() if spin and timeout != 0.0 else []
        if not arrivals:
            arrivals = self._transport.poll(timeout)
        self.asleep = False
        with self._lock:
            self._loop.receive(arrivals)
            if due is not None and due <= self._clock():
                self._loop.tick()
            self._finish_turns()
        self.asleep = True

    def _sleep(self, waiter: Waiter, deadline: float | None, guarded: bool) -> None:
        """Another thread has the token: sleep until ready, or until it is free."""
        lock = waiter.lock
        if lock is None:
            lock = waiter.lock = threading.Lock()
            lock.acquire()
        self.locked(waiter.before_sleep)
        waiter.parked = True
        self._parked.append(waiter)
        if guarded:
            self._main_waiter = waiter
        try:
            if self._background_drives:
                self._token_wanted = True
                self._transport.wake()
            # Each of these may have come before this waiter could be seen.
            if waiter.is_ready or self._stopping or not self._token.locked() or (guarded and self.signals.noted):
                return
            lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - self._clock()))
        finally:
            if guarded:
                self._main_waiter = None
            self._parked.remove(waiter)
            waiter.parked = False
            lock.acquire(blocking=False)
            self.locked(waiter.after_sleep)

    def _pass_on(self) -> None:
        """If the token is free, a waiting thread takes it, or else the background thread."""
        if self._token.locked():
            return  # its holder will leave, too
        if self._parked:
            for waiter in list(self._parked):
                if not waiter.is_ready:
                    waiter.wake()
                    return
        if self._background_parked:
            self._wake_background()

    def _wake_background(self) -> None:
        self._background_parked = False
        try:
            self._background_sleep.release()
        except RuntimeError:
            pass  # it was just waking up by itself

    def _wake_main(self) -> None:
        """From a signal handler: whatever the main thread waits in returns."""
        waiter = self._main_waiter
        if waiter is not None:
            waiter.wake()
        self._transport.wake()

    # ---- the background thread ----

    def start(self) -> None:
        self._background = threading.Thread(target=self._run_background, name="miniray-loop", daemon=True)
        self._background.start()

    def stop(self) -> None:
        """No thread drives any more; waits end. The background thread is joined."""
        self._stopping = True
        self.wake_all()
        thread = self._background
        if thread is not None and thread is not threading.current_thread():
            while thread.is_alive():
                self._wake_background()
                self._transport.wake()
                thread.join(0.01)

    def wake_all(self) -> None:
        """Every wait looks again at why it waits."""
        self._transport.wake()
        for waiter in list(self._parked):
            waiter.wake()

    def rouse(self) -> None:
        """Work was left behind: the thread that polls looks at it, and at its deadline."""
        self.asleep = False
        self._transport.wake()

    def _send_again(self, number: int) -> None:
        self._resend.append(number)
        if self._background_parked:
            self._wake_background()
        self.rouse()

    def _run_background(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        seen = self._generation
        quiet_since = self._clock()
        pause = WATCH_SECONDS
        while not self._stopping:
            self._background_sleep.acquire(timeout=pause)
            self._send_signals_again()
            pause = NAP_SECONDS if self._generation - seen >= HANDOVERS * pause / WATCH_SECONDS else WATCH_SECONDS
            if self._token.locked():
                if seen == self._generation and self._clock() - quiet_since > PARK_AFTER_SECONDS:
                    self._park()
                    quiet_since = self._clock()
                elif seen != self._generation:
                    quiet_since = self._clock()
                seen = self._generation
            elif seen != self._generation:
                seen, quiet_since = self._generation, self._clock()
            elif not self._parked and self._token.acquire(blocking=False):
                self._background_drive()
                seen, quiet_since = self._generation, self._clock()
        self._send_signals_again()  # none is lost with the session

    def _park(self) -> None:
        self._background_parked = True
        if self._token.locked() and not (self._stopping or self._resend):
            self._background_sleep.acquire()
        self._background_parked = False

    def _background_drive(self) -> None:
        self._background_drives = True
        try:
            self.asleep = True  # say, then look
            while not (self._stopping or self._token_wanted or self._parked or self._resend):
                self._poll_once()
        except Exception as error:
            self._break(error)
        finally:
            self._background_drives = False
            self._token_wanted = False
            self.asleep = False
            self._token.release()
            self._pass_on()

    def _send_signals_again(self) -> None:
        """Not where its handler was taken out meanwhile: it came when that was there, and would end the program now."""
        main = threading.main_thread().ident
        while self._resend and main is not None:
            number = self._resend.pop(0)
            if signal.getsignal(number) is not signal.SIG_DFL:
                signal.pthread_kill(main, number)
