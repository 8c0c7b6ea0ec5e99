"""A driver process whose node and worker are a script: everything above the transport is the shipping code.

One thread, no sleep: `poll` hands out what the script has answered; one without end that nothing can end fails.
"""

from __future__ import annotations

import pickle
import signal
import threading
from collections import deque
from types import FrameType
from typing import Any

import miniray._api.objects  # noqa: F401  registers how refs are pickled
from miniray._runtime import context
from miniray._runtime.driving import Driving
from miniray._runtime.loop import Loop
from miniray._runtime.perform import rows_for
from miniray._runtime.process import Process
from miniray._runtime.wire import decode, encode
from miniray.core.ids import DRIVER_NUMBER, NODE_NUMBER, LeaseId, ProcessId, process_id
from miniray.core.messages import LeaseGranted, PushTasks, RequestLease, TasksDone
from miniray.core.owner.owner import Owner
from miniray.core.task_spec import Inline, PushedTask, TaskResult
from miniray.transport import Arrival, Frame
from tests.runtime.interleavings import fail_with

ME, NODE, WORKER = (process_id(b"test", number) for number in (DRIVER_NUMBER, NODE_NUMBER, 7))
KEPT = ("functions", "leases")  # what an idle owner may hold on to


class ScriptedCluster:
    """Grants every lease, and answers each task with its first argument."""

    def __init__(self) -> None:
        self.now = 0.0
        self.woken = False
        self.answers: deque[Arrival] = deque()
        self.leases = 0
        self.owner = Owner(ME, NODE)
        self.process = Process(ME, self.owner, None)
        rows = rows_for(process=self.process)
        self.loop = Loop(ME, (self.owner,), self, self.clock, rows, lambda token: None, self._on_lost)
        process = self.process
        self.driving = Driving(
            self.loop, self, self.clock, process.collect, process.left_behind, lambda: False, fail_with
        )
        self.resent: list[int] = []
        self.driving.signals._resend = self.resent.append  # what the background thread would do
        process.run_by(self.driving, self.loop)
        context.set_current(process)

    def close(self) -> None:
        """Both of the transport and of the test."""
        context.set_current(None)

    def clock(self) -> float:
        return self.now

    def interrupt(self, frame: FrameType | None) -> None:
        """Ctrl-C."""
        self.driving.signals.handle(signal.default_int_handler, signal.SIGINT, frame)

    def check_released(self) -> None:
        """Nothing is held, and nobody is inside."""
        driving = self.driving
        assert driving.signals.depth == 0 and not driving.signals.noted
        assert not driving._is_owned() and not driving._token.locked() and not driving.asleep
        assert not driving._waiting and not driving._parked and not driving._deferred and driving._main_waiter is None
        assert not self.process.waiters._waiting, "waiters were left behind"
        free: list[bool] = []
        other = threading.Thread(target=lambda: free.append(driving.locked(lambda: True)))
        other.start()
        other.join(10.0)
        assert free, "the state lock is held"

    def check_quiet(self) -> None:
        """All refs are dropped: every table of the owner is empty but for what it keeps."""
        while self.process.left_behind() or self.answers:
            self.driving._poll_once(self.now)
        self.driving.asleep = False
        self.loop.check()
        left = {name: count for name, count in self.owner.statistics().items() if count and name not in KEPT}
        assert not left, f"left behind: {left}"

    def _on_lost(self, peer: ProcessId, reason: str) -> None:
        raise AssertionError(reason)

    # ---- the transport

    def connect(self, peer: ProcessId) -> None:
        pass

    def disconnect(self, peer: ProcessId) -> None:
        raise AssertionError("nobody is to be given up")

    def send(self, peer: ProcessId, frame: bytes) -> None:
        for message in decode(frame):
            if isinstance(message, RequestLease):
                self.leases += 1
                self._answer(NODE, LeaseGranted(message.request, LeaseId(self.leases), WORKER))
            elif isinstance(message, PushTasks):
                self._answer(WORKER, TasksDone([self._run(task) for task in message.tasks]))

    def poll(self, timeout: float | None) -> list[Arrival]:
        if not self.answers and not self.woken:
            assert timeout is not None, "sleeps without end"
            self.now += timeout
        self.woken = False
        return [self.answers.popleft()] if self.answers else []

    def wake(self) -> None:
        self.woken = True

    def watch(self, descriptor: int, token: Any) -> None: ...

    def _answer(self, peer: ProcessId, message: Any) -> None:
        self.answers.append(Frame(peer, encode([message])))

    def _run(self, task: PushedTask) -> TaskResult:
        args, _ = pickle.loads(task.payload) if task.payload else ((0,), {})
        return TaskResult(task.task_id, task.attempt, (Inline(pickle.dumps(args[0])),))
