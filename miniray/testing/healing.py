"""The two phases of a run: safety under faults, then a part of the cluster heals, and in it everything must end.

Which part is drawn before the run (`Faults.unhealed`). The rest never comes back: a node is dead, or stands still, or
is cut off from all others. What may be left behind is what the survivors can tell from a slow one:

- **Whole nodes, never the driver's, nor the control store.** Without those nobody is left who could end anything.
- **Not a process beside others that heal.** Its node sees whether it lives; if it lives and stands still for ever, it
  cannot be told from a long task, and nobody may end that.
- **Not one link between two that both reach the control store.** Whom of them to bury nobody says (yet).

A node that is left behind is declared dead a bounded time later: the transports lose its links (`transport.py`), the
control store waits until it must have ended itself, and says so. From then on whatever needed it is made again, or ends
with an error that names what is gone. The liveness checkers (`checkers/ends.py`, `quiet.py`) excuse nothing else.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from miniray.core.ids import LOCAL_BITS, process_id
from miniray.testing.faults import Lasting, Unhealed

if TYPE_CHECKING:
    from miniray.testing.cluster import SimulatedCluster


def heal(cluster: SimulatedCluster) -> None:
    """The second phase begins."""
    cluster.end_faults()
    for one in cluster.faults.unhealed:
        _leave_behind(cluster, one)


def _leave_behind(cluster: SimulatedCluster, one: Unhealed) -> None:
    host = cluster.hosts.get(process_id(cluster.session, one.node << LOCAL_BITS))
    if host is None or not host.node.alive:
        return  # it has died before
    assert host is not cluster.head, "the driver's node always heals"
    cluster.disturbed = True
    cluster.left_behind[host.me] = one.how
    if one.how is Lasting.DEAD:
        cluster.crash_host(host)
        return
    cluster.tell(host.me, "LeftBehind", how=one.how.value)
    cluster.deaths[host.me] = 0  # for the others it is as good as dead
    cluster.network.cut_off(host.me)
    if one.how is Lasting.STANDS_STILL:
        host.stand_still(inf)
