"""Dead letters: executions that failed for good and await a decision."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from jobworker.domain.executions.execution import ExecutionState

#: The final states in which an execution becomes a dead letter.
DEAD_LETTER_STATES = frozenset({ExecutionState.FAILED, ExecutionState.TIMED_OUT})


class DeadLetterStatus(StrEnum):
    """Status of a dead letter.

    Open: awaits a decision. Redriven: was run again, as another execution. Discarded: was closed without another run.
    """

    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


class DeadLetterCause(StrEnum):
    """Cause of a dead letter."""

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
    """Return the cause of a dead letter from the final state and the error of its execution."""
    if state is ExecutionState.TIMED_OUT:
        return DeadLetterCause.TIMED_OUT
    return _CAUSE_BY_ERROR_TYPE.get(str((error or {}).get("type")), DeadLetterCause.RAISED)
