"""Dead letters: executions that ended badly and that nobody has decided about yet."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from jobworker.domain.executions.execution import ExecutionState

#: The states of which an execution becomes a dead letter.
DEAD_LETTER_STATES = frozenset({ExecutionState.FAILED, ExecutionState.TIMED_OUT})


class DeadLetterStatus(StrEnum):
    """What became of a dead letter.

    Open: somebody has to decide. Redriven: it was run again, as another execution. Discarded: it is left at that.
    """

    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


class DeadLetterCause(StrEnum):
    """Why an execution is a dead letter."""

    RAISED = "raised"
    ABORTED = "aborted"
    TIMED_OUT = "timed_out"
    POISONED = "poisoned"
    WORKER_LOST = "worker_lost"
    WORKER_STOPPED = "worker_stopped"
    REJECTED = "rejected"


_CAUSE_BY_ERROR_TYPE: Mapping[str, DeadLetterCause] = {
    "Abort": DeadLetterCause.ABORTED,
    "WorkerLost": DeadLetterCause.WORKER_LOST,
    "Poisoned": DeadLetterCause.POISONED,
    "WorkerStopped": DeadLetterCause.WORKER_STOPPED,
    "MessageRejected": DeadLetterCause.REJECTED,
}


def determine_cause(state: ExecutionState, error: Mapping[str, Any] | None) -> DeadLetterCause:
    """Why an execution that ended so is a dead letter."""
    if state is ExecutionState.TIMED_OUT:
        return DeadLetterCause.TIMED_OUT
    return _CAUSE_BY_ERROR_TYPE.get(str((error or {}).get("type")), DeadLetterCause.RAISED)
