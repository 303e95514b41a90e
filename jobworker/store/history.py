"""Writing down what was reported: standings, attempts, transitions, logs."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobworker.domain import events
from jobworker.domain.execution import FINAL, Move, Standing, State
from jobworker.store.schema import attempts, execution_logs, executions, transitions

#: Most ids in one IN list; SQLite allows 32,766 variables.
_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of an execution, as far as a report can change it."""

    id: str
    job: str
    job_revision: int
    queue: str
    priority: int
    max_attempts: int | None
    dispatched_at: dt.datetime | None
    cancel_requested_by: str | None
    standing: Standing


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a job wrote."""

    execution: str
    event_id: str
    attempt: int
    at: dt.datetime
    level: str
    logger: str
    message: str


def known(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Known]:
    """The executions with these ids; unknown ids are absent."""
    wanted = list(ids)
    found: dict[str, Known] = {}
    for start in range(0, len(wanted), _CHUNK):
        query = sa.select(*_KNOWN_COLUMNS).where(executions.c.id.in_(wanted[start : start + _CHUNK]))
        for row in connection.execute(query):
            found[row.id] = _known(row)
    return found


_KNOWN_COLUMNS = [
    executions.c[name]
    for name in (
        "id", "job", "job_revision", "queue", "priority", "max_attempts", "dispatched_at", "cancel_requested_by",
        "state", "attempt", "event_id", "reason", "due_at", "finished_at", "result", "error",
        "started_attempt", "started_at", "worker", "token", "code_version", "lost_attempts",
    )
]  # fmt: skip


def _known(row: Any) -> Known:
    return Known(
        id=row.id,
        job=row.job,
        job_revision=row.job_revision,
        queue=row.queue,
        priority=row.priority,
        max_attempts=row.max_attempts,
        dispatched_at=row.dispatched_at,
        cancel_requested_by=row.cancel_requested_by,
        standing=Standing(
            state=State(row.state),
            attempt=row.attempt,
            event_id=events.parse_id(row.event_id),
            reason=row.reason,
            due_at=row.due_at,
            finished_at=row.finished_at,
            result=row.result,
            error=row.error,
            started_attempt=row.started_attempt,
            started_at=row.started_at,
            worker=row.worker,
            token=row.token,
            code_version=row.code_version,
            lost_attempts=frozenset(row.lost_attempts or ()),
        ),
    )


def save(connection: sa.Connection, standings: Mapping[str, Standing]) -> None:
    """Write the rows of these executions."""
    if standings:
        connection.execute(_SAVE, [_row(key, standing) for key, standing in standings.items()])


_SAVED = (
    "state", "attempt", "event_id", "reason", "due_at", "finished_at", "result", "error", "started_attempt",
    "started_at", "worker", "token", "code_version", "lost_attempts", "dispatched_at",
)  # fmt: skip

# dispatched_at: a Queued row is only ever marked by the dispatcher, so a report always ends that.
_SAVE = (
    sa.update(executions)
    .where(executions.c.id == sa.bindparam("key"))
    .values({name: sa.bindparam(f"new_{name}") for name in _SAVED})
)


def _row(key: str, standing: Standing) -> dict[str, Any]:
    values = {f"new_{name}": getattr(standing, name, None) for name in _SAVED}
    values["new_state"] = standing.state.value
    values["new_event_id"] = events.format_id(standing.event_id)
    values["new_lost_attempts"] = sorted(standing.lost_attempts) or None
    return {"key": key, **values}


def add_transitions(connection: sa.Connection, moves: Sequence[Move]) -> None:
    """Keep each move once, however often it is reported."""
    if moves:
        rows = [
            {
                "execution_id": move.execution,
                "attempt": move.attempt,
                "state": move.state.value,
                "at": move.at,
                "actor": move.actor,
                "reason": move.reason,
            }
            for move in moves
        ]
        connection.execute(_insert(connection, transitions).on_conflict_do_nothing(), rows)


def add_attempts(connection: sa.Connection, moves: Sequence[Move]) -> None:
    """Keep what these moves say about single attempts: starts open a row, ends complete it."""
    starts = [move for move in moves if move.state is State.RUNNING]
    ends = [move for move in moves if move.attempt and (move.state in FINAL or move.state is State.RETRYING)]
    if starts:
        statement = _insert(connection, attempts)
        # A start that comes after its end must not reopen the attempt.
        again = {name: getattr(statement.excluded, name) for name in ("worker", "code_version", "started_at")}
        connection.execute(
            statement.on_conflict_do_update(index_elements=["execution_id", "attempt"], set_=again),
            [_started(move) for move in starts],
        )
    if ends:
        statement = _insert(connection, attempts)
        told = {
            name: getattr(statement.excluded, name) for name in ("state", "reason", "finished_at", "runtime", "error")
        }
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["execution_id", "attempt"], set_=told, where=attempts.c.finished_at.is_(None)
            ),
            [_ended(move) for move in ends],
        )


def _started(move: Move) -> dict[str, Any]:
    return {
        "execution_id": move.execution,
        "attempt": move.attempt,
        "state": State.RUNNING.value,
        "worker": move.worker,
        "code_version": move.code_version,
        "started_at": move.at,
    }


def _ended(move: Move) -> dict[str, Any]:
    return {
        "execution_id": move.execution,
        "attempt": move.attempt,
        "state": "Lost" if move.lost else State.FAILED.value if move.state is State.RETRYING else move.state.value,
        "reason": move.reason,
        "worker": move.worker,
        "finished_at": move.at,
        "runtime": move.runtime,
        "error": dict(move.error) if move.error else None,
    }


def add_logs(connection: sa.Connection, lines: Sequence[LogLine]) -> None:
    """Keep each line once. Lines of executions that do not exist must have been left out."""
    if lines:
        rows = [
            {
                "execution_id": line.execution,
                "seq": sortable(line.event_id),
                "attempt": line.attempt,
                "at": line.at,
                "level": line.level,
                "logger": line.logger,
                "message": line.message,
            }
            for line in lines
        ]
        connection.execute(_insert(connection, execution_logs).on_conflict_do_nothing(), rows)


def save_progress(connection: sa.Connection, progress: Mapping[str, Mapping[str, Any]]) -> None:
    """Overwrite how far these executions are."""
    if progress:
        connection.execute(
            sa.update(executions)
            .where(executions.c.id == sa.bindparam("key"))
            .values(progress=sa.bindparam("new_progress")),
            [{"key": key, "new_progress": dict(value)} for key, value in progress.items()],
        )


def existing(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Which of these executions exist."""
    return set(connection.scalars(sa.select(executions.c.id).where(executions.c.id.in_(list(ids)))))


def sortable(stream_id: str) -> str:
    """A stream id in a form that sorts as text: 14 + 6 digits."""
    milliseconds, sequence = events.parse_id(stream_id)
    return f"{milliseconds:014d}-{sequence:06d}"


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table)
