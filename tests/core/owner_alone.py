"""One owner's machine, and what it says: for tests that are its node, its workers and its peers."""

from __future__ import annotations

from typing import Any

from miniray.core.ids import FunctionId, ProcessId, process_id
from miniray.core.machine import Received, Send
from miniray.core.owner.events import FunctionExported
from miniray.core.owner.owner import Owner
from miniray.core.record import Effect, Event, Message
from miniray.core.task_spec import Inline

NODE, ME = (process_id(b"test", number) for number in range(2))
FUNCTION = FunctionId(b"f" * 16)


class Talk:
    """Each event is a moment of its own, and every invariant holds after it."""

    def __init__(self) -> None:
        self.owner = Owner(ME, NODE)
        self.now = 0.0
        self.does(FunctionExported(FUNCTION, Inline(b"")))

    def does(self, event: Event) -> list[Effect]:
        self.now += 0.001
        effects = self.owner.step(self.now, event)
        self.owner.check()
        return effects

    def hears(self, message: Message, peer: ProcessId) -> list[Effect]:
        return self.does(Received(peer, message))


def said(effects: list[Effect], kind: type[Message]) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]
