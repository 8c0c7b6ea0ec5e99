"""The host of the control store in a simulated cluster: its process, one life after another, and its disk.

The disk is slow as the network is, and keeps the order. What a crash finds under way to it may have arrived, from the
oldest on. A process that begins again has the id that it had; what was said to the one before does not reach it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from miniray._runtime.perform import rows_for
from miniray.core.control.control_store import ControlStore
from miniray.core.control.events import Log, Logged, StoreStarted
from miniray.core.ids import CONTROL_NUMBER, process_id
from miniray.core.machine import Send
from miniray.core.messages import NodeAdded, NodeDied, ProcessDied
from miniray.core.record import Effect, Event
from miniray.testing.faults import ControlCrash
from miniray.testing.simulated import CrashNow, SimulatedProcess

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster


class SimulatedControl:
    """`log` is what is on its disk."""

    def __init__(self, cluster: SimulatedCluster, crashes: tuple[ControlCrash, ...]) -> None:
        self._cluster = cluster
        self.me = process_id(cluster.session, CONTROL_NUMBER)
        self.log: list[NodeAdded | NodeDied] = []
        self._under_way: list[NodeAdded | NodeDied] = []
        self._landed_at = 0.0
        self._crashes = list(crashes)
        self._until_crash = 0
        self.lives = 0
        self._begin()

    def _begin(self) -> None:
        cluster = self._cluster
        self.lives += 1
        self.home = cluster.processes[self.me] = _ControlProcess(cluster, self)
        self.home.join((ControlStore(self.me, self.log),), rows_for(disk=self), lambda peer, reason: None)
        cluster.posted(self.home, StoreStarted())

    # ---- its disk ----

    def append(self, effect: Log) -> None:
        cluster, life = self._cluster, self.lives
        self._under_way.append(effect.record)
        self._landed_at = max(self._landed_at, cluster.timeline.now + cluster.draw_lag())

        def land() -> None:
            if life == self.lives and self.home.alive:
                self.log.append(self._under_way.pop(0))
                cluster.posted(self.home, Logged(len(self.log)))

        cluster.timeline.at(self._landed_at, land)

    # ---- its crashes ----

    def crash_is_due(self, effects: list[Effect]) -> ControlCrash | None:
        """It makes a step with these effects."""
        if not effects or not self._crashes or self._cluster.healed_at is not None:
            return None
        if self._crashes[0].at_news and not any(map(_tells_of_a_death, effects)):
            return None
        self._until_crash += 1
        return self._crashes[0] if self._until_crash > self._crashes[0].after else None

    def crash(self, why: str) -> None:
        """It is gone, and begins again after a while. No user's program may notice."""
        cluster, crash = self._cluster, self._crashes.pop(0)
        self._until_crash = 0
        cluster.tell(self.me, "Crashed", status=-9, why=why)
        self.home.end(crashed=True)
        landed = cluster.choices.choose(len(self._under_way) + 1, "records that reach the disk")
        self.log.extend(self._under_way[:landed])
        self._under_way.clear()
        cluster.timeline.after(crash.away_seconds, self._begin_again)

    def _begin_again(self) -> None:
        self._cluster.tell(self.me, "BeganAgain")
        self._begin()


def _tells_of_a_death(effect: Effect) -> bool:
    return isinstance(effect, Send) and isinstance(effect.message, ProcessDied | NodeDied)


class _ControlProcess(SimulatedProcess):
    def __init__(self, cluster: SimulatedCluster, host: SimulatedControl) -> None:
        super().__init__(cluster, host.me)
        self._host = host

    def _observe(self, number: int, now: float, event: Event, effects: list[Effect]) -> None:
        crash = self._host.crash_is_due(effects)
        self.dies_mid_step = crash is not None and crash.mid_step
        super()._observe(number, now, event, effects)
        if crash is not None and not crash.mid_step:
            raise CrashNow
