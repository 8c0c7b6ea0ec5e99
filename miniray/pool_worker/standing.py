"""What a worker of a pool is to the `multiprocessing` module: its name and number, its parent, its key, its logger.

Code that runs under the standard pool asks for these: `current_process().name` in log lines, `_identity[0]` to choose
a GPU, `parent_process()` to tell whether it is in a worker, `get_logger()`. And a proxy of a `Manager` that comes with
an argument reaches its server only with the driver's key.

`daemon` stays False, where the standard pool's workers are daemons: that is what forbids them children, and here
nested pools and processes are welcome.
"""

from __future__ import annotations

import logging
import os
from itertools import count
from multiprocessing import context as _contexts
from multiprocessing import process as _process
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

_standard: Any = _process  # its stubs declare none of this


class Standing(NamedTuple):
    """One worker's, as plain data."""

    name: str
    kind: str  # the class of such a process, in `multiprocessing.context`
    identity: tuple[int, ...]
    authkey: bytes
    parent_name: str
    parent_pid: int
    log_level: int
    logs_to_stderr: bool


def next_standing(context: BaseContext, title: str) -> Standing:
    """For the next worker of this process: numbered on with its `multiprocessing.Process`es, as the standard pool's.
    `title`: what stands for `Process` in its name."""
    from multiprocessing import util

    parent = _standard.current_process()
    identity = (*parent._identity, next(_standard._process_counter))
    kind = getattr(context, "Process", _standard.BaseProcess).__name__
    logger = vars(util)["_logger"]
    return Standing(
        name=f"{kind.replace('Process', title)}-{':'.join(map(str, identity))}",
        kind=kind,
        identity=identity,
        authkey=bytes(parent.authkey),
        parent_name=parent.name,
        parent_pid=os.getpid(),
        log_level=logging.NOTSET if logger is None else logger.level,
        logs_to_stderr=bool(vars(util)["_log_to_stderr"]),
    )


def take(standing: Standing) -> None:
    """In the worker, before any code of the user's."""
    me = _standard.current_process()
    me.__class__ = getattr(_contexts, standing.kind, type(me))
    me._name, me._identity, me.authkey = standing.name, standing.identity, standing.authkey
    me._parent_pid = standing.parent_pid
    _standard._process_counter = count(1)
    try:
        sentinel = os.pidfd_open(standing.parent_pid)
    except OSError:
        pass  # it is gone, and this process with it
    else:
        _standard._parent_process = _standard._ParentProcess(standing.parent_name, standing.parent_pid, sentinel)
    if not standing.logs_to_stderr and standing.log_level == logging.NOTSET:
        return
    from multiprocessing import util  # here: most workers are done without it

    if standing.logs_to_stderr and not vars(util)["_log_to_stderr"]:
        util.log_to_stderr()
    if standing.log_level != logging.NOTSET:
        util.get_logger().setLevel(standing.log_level)
