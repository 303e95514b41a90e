"""An execution: its states, the transitions between them, and the merging of reports.

Waiting     Accepted, with unresolved dependencies. When all of them are met, the relay moves the execution to
            Scheduled or Queued; when one is not met, to Skipped or Failed, as the dependency specifies.
Scheduled   Accepted, due later. The submission creates this state; the relay moves the execution to Queued when due.
Queued      Due. The relay dispatches the execution when it has no blocker; a worker's claim moves it to Running.
            A message that no worker can start ends it: Skipped or Failed.
Running     A worker holds it. The worker's report ends this state; if the worker dies, the relay does.
Retrying    An attempt failed and another is due later. The relay moves the execution to Queued when due.
Succeeded   Final. The job returned.
Failed      Final. No attempt is left, or the job aborted, or its message could not be started.
TimedOut    Final. A time limit ended it and no attempt is left.
Cancelled   Final. It was cancelled.
Skipped     Final. It was not run (or not again), for the recorded reason.

Reports from workers may arrive late, twice or out of order. `merge_transition` is commutative, associative and
idempotent, so the resulting row does not depend on their order.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class ExecutionState(StrEnum):
    """State of an execution."""

    WAITING = "Waiting"
    SCHEDULED = "Scheduled"
    QUEUED = "Queued"
    RUNNING = "Running"
    RETRYING = "Retrying"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"
    CANCELLED = "Cancelled"
    SKIPPED = "Skipped"


class AttemptState(StrEnum):
    """State of an attempt. A Failed attempt may be followed by another.

    Lost: its worker died. Interrupted: its worker was shut down. Snoozed: the job postponed itself. An attempt that
    never ran has no state.
    """

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"
    CANCELLED = "Cancelled"
    LOST = "Lost"
    INTERRUPTED = "Interrupted"
    SNOOZED = "Snoozed"


FINAL_STATES = frozenset(
    {
        ExecutionState.SUCCEEDED,
        ExecutionState.FAILED,
        ExecutionState.TIMED_OUT,
        ExecutionState.CANCELLED,
        ExecutionState.SKIPPED,
    }
)

#: The allowed successors of each state. The chart in docs/states.md is rendered from this table.
ALLOWED_TRANSITIONS: Mapping[ExecutionState, frozenset[ExecutionState]] = {
    ExecutionState.WAITING: frozenset(
        {
            ExecutionState.SCHEDULED,
            ExecutionState.QUEUED,
            ExecutionState.FAILED,
            ExecutionState.CANCELLED,
            ExecutionState.SKIPPED,
        }
    ),
    ExecutionState.SCHEDULED: frozenset({ExecutionState.QUEUED, ExecutionState.CANCELLED, ExecutionState.SKIPPED}),
    ExecutionState.QUEUED: frozenset(
        {ExecutionState.RUNNING, ExecutionState.FAILED, ExecutionState.CANCELLED, ExecutionState.SKIPPED}
    ),
    ExecutionState.RUNNING: frozenset(
        {
            ExecutionState.RETRYING,
            ExecutionState.SUCCEEDED,
            ExecutionState.FAILED,
            ExecutionState.TIMED_OUT,
            ExecutionState.CANCELLED,
        }
    ),
    ExecutionState.RETRYING: frozenset({ExecutionState.QUEUED, ExecutionState.CANCELLED}),
    ExecutionState.SUCCEEDED: frozenset(),
    ExecutionState.FAILED: frozenset(),
    ExecutionState.TIMED_OUT: frozenset(),
    ExecutionState.CANCELLED: frozenset(),
    ExecutionState.SKIPPED: frozenset(),
}

#: Order of the states within one attempt. Queued after attempt n waits for attempt n + 1.
_RANK: Mapping[ExecutionState, int] = {
    ExecutionState.WAITING: -1,
    ExecutionState.SCHEDULED: 0,
    ExecutionState.RUNNING: 1,
    ExecutionState.RETRYING: 2,
    ExecutionState.QUEUED: 3,
    ExecutionState.SUCCEEDED: 4,
    ExecutionState.FAILED: 4,
    ExecutionState.TIMED_OUT: 4,
    ExecutionState.CANCELLED: 4,
    ExecutionState.SKIPPED: 4,
}

#: Maximum number of snoozes, after which the job fails, because each snooze adds a stored row.
MAX_SNOOZES = 1000

#: Priorities that a submission may have; 9 is the most urgent.
PRIORITIES = range(10)
DEFAULT_PRIORITY = 5


_DEFAULT_REASONS = {ExecutionState.RUNNING: "claimed by a worker", ExecutionState.SUCCEEDED: "the job returned"}
_MAX_REASON_LENGTH = 200


@dataclass(frozen=True, slots=True)
class StateTransition:
    """A reported change of state, with its actor, time, reason and result.

    `event_id` orders reports: the pair of numbers of the Redis stream entry of the report. If `ran` is false, the
    report is about an attempt after attempt `attempt` that never started.
    """

    execution: str
    attempt: int
    state: ExecutionState
    event_id: tuple[int, int]
    at: dt.datetime
    actor: str
    reason: str | None = None
    worker: str | None = None
    token: str | None = None
    code_version: str | None = None
    due_at: dt.datetime | None = None
    result: Any = None
    result_file: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    runtime: float | None = None
    lost: bool = False
    interrupted: bool = False
    ran: bool = True
    snoozed: bool = False
    timed_out: bool = False

    def get_attempt_state(self) -> AttemptState:
        """Return the state of the attempt that has ended with this transition."""
        if self.lost:
            return AttemptState.LOST
        if self.interrupted:
            return AttemptState.INTERRUPTED
        if self.snoozed:
            return AttemptState.SNOOZED
        if self.timed_out:
            return AttemptState.TIMED_OUT
        return AttemptState.FAILED if self.state is ExecutionState.RETRYING else AttemptState(self.state.value)

    def describe_reason(self) -> str | None:
        """Return the reason as the history shows it: the reported one, else the error, else that of the state."""
        if self.reason is None and self.error is not None:
            return f"{self.error.get('type')}: {self.error.get('message')}"[:_MAX_REASON_LENGTH]
        return self.reason or _DEFAULT_REASONS.get(self.state)


class MergedExecution(NamedTuple):
    """The merged reports about an execution: two registers, each a maximum over the reports received, and three sets.

    The *outcome* register (state, attempt, event_id, …) holds the most advanced report, the *start* register
    (started_…, worker, token, code_version) the latest attempt's start, so that a start which arrives after the end is
    still recorded. The sets hold the attempts that used up no retry.
    """

    state: ExecutionState
    attempt: int = 0
    event_id: tuple[int, int] = (0, 0)
    reason: str | None = None
    due_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    result: Any = None
    result_file: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    started_attempt: int = 0
    started_at: dt.datetime | None = None
    worker: str | None = None
    token: str | None = None
    code_version: str | None = None
    lost_attempts: frozenset[int] = frozenset()
    interrupted_attempts: frozenset[int] = frozenset()
    snoozed_attempts: frozenset[int] = frozenset()

    @property
    def is_final(self) -> bool:
        """True for a final state."""
        return self.state in FINAL_STATES


def _compute_precedence(attempt: int, state: ExecutionState, event_id: tuple[int, int]) -> tuple[int, int, int, int]:
    # The earlier of two equal reports wins, hence the minus signs.
    return (attempt, _RANK[state], -event_id[0], -event_id[1])


def compute_rank(attempt: int, state: ExecutionState) -> tuple[int, int]:
    """Return the rank of an attempt's state in the course of its execution; later states compare greater."""
    return attempt, _RANK[state]


def merge_transition(previous: MergedExecution, transition: StateTransition) -> MergedExecution:
    """Return the merged execution after one more report.

    Within an attempt a final state overrides every other state; a report about an older attempt does not change the
    outcome; of two final states the one reported first stays.
    """
    merged = previous
    if transition.lost and transition.attempt not in merged.lost_attempts:
        merged = merged._replace(lost_attempts=merged.lost_attempts | {transition.attempt})
    if transition.interrupted and transition.attempt not in merged.interrupted_attempts:
        merged = merged._replace(interrupted_attempts=merged.interrupted_attempts | {transition.attempt})
    if transition.snoozed and transition.attempt not in merged.snoozed_attempts:
        merged = merged._replace(snoozed_attempts=merged.snoozed_attempts | {transition.attempt})
    if transition.due_at and (merged.due_at is None or transition.due_at > merged.due_at):
        merged = merged._replace(due_at=transition.due_at)
    if transition.state is ExecutionState.RUNNING:
        merged = _merge_start(merged, transition)
    theirs = _compute_precedence(transition.attempt, transition.state, transition.event_id)
    if theirs <= _compute_precedence(merged.attempt, merged.state, merged.event_id):
        return merged
    final = transition.state in FINAL_STATES
    return merged._replace(
        state=transition.state,
        attempt=transition.attempt,
        event_id=transition.event_id,
        reason=transition.reason,
        finished_at=transition.at if final else None,
        result=transition.result if final else None,
        result_file=transition.result_file if final else None,
        error=transition.error,
    )


def _merge_start(previous: MergedExecution, transition: StateTransition) -> MergedExecution:
    current = (previous.started_attempt, -_to_timestamp(previous.started_at), previous.token or "")
    if (transition.attempt, -_to_timestamp(transition.at), transition.token or "") <= current:
        return previous
    return previous._replace(
        started_attempt=transition.attempt,
        started_at=transition.at,
        worker=transition.worker,
        token=transition.token,
        code_version=transition.code_version,
    )


def _to_timestamp(at: dt.datetime | None) -> float:
    return at.timestamp() if at else 0.0


def count_used_retries(attempt: int, uncounted_attempts: int) -> int:
    """Return the number of retries that an execution has used up after the start of `attempt` attempts.

    `uncounted_attempts` of them used up no retry: they were lost or interrupted with their worker, or snoozed by the
    job.
    """
    return max(0, attempt - 1 - uncounted_attempts)
