"""One execution of a job: its states, the moves between them, and how reports are merged.

Waiting     Accepted, and it depends on others. When the last of them has ended as it should, the relay moves it to
            Scheduled or Queued; when one has ended otherwise, to Skipped or Failed, as the dependency says.
Scheduled   Accepted, due later. The submission puts it here; the relay moves it to Queued when it is due.
Queued      Due. The relay publishes it as soon as nothing speaks against it; a worker's claim moves it to Running.
            A message that no worker can start ends it: Skipped or Failed.
Running     A worker holds it. The worker's report moves it on; if the worker dies, the relay does.
Retrying    An attempt failed and another is due later. The relay moves it to Queued when it is due.
Succeeded   Final. The job returned.
Failed      Final. No attempt is left, or the job said that none would help, or its message could not be started.
TimedOut    Final. A time limit ended it and no attempt is left.
Cancelled   Final. Somebody stopped it.
Skipped     Final. It was not run (or not again), for the reason given.

Reports from workers may arrive late, twice or out of order. `merge` is commutative, associative and
idempotent, so the row ends the same whatever the order.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class State(StrEnum):
    """Where an execution stands."""

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
    """How one attempt stands. A Failed one may have been followed by another.

    Lost: its worker died. Interrupted: its worker was shut down. Snoozed: the job put it off. An attempt that never
    ran has no state.
    """

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"
    CANCELLED = "Cancelled"
    LOST = "Lost"
    INTERRUPTED = "Interrupted"
    SNOOZED = "Snoozed"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED, State.SKIPPED})

#: Who may follow whom. The chart in docs/states.md is rendered from this table.
MOVES: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset({State.SCHEDULED, State.QUEUED, State.FAILED, State.CANCELLED, State.SKIPPED}),
    State.SCHEDULED: frozenset({State.QUEUED, State.CANCELLED, State.SKIPPED}),
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED, State.SKIPPED}),
    State.RUNNING: frozenset({State.RETRYING, State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED}),
    State.RETRYING: frozenset({State.QUEUED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.TIMED_OUT: frozenset(),
    State.CANCELLED: frozenset(),
    State.SKIPPED: frozenset(),
}

#: Order of the states within one attempt. Queued after attempt n waits for attempt n + 1.
_RANK: Mapping[State, int] = {
    State.WAITING: -1,
    State.SCHEDULED: 0,
    State.RUNNING: 1,
    State.RETRYING: 2,
    State.QUEUED: 3,
    State.SUCCEEDED: 4,
    State.FAILED: 4,
    State.TIMED_OUT: 4,
    State.CANCELLED: 4,
    State.SKIPPED: 4,
}

#: A job that put itself off this often fails: each time costs a row that is kept.
MAX_SNOOZES = 1000

#: Highest and lowest priority that a submission may ask for; 9 is the most urgent.
PRIORITIES = range(10)
DEFAULT_PRIORITY = 5


@dataclass(frozen=True, slots=True)
class Move:
    """One reported change of state: who, when, why, and what came of it.

    `event_id` orders reports: the pair of numbers of the Redis stream entry it came with. Not `ran`: it is about
    what follows attempt `attempt` and never started.
    """

    execution: str
    attempt: int
    state: State
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


class Standing(NamedTuple):
    """What is known about an execution: two registers, each a maximum over the reports seen, and three sets.

    The *outcome* register (state, attempt, event_id, …) holds the most advanced report, the *start*
    register (started_…, worker, token, code_version) the latest attempt's start, so that a start
    which arrives after the end still completes the picture. The sets hold the attempts that used up no retry.
    """

    state: State
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
        """Whether nothing more will happen."""
        return self.state in FINAL


def _precedence(attempt: int, state: State, event_id: tuple[int, int]) -> tuple[int, int, int, int]:
    # The earlier of two equal reports wins, hence the minus signs.
    return (attempt, _RANK[state], -event_id[0], -event_id[1])


def position(attempt: int, state: State) -> tuple[int, int]:
    """Where a state of an attempt stands in the story of its execution; later chapters compare greater."""
    return attempt, _RANK[state]


def merge(standing: Standing, move: Move) -> Standing:
    """The standing after taking notice of one more report.

    Within an attempt a final state absorbs every other; a report about an older attempt changes
    nothing; of two final states the one reported first stays.
    """
    merged = standing
    if move.lost and move.attempt not in merged.lost_attempts:
        merged = merged._replace(lost_attempts=merged.lost_attempts | {move.attempt})
    if move.interrupted and move.attempt not in merged.interrupted_attempts:
        merged = merged._replace(interrupted_attempts=merged.interrupted_attempts | {move.attempt})
    if move.snoozed and move.attempt not in merged.snoozed_attempts:
        merged = merged._replace(snoozed_attempts=merged.snoozed_attempts | {move.attempt})
    if move.due_at and (merged.due_at is None or move.due_at > merged.due_at):
        merged = merged._replace(due_at=move.due_at)
    if move.state is State.RUNNING:
        merged = _merge_start(merged, move)
    theirs = _precedence(move.attempt, move.state, move.event_id)
    if theirs <= _precedence(merged.attempt, merged.state, merged.event_id):
        return merged
    final = move.state in FINAL
    return merged._replace(
        state=move.state,
        attempt=move.attempt,
        event_id=move.event_id,
        reason=move.reason,
        finished_at=move.at if final else None,
        result=move.result if final else None,
        result_file=move.result_file if final else None,
        error=move.error,
    )


def _merge_start(standing: Standing, move: Move) -> Standing:
    current = (standing.started_attempt, -_moment(standing.started_at), standing.token or "")
    if (move.attempt, -_moment(move.at), move.token or "") <= current:
        return standing
    return standing._replace(
        started_attempt=move.attempt,
        started_at=move.at,
        worker=move.worker,
        token=move.token,
        code_version=move.code_version,
    )


def _moment(at: dt.datetime | None) -> float:
    return at.timestamp() if at else 0.0


def retries_used(attempt: int, free: int) -> int:
    """How many retries of its policy an execution has used once `attempt` attempts were started.

    `free` of them used none up: they were lost or interrupted with their worker, or the job put them off.
    """
    return max(0, attempt - 1 - free)
