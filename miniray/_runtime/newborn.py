"""What a process does that was just forked to be one of the session's, whoever forked it; and how it ends.

Nothing of its parent's runs in it but what it is given: no handler of a signal, no `atexit`, no line of the code that
lies below on its stack. What waits in the buffers of its output is its parent's, and was written before the fork.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from miniray._runtime import signals

_NEVER = (signal.SIGKILL, signal.SIGSTOP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


@signals.life
def live(body: Callable[[], object]) -> NoReturn:
    """In the child: run `body` in a process group of its own, and end without unwinding into the parent's code."""
    status = 1
    try:
        os.setpgid(0, 0)
        signals.hold_nothing()
        reset_signals()
        numpy_random = sys.modules.get("numpy.random")  # `random` reseeds itself after a fork
        if numpy_random is not None:
            numpy_random.seed()
        body()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        flush()
        os._exit(status & 0xFF)


def reset_signals() -> None:
    """Dispositions and mask of a fresh Python process, whatever the parent had.

    What was not installed from Python stays (`faulthandler`). SIGINT comes only from a cancel: the group is its own.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in _NEVER:
            usual = signal.SIG_IGN if number in _IGNORED_BY_PYTHON else signal.SIG_DFL
            found = signal.getsignal(number)
            if found is not None and found != usual:
                signal.signal(number, usual)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or there is none
