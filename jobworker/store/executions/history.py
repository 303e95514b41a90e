"""History of executions: reported states, attempts and transitions."""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobworker.domain.executions import events
from jobworker.domain.executions.dead_letter import DeadLetterStatus
from jobworker.domain.executions.execution import (
    FINAL_STATES,
    ExecutionState,
    MergedExecution,
    StateTransition,
)
from jobworker.store import unreadable_rows
from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.database.id_chunks import split_ids
from jobworker.store.tables.core import attempts, executions, transitions


@dataclass(frozen=True, slots=True)
class StoredExecution:
    """Stored part of an execution that reports can change."""

    id: str
    job: str
    job_revision: int
    task: str
    queue: str
    urgency: int
    max_attempts: int | None
    dispatched_at: dt.datetime | None
    cancel_requested_by: str | None
    batch_id: str | None
    schedule_id: str | None
    correlation_id: str
    merged: MergedExecution


def get_many(connection: sa.Connection, ids: Iterable[str]) -> dict[str, StoredExecution]:
    """Return the executions with these ids, by id, without unknown and unreadable ones."""
    stored: dict[str, StoredExecution] = {}
    for chunk in split_ids(ids):
        query = sa.select(*_COLUMNS).where(executions.c.id.in_(chunk))
        stored.update(
            (row.id, row) for row in unreadable_rows.read_all(connection.execute(query), _read_stored_execution)
        )
    return stored


_COLUMNS = [
    executions.c[name]
    for name in (
        "id", "job", "job_revision", "task", "queue", "priority", "urgency", "max_attempts", "dispatched_at",
        "cancel_requested_by", "state", "attempt", "event_id", "reason", "due_at", "finished_at", "result",
        "result_file", "error", "started_attempt", "started_at", "worker", "token", "code_version", "lost_attempts",
        "interrupted_attempts", "snoozed_attempts", "batch_id", "schedule_id", "correlation_id",
    )
]  # fmt: skip


def _to_stored_execution(row: Any) -> StoredExecution:
    return StoredExecution(
        id=row.id,
        job=row.job,
        job_revision=row.job_revision,
        task=row.task,
        queue=row.queue,
        urgency=row.priority if row.urgency is None else row.urgency,
        max_attempts=row.max_attempts,
        dispatched_at=row.dispatched_at,
        cancel_requested_by=row.cancel_requested_by,
        batch_id=row.batch_id,
        schedule_id=row.schedule_id,
        correlation_id=row.correlation_id,
        merged=MergedExecution(
            state=ExecutionState(row.state),
            attempt=row.attempt,
            event_id=events.parse_stream_id(row.event_id),
            reason=row.reason,
            due_at=row.due_at,
            finished_at=row.finished_at,
            result=row.result,
            result_file=row.result_file,
            error=row.error,
            started_attempt=row.started_attempt,
            started_at=row.started_at,
            worker=row.worker,
            token=row.token,
            code_version=row.code_version,
            lost_attempts=frozenset(row.lost_attempts or ()),
            interrupted_attempts=frozenset(row.interrupted_attempts or ()),
            snoozed_attempts=frozenset(row.snoozed_attempts or ()),
        ),
    )


_read_stored_execution = unreadable_rows.build_reader(lambda row: f"state of execution {row.id}", _to_stored_execution)


def update_merged_executions(
    connection: sa.Connection,
    merged_executions: Mapping[str, MergedExecution],
    dead_letters: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the rows of these executions; mark those in `dead_letters` (id → fingerprint) as dead letters.

    An earlier decision about a dead letter is kept.
    """
    _SAVE.run(
        connection,
        (
            (*_to_values(key, merged), dead_letters.get(key), key in dead_letters)
            for key, merged in merged_executions.items()
        ),
    )


_SAVED_COLUMNS = (
    "state", "attempt", "event_id", "reason", "due_at", "finished_at", "result", "result_file", "error",
    "started_attempt", "started_at", "worker", "token", "code_version", "lost_attempts", "interrupted_attempts",
    "snoozed_attempts",
)  # fmt: skip


def _build_save(_dialect: str) -> Any:
    names = (*_SAVED_COLUMNS, "fingerprint")
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}", type_=executions.c[name].type) for name in names}
    is_dead = sa.bindparam("is_dead", type_=sa.Boolean)
    open_letter: Any = sa.literal_column(f"'{DeadLetterStatus.OPEN}'")
    values["dead_letter"] = sa.case((is_dead, sa.func.coalesce(executions.c.dead_letter, open_letter)))
    return sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(**values)


_SAVE = BulkStatement(_build_save, ["key", *(f"new_{name}" for name in _SAVED_COLUMNS), "new_fingerprint", "is_dead"])


def _to_values(key: str, merged: MergedExecution) -> tuple[Any, ...]:
    return (
        key,
        merged.state.value,
        merged.attempt,
        events.format_stream_id(merged.event_id),
        merged.reason,
        merged.due_at,
        merged.finished_at,
        merged.result,
        merged.result_file,
        merged.error,
        merged.started_attempt,
        merged.started_at,
        merged.worker,
        merged.token,
        merged.code_version,
        sorted(merged.lost_attempts) or None,
        sorted(merged.interrupted_attempts) or None,
        sorted(merged.snoozed_attempts) or None,
    )


def insert_transitions(connection: sa.Connection, moves: Sequence[StateTransition]) -> None:
    """Insert transitions; those that exist already are skipped."""
    _ADD_TRANSITION.run(
        connection,
        (
            (move.execution, move.attempt, move.state.value, move.at, move.actor, move.describe_reason())
            for move in moves
        ),
    )


_TRANSITION_COLUMNS = ("execution_id", "attempt", "state", "at", "actor", "reason")


def _build_add_transition(dialect: str) -> Any:
    return build_insert(dialect, transitions, _TRANSITION_COLUMNS).on_conflict_do_nothing()


_ADD_TRANSITION = BulkStatement(_build_add_transition, _TRANSITION_COLUMNS)


def upsert_attempts(connection: sa.Connection, moves: Sequence[StateTransition]) -> None:
    """Write the attempts of these transitions: a start inserts a row, an end completes it.

    An attempt that never ran (for instance with an expired message) gets no row; its execution and transitions record
    it.
    """
    starts = [move for move in moves if move.state is ExecutionState.RUNNING]
    ends = [
        move for move in moves if move.ran and (move.state in FINAL_STATES or move.state is ExecutionState.RETRYING)
    ]
    _START_ATTEMPT.run(connection, (_to_start_values(move) for move in starts))
    _END_ATTEMPT.run(connection, (_to_end_values(move) for move in ends))


_START_COLUMNS = ("execution_id", "attempt", "state", "worker", "code_version", "started_at")
_END_COLUMNS = ("execution_id", "attempt", "state", "reason", "worker", "finished_at", "runtime", "error")


def _build_start(dialect: str) -> Any:
    statement = build_insert(dialect, attempts, _START_COLUMNS)
    # A start that is reported after its end must not reopen the attempt.
    again = {name: statement.excluded[name] for name in ("worker", "code_version", "started_at")}
    return statement.on_conflict_do_update(index_elements=["execution_id", "attempt"], set_=again)


def _build_end(dialect: str) -> Any:
    statement = build_insert(dialect, attempts, _END_COLUMNS)
    new_values = {name: statement.excluded[name] for name in ("state", "reason", "finished_at", "runtime", "error")}
    return statement.on_conflict_do_update(
        index_elements=["execution_id", "attempt"], set_=new_values, where=sa.text("attempts.finished_at IS NULL")
    )


_START_ATTEMPT = BulkStatement(_build_start, _START_COLUMNS)
_END_ATTEMPT = BulkStatement(_build_end, _END_COLUMNS)


def _to_start_values(move: StateTransition) -> tuple[Any, ...]:
    return (move.execution, move.attempt, ExecutionState.RUNNING.value, move.worker, move.code_version, move.at)


def _to_end_values(move: StateTransition) -> tuple[Any, ...]:
    return (
        move.execution,
        move.attempt,
        move.get_attempt_state().value,
        move.reason,
        move.worker,
        move.at,
        move.runtime,
        move.error,
    )


def build_insert(dialect: str, table: sa.Table, names: Sequence[str]) -> Any:
    """Build an INSERT of this dialect, which can be extended with ON CONFLICT."""
    values = {name: sa.bindparam(name, type_=table.c[name].type) for name in names}
    return (postgresql if dialect == "postgresql" else sqlite).insert(table).values(values)


def find_started_attempts(connection: sa.Connection, execution: str, numbers: Collection[int]) -> set[int]:
    """Return the numbers of these attempts of an execution that have started."""
    query = sa.select(attempts.c.attempt).where(
        attempts.c.execution_id == execution, attempts.c.attempt.in_(numbers), attempts.c.started_at.is_not(None)
    )
    return set(connection.scalars(query))


def restore_attempt(connection: sa.Connection, execution_id: str) -> int:
    """Restore the unreadable number of the last attempt from the transitions; return it."""
    attempt_numbers = connection.scalars(
        sa.select(transitions.c.attempt).where(transitions.c.execution_id == execution_id)
    )
    attempt = max((number for number in attempt_numbers if isinstance(number, int)), default=0)
    connection.execute(sa.update(executions).where(executions.c.id == execution_id).values(attempt=attempt))
    return attempt
