"""Dead letters: executions that ended badly and that nobody has decided about yet."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from jobworker.domain.execution import State

#: The states of which an execution becomes a dead letter.
DEAD = frozenset({State.FAILED, State.TIMED_OUT})


class DeadLetter(StrEnum):
    """What became of a dead letter.

    Open: somebody has to decide. Redriven: it was run again, as another execution. Discarded: it is left at that.
    """

    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


class Cause(StrEnum):
    """Why an execution is a dead letter."""

    RAISED = "raised"
    ABORTED = "aborted"
    TIMED_OUT = "timed_out"
    POISONED = "poisoned"
    WORKER_LOST = "worker_lost"
    WORKER_STOPPED = "worker_stopped"
    REJECTED = "rejected"


_CAUSES: Mapping[str, Cause] = {
    "Abort": Cause.ABORTED,
    "WorkerLost": Cause.WORKER_LOST,
    "Poisoned": Cause.POISONED,
    "WorkerStopped": Cause.WORKER_STOPPED,
    "MessageRejected": Cause.REJECTED,
}


def cause(state: State, error: Mapping[str, Any] | None) -> Cause:
    """Why an execution that ended so is a dead letter."""
    if state is State.TIMED_OUT:
        return Cause.TIMED_OUT
    return _CAUSES.get(str((error or {}).get("type")), Cause.RAISED)
