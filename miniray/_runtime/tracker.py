"""The resource tracker of `multiprocessing`: one for the driver and all workers of its session.

What users make with a spawn context, or as `SharedMemory`, has a name in the system, which its maker unlinks. If that
dies before, the tracker does: a process that is told of names by a pipe, and unlinks what is left when nobody has the
pipe's other end any more. A tracker of a worker's own would be of no use: it is killed with the worker's process group;
and if it were not, it would unlink what this worker has only opened (cp 82300), as soon as the worker ends.

- If the driver's runs at `init`, workers have its pipe. Names then last as long as the driver.
- Else the driver makes the pipe, and the zygote waits at its end. Whoever imports the tracker's module, driver or
  worker, finds this pipe there as if somebody had started a tracker. The first word in it has the zygote start one.
  (Starting it at every `init` would cost 8 MB and an interpreter's start; importing its module in advance 14 ms.)
- A pipe at whose end nobody waits any more is shared with nobody: `multiprocessing` would warn that its tracker died.
- Children that users fork keep the pipe, as they do under `multiprocessing`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, NoReturn

MODULE = "multiprocessing.resource_tracker"


class TrackerPipe:
    """The driver's hold on it. `reader` is -1 where a tracker runs already."""

    def __init__(self) -> None:
        found = _loaded()
        running = -1 if found is None or found._fd is None else int(found._fd)
        self._ours = not (running >= 0 and has_reader(running))
        self.reader, self.writer = os.pipe() if self._ours else (-1, running)
        if self._ours:
            self._pipe = os.fstat(self.writer).st_ino
            share(self.writer)

    def given_away(self) -> None:
        """The zygote has its end, and no other process is to have it: else nobody would be told when it goes."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close(self) -> None:
        """After the zygote's end. A tracker of which this process may have made use stays, as long as it does."""
        self.given_away()
        if not self._ours:
            return
        self._ours = False
        _withdraw(self.writer)
        if not self._is_open():
            return
        found = _loaded()
        if found is not None and found._fd == self.writer:
            if has_reader(self.writer):
                return
            found._fd = None
        os.close(self.writer)


    def _is_open(self) -> bool:
        """`multiprocessing` closes the pipe of a tracker that it finds dead, and makes another."""
        try:
            return os.fstat(self.writer).st_ino == self._pipe
        except OSError:
            return False


def share(writer: int) -> None:
    """Let this process's `multiprocessing` find the pipe, now or when it is imported."""
    found = _loaded()
    if found is None:
        sys.meta_path.insert(0, _Finder(writer))
    elif found._fd is None:
        found._fd = writer


class _Finder:
    """Finds the tracker's module where it always is, and puts the pipe into it."""

    def __init__(self, writer: int) -> None:
        self.writer = writer

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_share(module: Any) -> None:
                execute(module)
                _withdraw(self.writer)
                if has_reader(self.writer):
                    module._resource_tracker._fd = self.writer

            spec.loader.exec_module = execute_and_share  # type: ignore[method-assign]
        return spec


def _withdraw(writer: int) -> None:
    sys.meta_path[:] = [one for one in sys.meta_path if not (isinstance(one, _Finder) and one.writer == writer)]


def _loaded() -> Any:
    module: Any = sys.modules.get(MODULE)
    return getattr(module, "_resource_tracker", None)  # None, too, while another thread is importing it


def has_reader(writer: int) -> bool:
    """Whether a tracker, or somebody who will start one, is at the other end."""
    poller = select.poll()
    poller.register(writer, 0)
    return not any(events & (select.POLLERR | select.POLLNVAL) for _, events in poller.poll(0))


def become_tracker(reader: int) -> NoReturn:
    """In a child that was forked for it. The module's `main` takes the signals back."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        import subprocess

        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        os.set_inheritable(reader, True)
        os.execv(sys.executable, [sys.executable, *flags, "-c", f"from {MODULE} import main; main({reader})"])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
