"""Workers that are forked from the driver, as `multiprocessing` starts its own on Linux (DESIGN.md section 5).

An actor of the driver that is made with `start="fork"` inherits: its class and arguments are not pickled, and whatever
the driver has at that moment, the worker has, too. Once it is there it is a worker like any other.

    driver: create --RequestLease(fork)--> node --Fork(number, task), its link--> driver: forks --Started--> node
                                                                                  reaps --Exited--> node

- The node treats the driver as another zygote: it decides, numbers and grants; here is forked and reaped.
- Whoever makes the actor waits until its process exists, and its own thread forks it, under the state lock. So what is
  inherited is what there was at that line; and what this thread holds (an import, a lock that may be taken again), the
  worker's main thread holds. Another thread would leave it held by nobody.
- Views of stored values are views in the child, too; the driver holds these values for it.
- An actor that is restarted is forked by whichever thread hears of that, and inherits what there is then.
- Other threads are not there in the child. What they held at the fork stays held: the runtime's own locks are all left
  behind with the driver's `Process`; those of the user's program are as `multiprocessing` would have them.
- The parent-death signal follows the thread that forked, so that it is set by the main thread only. In any case the
  node ends the driver's children when the driver dies, and they end themselves when the node does.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from miniray._runtime import lifelines
from miniray._runtime.newborn import flush, live
from miniray._runtime.process import Process, Registered
from miniray._runtime.signals import unbroken
from miniray._runtime.spawn import (
    WORKER_VARIABLE,
    Channel,
    Endowment,
    Exited,
    Fork,
    Inheritance,
    Started,
    StartFailed,
    decode_request,
    mark_of,
)
from miniray._runtime.waiters import Waiter
from miniray.core.failures import UNKNOWN_STATUS
from miniray.core.ids import SESSION_BYTES, ObjectId, TaskId, process_id, return_id
from miniray.core.owner.events import ViewHeld
from miniray.errors import SessionError

if TYPE_CHECKING:
    from miniray._serialization.forked import Inherited

FORK_SECONDS = 60.0  # how long whoever makes such an actor waits for the node to ask for its process
REAP_SECONDS = 3.0  # what has not died of SIGKILL by then hangs in the kernel
LINE = "forks"


class _Child(NamedTuple):
    number: int
    pidfd: int
    viewed: list[ObjectId]  # it has inherited views of these, and so they stay where they are while it lives


class _Expected:
    """Somebody makes an actor, and waits for the node's request."""

    def __init__(self, creation: ObjectId) -> None:
        self.waiter = Waiter([creation])
        self.request: tuple[Fork, int] | None = None
        self.inherited: Inherited | None = None


class Forks:
    """The driver's side. All of it but `create` is called under the state lock.

    Args:
        line: to the node.
        watch: has `on_readable` called with this token when this descriptor becomes readable.
        endow: what a worker with this number and link is born with.
    """

    def __init__(
        self,
        process: Process,
        line: Channel,
        watch: Callable[[int, Any], None],
        endow: Callable[[int, socket.socket, Inheritance], Endowment],
    ) -> None:
        self._process = process
        self._line = line
        self._watch = watch
        self._endow = endow
        self._expected: dict[TaskId, _Expected] = {}
        self._inheritance = Inheritance(process, {})
        self._inherited: Inherited | None = None  # what the last one that was forked has
        self._children: dict[int, _Child] = {}  # by pid
        watch(line.fileno(), LINE)

    # ---- making an actor ----

    @contextmanager
    def creating(
        self, task: TaskId, creation: tuple[type[Any], tuple[Any, ...], dict[str, Any]]
    ) -> Iterator[Callable[[], Inherited | None]]:
        """Inside, the actor is submitted; then what this gives is called, which returns when its process exists, with
        what that has inherited and need not be sent.

        Raises:
            SessionError: the node has asked for no process in time.
        """
        for needed in ("miniray._runtime.worker_main", "miniray._serialization.by_value"):
            import_module(needed)  # here: in the child another thread's lock may be on it for ever

        process, object_id = self._process, return_id(task)
        expected = _Expected(object_id)

        def await_process() -> Inherited | None:
            flush()  # now, since it may take long, and once more where nothing can come between
            with Registered(process, expected.waiter, [object_id]):
                done = process.drives.wait(expected.waiter, FORK_SECONDS)
            if process.ended is not None:
                process.raise_ended()
            if not done:
                raise SessionError(f"the node has asked for no process in {FORK_SECONDS:g} s: it may have too many")
            process.drives.locked(lambda: self._settle(task))
            return expected.inherited

        self._forget_gone()
        self._inheritance.creations[task] = creation
        self._expected[task] = expected
        try:
            yield await_process
        finally:
            process.drives.locked(lambda: self._settle(task))

    @unbroken
    def _settle(self, task: TaskId) -> None:
        """It waits no longer. What the node has asked for is done, even if Ctrl-C has struck meanwhile."""
        expected = self._expected.pop(task, None)
        if expected is not None and expected.request is not None:
            self._fork(*expected.request)
            expected.inherited = self._inherited

    def _forget_gone(self) -> None:
        """Actors that nobody can call any more are restarted no more."""
        process, creations = self._process, self._inheritance.creations
        for task in list(creations):
            if task not in self._expected and not process.owner.knows(return_id(task)):
                creations.pop(task, None)

    # ---- the node's requests, the children's ends ----

    def on_readable(self, token: Any) -> None:
        if token != LINE:
            self._reap(token)
            return
        for data, descriptor in self._line.receive():
            request = decode_request(data)
            assert isinstance(request, Fork)
            expected = self._expected.get(TaskId(request.task))
            if expected is None:
                self._fork(request, descriptor)
            else:
                expected.request = request, descriptor
                expected.waiter.notify()
        if not self._line.ended:
            self._watch(self._line.fileno(), LINE)

    def _fork(self, request: Fork, descriptor: int) -> None:
        if descriptor < 0 or request.task not in self._inheritance.creations:
            reason = "it has no descriptor left for the link" if descriptor < 0 else "who made the actor has gone"
            self._line.send(StartFailed(request.number, f"the driver could not be forked: {reason}"))
            if descriptor >= 0:
                os.close(descriptor)
            return
        from miniray._serialization.forked import prepare_fork

        link, parent = socket.socket(fileno=descriptor), os.getpid()
        by_main_thread = threading.current_thread() is threading.main_thread()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._inherited = prepare_fork(self._inherited)
            flush()
            pid = _fork_quietly()
            if pid == 0:
                live(lambda: self._be_worker(request.number, link, parent if by_main_thread else 0))
            os.setpgid(pid, pid)  # here and in the child: whoever comes first, it is done before anybody kills it
            pidfd = os.pidfd_open(pid)
        except Exception as error:  # also one of users' code, of a metaclass: the node waits for an answer
            self._line.send(StartFailed(request.number, f"the driver could not be forked: {error}"))
            return
        finally:
            link.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        child = self._children[pid] = _Child(request.number, pidfd, self._process.owner.viewed())
        self._process.post(*map(ViewHeld, child.viewed))
        self._watch(pidfd, pid)
        self._line.send(Started(request.number, pid))

    def _reap(self, pid: int) -> None:
        """While its pid is still its own, kill its group."""
        child = self._children.pop(pid)
        status = UNKNOWN_STATUS
        try:
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
            lifelines.kill_group(pid)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:  # reaped by somebody else in this program, or by the kernel if SIGCHLD is ignored
            lifelines.kill_group_of_the_gone(pid)
        os.close(child.pidfd)
        self._process.views_dropped.extend(child.viewed)
        self._forget_gone()
        self._line.send(Exited(child.number, pid, status))

    # ---- the end ----

    def kill_all(self) -> None:
        """The node is dead, and no other one will end them."""
        for pid, child in self._children.items():
            lifelines.kill_by_pidfd(child.pidfd)
            lifelines.kill_group(pid)  # it is not reaped yet

    def end(self) -> None:
        """Kill and reap them all, when nobody polls any more."""
        self.kill_all()
        self._line.close()  # nobody is told any more
        for pid, child in list(self._children.items()):
            if lifelines.wait_for_end(child.pidfd, REAP_SECONDS):
                self._reap(pid)
        self._inheritance.creations.clear()
        self._close_expected()

    def forget(self) -> None:
        """In a forked child: they are the parent's."""
        for child in self._children.values():
            os.close(child.pidfd)
        self._children.clear()
        self._close_expected()

    def _close_expected(self) -> None:
        """The links of processes that will never be."""
        for expected in self._expected.values():
            request, expected.request = expected.request, None
            if request is not None and request[1] >= 0:
                os.close(request[1])

    # ---- in the child ----

    def _be_worker(self, number: int, link: socket.socket, parent: int) -> None:
        """What `register_at_fork` has closed and forgotten (`driver.py`) is gone already."""
        from miniray._runtime.worker_main import main as be_worker
        from miniray._serialization.forked import inherit_main
        from miniray._serialization.pickles import forget_outer

        if parent:
            lifelines.die_with_parent(parent)
        os.environ[WORKER_VARIABLE] = mark_of(process_id(self._process.me[:SESSION_BYTES], number))
        process = self._process
        if process.while_collecting in gc.callbacks:
            gc.callbacks.remove(process.while_collecting)
        gc.freeze()  # the collector would touch, and so copy, every page
        main = threading.main_thread()
        main.name = "MainThread"
        main._daemonic = False  # type: ignore[attr-defined]  # threads that it starts are as it is
        inherit_main("")
        forget_outer()
        _read_nothing()
        _begin_multiprocessing_anew()
        be_worker(self._endow(number, link, self._inheritance))


def _fork_quietly() -> int:
    if sys.version_info < (3, 12):
        return os.fork()
    with warnings.catch_warnings():  # that this program has threads is what this file is about
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _read_nothing() -> None:
    """A terminal's input is the driver's."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    if nothing != 0:
        os.dup2(nothing, 0)
        os.close(nothing)
    sys.stdin = open(0, closefd=False)


def _begin_multiprocessing_anew() -> None:
    """As `multiprocessing` does in its own children: no process or finaliser of the parent's is this one's."""
    processes: Any = sys.modules.get("multiprocessing.process")
    if processes is not None:
        processes._children = set()
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._finalizer_registry.clear()
        util._run_after_forkers()
