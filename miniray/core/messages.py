"""Every message that one role can send to another. One class, one receiver.

Kept in one file because it is the contract: two processes agree on something new here first, then both
handlers and a script follow (tests/house checks that each type has a sender and a handler). A message of an
old attempt, lease or dead process must be harmless; each docstring says by what it is recognised.

Rules of hand-off (PROTOCOL.md section 4): a ref never travels without a pin; only the receiver registers,
and only on its own link to the owner; the sender keeps its hold until it has heard that it did.
"""

from __future__ import annotations

from miniray.core.failures import DeathCause, Failure
from miniray.core.ids import FunctionId, LeaseId, ObjectId, ProcessId, TaskId
from miniray.core.record import Message
from miniray.core.resources import Demand
from miniray.core.task_spec import Place, PushedTask, TaskResult, Value

# ---- process -> node: life of processes -------------------------------------------------------------


class Register(Message, frozen=True):
    """The first message of every process, before it owns anything."""

    pid: int
    is_driver: bool


# ---- node -> any process -------------------------------------------------------------------------


class ProcessDied(Message, frozen=True):
    """Told to every process, once. `lease` and `started` are the dead worker's status word: the last
    lease of which it started a task, and that task's sequence number."""

    process: ProcessId
    cause: DeathCause
    lease: LeaseId
    started: int


class EndSession(Message, frozen=True):
    """Driver to node: shutdown. Everything that the session started ends."""


# ---- several nodes: node <-> control, control -> node -> its processes ---------------------------------


class RegisterNode(Message, frozen=True):
    """Node to control: its first message on each link. It says all that the other may have lost: the nodes that it
    knows to be `dead`, and the `deaths` of processes of its own. Saying it again is harmless."""

    resources: Demand
    dead: tuple[ProcessId, ...] = ()
    deaths: tuple[ProcessDied, ...] = ()


class NodeRegistered(Message, frozen=True):
    """Control to node, when that it is there is on disk. Until then the node's time to reach the store runs on."""


class AskRegistration(Message, frozen=True):
    """Control to each node that its log names, when it has begun again: say who you are."""


class NodeAdded(Message, frozen=True):
    """Control to every node, of each other node."""

    node: ProcessId
    resources: Demand


class NodeLoad(Message, frozen=True):
    """Node to control, when it has changed: a hint for spillback, and nothing else."""

    free: Demand
    queued: int


class LoadOf(Message, frozen=True):
    """Control to every node: what another one has said of itself."""

    node: ProcessId
    free: Demand
    queued: int


class NodeDied(Message, frozen=True):
    """Control to every node, and each of these to its processes: once and for ever, and with it all that ran there."""

    node: ProcessId


# ---- leases: owner <-> node, node -> worker ---------------------------------------------------------


class RequestLease(Message, frozen=True):
    """Asks for a worker with `demand`; `request` numbers the requests of this owner, wherever it asks."""

    request: int
    demand: Demand
    for_actor: bool = False
    spilled: int = 0  # how many nodes have sent it on; the last one grants, queues or refuses
    fork: TaskId | None = None  # the driver: a process that is forked from its own, for this creation of an actor


class CancelRequest(Message, frozen=True):
    """May cross the grant: a grant that the owner no longer wants is returned at once."""

    request: int


class LeaseGranted(Message, frozen=True):
    request: int
    lease: LeaseId
    worker: ProcessId


class Spillback(Message, frozen=True):
    """Node to owner: ask that node instead."""

    request: int
    node: ProcessId


class LeaseRefused(Message, frozen=True):
    """This node could never serve the demand, or could not start a worker."""

    request: int
    failure: Failure


class ReturnLease(Message, frozen=True):
    """Keyed by the lease: returning twice is harmless (Ray 55469). A spoilt worker is ended."""

    lease: LeaseId
    spoilt: bool = False


class RevokeLease(Message, frozen=True):
    """Others starve: the owner finishes what has started, takes the rest back and returns the lease."""

    lease: LeaseId


class LeaseStarted(Message, frozen=True):
    """Node to worker; a push that comes before it is held back."""

    lease: LeaseId
    owner: ProcessId


class LeaseEnded(Message, frozen=True):
    """Node to worker; a push of this lease is refused from now on. `orphaned`: its owner is dead, and `LeaseStopped`
    is owed when nothing of it runs any more."""

    lease: LeaseId
    orphaned: bool = False


class LeaseStopped(Message, frozen=True):
    """Worker to node: it can serve others; what a dead owner had started here has ended."""

    lease: LeaseId


class ExitWorker(Message, frozen=True):
    """Node to worker, after it has left the pool: end when nothing is running, pinned or held by others."""


class KillWorker(Message, frozen=True):
    """Owner to node: end this process now (`kill`, `cancel(force=True)`, a broken link to a leased worker)."""

    process: ProcessId


class Blocked(Message, frozen=True):
    """Worker to node: its task waits in `get` or `wait`; its CPU may serve others."""

    lease: LeaseId


class Unblocked(Message, frozen=True):
    """Worker to node: it runs again, and takes its CPU without waiting."""

    lease: LeaseId


# ---- tasks: owner <-> worker ---------------------------------------------------------------------


class DefineFunction(Message, frozen=True):
    """Sent once to each worker before the first task that names it; `value` is its definition. A stored one has a name,
    by which a worker of another node asks for it."""

    function: FunctionId
    value: Value
    object_id: ObjectId | None = None


class ForgetFunction(Message, frozen=True):
    function: FunctionId


class PushTasks(Message, frozen=True):
    lease: LeaseId
    tasks: list[PushedTask]


class CallActor(Message, frozen=True):
    """Calls of one caller, in their order; `actor` names the creation object."""

    actor: ObjectId
    calls: list[PushedTask]


class TasksDone(Message, frozen=True):
    results: list[TaskResult]


class TakeBack(Message, frozen=True):
    """Asks for tasks that have not started; answered by `TakenBack` with exactly those that will not run."""

    lease: LeaseId
    tasks: list[TaskId]


class TakenBack(Message, frozen=True):
    """Also unasked, when the worker blocks or its lease has ended; then `blocked` is true."""

    lease: LeaseId
    tasks: list[TaskId]
    blocked: bool = False


class CancelTask(Message, frozen=True):
    """To the worker that has the task, queued or running; of another attempt: dropped."""

    task: TaskId
    attempt: int
    recursive: bool
    running: bool = True  # False: only if it has not started


class RequestCancel(Message, frozen=True):
    """A borrower's `cancel`, to the owner."""

    object_id: ObjectId
    force: bool
    recursive: bool
    running: bool = True


class RequestKill(Message, frozen=True):
    """A borrower's `kill(actor)`, to the owner of the actor."""

    actor: ObjectId
    restart: bool = False


# ---- references: holder <-> owner, sender <-> receiver -------------------------------------------------


class AddHolder(Message, frozen=True):
    """`number` grows on this link; the answer repeats it, so that it cannot confirm a later receipt."""

    object_id: ObjectId
    number: int


class HolderAdded(Message, frozen=True):
    object_id: ObjectId
    number: int


class RefGone(Message, frozen=True):
    """Answer to `AddHolder` (its number) or `WhereIs` (number 0): that value was freed."""

    object_id: ObjectId
    number: int


class DropHolders(Message, frozen=True):
    """Idempotent: a drop and the death of its sender may both arrive (Ray 60495)."""

    object_ids: list[ObjectId]


class HandoffDone(Message, frozen=True):
    """Ends the one transfer (task and attempt) whose refs the receiver has registered everywhere."""

    task: TaskId
    attempt: int


class WhereIs(Message, frozen=True):
    """Answered when the value is ready; a process asks once at a time for each object. Of an actor: with a life later
    than `after`, which the asker knows to be over (its owner may not know it yet, 10176), or with its end."""

    object_id: ObjectId
    after: int = 0


class ValueIs(Message, frozen=True):
    """A Stored value's place is lent with it: views count as a hold, so it lasts until `DropHolders`."""

    object_id: ObjectId
    value: Value


class AdoptValue(Message, frozen=True):
    """Creator to new owner, of a value that it has put for it: this registers the creator as its holder. The refs
    inside are pinned until `HandoffDone` (the task and index of the id), as those of a result. `site`: the line of the
    call."""

    object_id: ObjectId
    value: Value
    site: str = ""


class ValueAdopted(Message, frozen=True):
    """The answer: from now on the ref may be passed on."""

    object_id: ObjectId


# ---- any process <-> any other: a link that was made again ---------------------------------------------------


class StillHolds(Message, frozen=True):
    """The first message on it, each way: all that the sender holds of the receiver's objects, each with the number of a
    receipt (`AddHolder`); and the transfers from the receiver that the sender has not ended (`HandoffDone`)."""

    holds: list[tuple[ObjectId, int]]
    transfers: list[tuple[TaskId, int]]


class PlacesHeld(Message, frozen=True):
    """Holder of extents to owner: its places there. Those of no value are answered with `FreePlaces`."""

    objects: list[tuple[ObjectId, Place]]


# ---- copies: owner <-> node, borrower -> owner ------------------------------------------------------------


class MakeCopy(Message, frozen=True):
    """Owner to the node where somebody needs a value: fetch it from `place`, and keep it until it is freed. `number`
    counts the copies of this owner; an answer with one that it does not know any more is answered by `FreeOrphans`."""

    number: int
    object_id: ObjectId
    place: Place


class CopyMade(Message, frozen=True):
    """It lies at `place`, in an extent of the node process itself."""

    number: int
    object_id: ObjectId
    place: Place


class CopyFailed(Message, frozen=True):
    """The node of the source is dead; or there was no room, as `failure` says."""

    number: int
    failure: Failure | None = None


class CopyRefused(Message, frozen=True):
    """Owner to a borrower that has asked for a value: there was no room for a copy on its node. It may ask again."""

    object_id: ObjectId
    failure: Failure


class ReportLost(Message, frozen=True):
    """Borrower to owner: nothing could be read at `place`. Not the primary's place any more: ignored."""

    object_id: ObjectId
    place: Place


# ---- the store: any process <-> node, owner -> holder of an extent --------------------------------------


class RequestExtent(Message, frozen=True):
    """Asks for a piece of the arena of at least this size; one request at a time for each process."""

    size_bytes: int


class ExtentGranted(Message, frozen=True):
    offset: int
    size_bytes: int


class ExtentRefused(Message, frozen=True):
    """The figures of the arena when it could not be granted."""

    wanted_bytes: int
    free_bytes: int
    capacity_bytes: int


class ReclaimExtents(Message, frozen=True):
    """Node to every holder: give back what lies wholly free; each answers with `ExtentsReturned`."""


class ExtentsReturned(Message, frozen=True):
    """Answer to `ReclaimExtents`, also when there is nothing to return."""

    offsets: list[int]


class FreePlaces(Message, frozen=True):
    """Owner to the holder of the extent. Names object and place: what does not match the ledger is ignored, so a
    repeated free cannot hit a reused place."""

    objects: list[tuple[ObjectId, Place]]


class FreeOrphans(Message, frozen=True):
    """The same, to the node: after the holder of the extent has died, or of copies that the node has made."""

    objects: list[tuple[ObjectId, Place]]


class ClaimPlaces(Message, frozen=True):
    """Node to an owner: which of these places, in a dead process's extents, still live?"""

    objects: list[tuple[ObjectId, Place]]


class PlacesClaimed(Message, frozen=True):
    """The answer: those in `dead` may be freed; the rest will be named by `FreePlaces` one day."""

    dead: list[tuple[ObjectId, Place]]


class ViewsOf(Message, frozen=True):
    """Node to every process, after an owner died: answer when no view of its objects lives with you."""

    owner: ProcessId


class NoViewsOf(Message, frozen=True):
    owner: ProcessId


class OwnerBuried(Message, frozen=True):
    """Node to every holder: nobody looks at this dead owner's objects any more; free their places."""

    owner: ProcessId


# ---- between the roles of one process; never encoded ---------------------------------------------------


class ArgumentsArrived(Message, frozen=True):
    """Worker to owner role: a task starts; hold what came with it, and register with third parties."""

    submitter: ProcessId
    task: TaskId
    attempt: int
    refs: tuple[ObjectId, ...]


class ExecutionEnded(Message, frozen=True):
    """Worker to owner role: add what is still held to this result, and send it to the submitter."""

    submitter: ProcessId
    result: TaskResult


class CancelChildren(Message, frozen=True):
    """Worker to owner role: cancel what this task has submitted."""

    task: TaskId


class AskDrained(Message, frozen=True):
    """Worker to owner role: answer when nobody needs this process any more."""


class Drained(Message, frozen=True):
    """Nothing that this process owns is held by others, and no pin of a hand-off is outstanding."""
