"""Every exception that a user may catch: when it happens, and what to do.

All derive from `MinirayError`. An error of the user's own code is raised as a `TaskError` that is also an instance of
the original class, so `except ValueError` works; the original is its `__cause__`.
"""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any


class MinirayError(Exception):
    """Base of all errors of miniray."""


class TaskError(MinirayError):
    """The code of a task or a method raised. The text has the remote traceback, `cause` the exception itself."""

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        return _task_error, (self.message, self.cause)

    @staticmethod
    def of(message: str, cause: BaseException) -> TaskError:
        """An error that is also an instance of the class of `cause`, where that class allows it.

        Where a task met the error of a task that it had called, that is the class of what was raised first."""
        root = cause
        while isinstance(root, TaskError) and root.cause is not None:
            root = root.cause
        kind = type(root)
        if isinstance(root, TaskError) or not issubclass(kind, Exception):
            return TaskError(message, cause)
        try:
            both: Any = type(f"TaskError({kind.__name__})", (TaskError, kind), {"__module__": "miniray.errors"})
            error: TaskError = both.__new__(both)
            vars(error).update(vars(root))
            _copy_members(error, root)
            error.message, error.cause, error.args = message, cause, (message,)  # no __init__: `kind` has its own
        except Exception:  # a class that cannot be mixed (its own __new__, slots): the plain one still says it all
            return TaskError(message, cause)
        return error


def _copy_members(error: BaseException, root: BaseException) -> None:
    """What an exception of C code keeps outside of its `__dict__`: `errno`, the `name` of a module, ..."""
    for cls in type(root).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, MemberDescriptorType | GetSetDescriptorType) and name[0] != "_" and name != "args":
                try:
                    setattr(error, name, getattr(root, name))
                except (AttributeError, TypeError):  # it has none, or it is read-only
                    continue


def _task_error(message: str, cause: BaseException | None) -> TaskError:
    return TaskError(message) if cause is None else TaskError.of(message, cause)


class WorkerCrashedError(MinirayError):
    """The process that ran the task died (a signal, `os._exit`, a segfault), more often than `max_retries` allows."""


class WorkerInitializerError(MinirayError):
    """The initializer of a pool raised (then `__cause__` says what), or ended its process. The pool can run nothing."""


class ActorError(MinirayError):
    """Something is wrong with the actor that was called."""


class ActorDiedError(ActorError):
    """The actor's process died, was ended by `kill`, or its constructor raised (then `__cause__` says what).

    With `max_restarts` an actor begins anew when its process has died; `max_task_retries` says how often a call that
    was under way is then made again."""


class ActorUnavailableError(ActorError):
    """The link to the actor broke while the call was under way, so nobody can tell whether it has run. The actor lives,
    and other calls reach it. With `max_task_retries` such a call is made again."""


class TaskCancelledError(MinirayError):
    """The task was cancelled by `cancel`."""


class ObjectLostError(MinirayError):
    """The value is gone and cannot be made again."""


class OwnerDiedError(ObjectLostError):
    """The process that created the ref has died; nobody else can find its value."""


class ObjectStoreFullError(MinirayError):
    """The arena has no room for the value. Drop refs and views that are no longer needed, or give `init` a larger
    `object_store_memory`; `Out[n]` and tracebacks of a notebook keep views alive."""


class SerializationError(MinirayError, TypeError):
    """An argument, a function or a value cannot be pickled; the message has the path to the culprit."""


class ResultSerializationError(SerializationError):
    """A task returned something that cannot be pickled (then `__cause__` is what pickle raised), or that fails to
    unpickle."""


class GetTimeoutError(MinirayError, TimeoutError):
    """`get(..., timeout=)` has waited that long. The task goes on; ask again, or `cancel` it."""


class InfeasibleError(MinirayError):
    """The session could never give the task the resources that it asks for."""


class SessionError(MinirayError, RuntimeError):
    """The session is not there, not any more, or there already."""


class NodeDiedError(SessionError):
    """The node process of the session has died, and the session with it. `shutdown()`, then `init()` again."""


class InternalError(SessionError):
    """A rule of miniray's own was broken, which is a bug of miniray: the text has all that is known, please report it.

    The session has ended; `shutdown()`, then `init()` again."""


class ForkedDriverError(SessionError):
    """This process was forked from one with a session; it cannot use that. Call `miniray.init()` in the child."""
