"""Exceptions to bytes and back: whatever was raised, something useful arrives.

`multiprocessing.Pool` hangs for ever over an exception whose class takes two arguments (python/cpython 79492). So:

- The round trip is tried here, in the worker. First as the exception pickles itself; then as its class, `args` and
  attributes, put together without calling `__init__`; if either gives the same type and text, it travels so.
- Otherwise a `SubstituteError` arrives: type name, text, traceback, the attributes that do pickle, and why it is there.
- `__cause__`, `__context__` and notes travel along, each tried for itself, `CHAIN_LIMIT` deep.
- Refs inside are collected, as those of any value: what an exception holds is counted with its failure.
- Nothing here raises, whatever the exception's own code does.
"""

from __future__ import annotations

import pickle
import traceback
from functools import partial
from typing import Any

from miniray._serialization import pickles
from miniray._serialization.culprit import explain
from miniray._serialization.pickles import PROTOCOL
from miniray._serialization.strikes import raised_by_handler
from miniray.core.ids import ObjectId

CHAIN_LIMIT = 10
TEXT_LIMIT = 1 << 20  # characters of a traceback or a message

# payload, type name, text, traceback, notes, attributes, cause, context, suppress_context, why there is no payload
_Record = tuple[bytes, str, str, str, list[str], dict[str, bytes], Any, Any, bool, str]
_Dumped = tuple[bytes, tuple[ObjectId, ...]]
_NOTHING: _Dumped = (b"", ())


class SubstituteError(Exception):
    """Stands for an exception that could not travel; `attributes` holds what of it could, `reason` says why."""

    def __init__(self, type_name: str, text: str, traceback: str = "") -> None:
        super().__init__(type_name, text, traceback)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback
        self.attributes: dict[str, Any] = {}
        self.reason = ""

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


def serialize_exception(error: BaseException) -> tuple[bytes, str, tuple[ObjectId, ...]]:
    """The exception, or what stands for it; the text of its traceback; and the references inside the first."""
    text = _traceback_of(error)
    refs: dict[ObjectId, None] = {}
    record = _record(error, text, CHAIN_LIMIT, refs)
    return pickle.dumps(record, PROTOCOL), text, tuple(refs)


def deserialize_exception(data: bytes) -> BaseException:
    """The exception, or a `SubstituteError`; never raises by itself."""
    try:
        return _rebuild(pickle.loads(data))
    except Exception as error:
        if raised_by_handler(error):
            raise
        return SubstituteError("UnreadableError", f"an exception came that cannot be read here ({error!r})")


def _record(error: BaseException, text: str, limit: int, refs: dict[ObjectId, None]) -> _Record:
    payload = _payload(error, refs)
    attributes: dict[str, bytes] = {}
    reason = ""
    if not payload:
        reason = _safely(partial(_reason, error), "its own code failed")
        for attribute, value in list(_safely(lambda: vars(error), {}).items()):
            dumped, inner = _safely(partial(_dumps, value), _NOTHING)
            if dumped and attribute != "__notes__":
                attributes[str(attribute)] = dumped
                refs.update(dict.fromkeys(inner))
    cause = context = None
    if limit > 1:
        if error.__cause__ is not None:
            cause = _record(error.__cause__, _traceback_of(error.__cause__), limit - 1, refs)
        elif error.__context__ is not None and not error.__suppress_context__:
            context = _record(error.__context__, _traceback_of(error.__context__), limit - 1, refs)
    notes = [str(note) for note in _safely(lambda: list(error.__notes__), [])]
    kept = "" if payload and limit < CHAIN_LIMIT else text
    name, suppress = _type_name(error), error.__suppress_context__
    return payload, name, _text_of(error), kept, notes, attributes, cause, context, suppress, reason


def _reason(error: BaseException) -> str:
    """Why there is no payload: what of it cannot be pickled, or that it does not come back as it was."""
    try:
        data, _ = _dumps(error)
    except Exception as problem:
        if raised_by_handler(problem):
            raise
        return str(explain(error, type(error).__name__, problem))
    try:
        return f"unpickled it is another: {pickle.loads(data)!r:.200}"
    except Exception as problem:
        if raised_by_handler(problem):
            raise
        return f"it cannot be unpickled: {problem!r:.200}"


def _payload(error: BaseException, refs: dict[ObjectId, None]) -> bytes:
    """The pickle that gives the same error back, or b""; what it refers to joins `refs`."""
    for form in (error, _Parts(error)):
        data, inner = _safely(partial(_dumps, form), _NOTHING)
        if data:
            again = _safely(partial(pickle.loads, data), None)
            if type(again) is type(error) and _text_of(again) == _text_of(error):
                refs.update(dict.fromkeys(inner))
                return bytes(data)
    return b""


class _Parts:
    """Pickles as its exception made without `__init__`."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce_ex__(self, protocol: Any) -> Any:
        return assemble, (type(self.error), self.error.args, vars(self.error))


def assemble(cls: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    vars(error).update(attributes)
    return error


def _dumps(value: Any) -> _Dumped:
    try:
        dumped = pickles.dumps(value, None, is_kept=True)
        if dumped is not None:
            return dumped
    except Exception as error:
        if raised_by_handler(error):
            raise
    return pickles.dumps_by_value(value, "", None, is_kept=True)


def _rebuild(record: _Record) -> BaseException:
    payload, type_name, text, trace, notes, attributes, cause, context, suppress, reason = record
    error = _safely(lambda: pickle.loads(payload), None) if payload else None
    if not isinstance(error, BaseException):
        error = SubstituteError(type_name, text, trace)
        error.reason = reason
        for name, dumped in attributes.items():
            error.attributes[name] = _safely(partial(pickle.loads, dumped), None)
    if cause is not None:
        error.__cause__ = _rebuild(cause)
    if context is not None:
        error.__context__ = _rebuild(context)
    error.__suppress_context__ = suppress
    if notes and not getattr(error, "__notes__", None):
        for note in notes:
            error.add_note(note)
    return error


def _type_name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def _text_of(error: Any) -> str:
    text: str = _safely(lambda: str(error), "<its text could not be made>")
    return text[:TEXT_LIMIT]


def _traceback_of(error: BaseException) -> str:
    def make() -> str:
        return "".join(traceback.format_exception(error))

    text: str = _safely(make, f"{_type_name(error)}: {_text_of(error)}\n")
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT // 2]}\n...\n{text[-TEXT_LIMIT // 2 :]}"


def _safely(make: Any, otherwise: Any) -> Any:
    try:
        return make()
    except Exception as error:
        if raised_by_handler(error):
            raise
        return otherwise
