"""Writing down what was reported: standings, attempts, transitions, logs."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobworker.domain import events
from jobworker.domain.execution import FINAL, AttemptState, Move, Standing, State
from jobworker.store.bulk import Bulk
from jobworker.store.schema import attempts, execution_logs, executions, transitions

#: Most ids in one IN list; SQLite allows 32,766 variables.
_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of an execution, as far as a report can change it."""

    id: str
    job: str
    job_revision: int
    task: str
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
        "id", "job", "job_revision", "task", "queue", "priority", "max_attempts", "dispatched_at",
        "cancel_requested_by", "state", "attempt", "event_id", "reason", "due_at", "finished_at", "result", "error",
        "started_attempt", "started_at", "worker", "token", "code_version", "lost_attempts", "interrupted_attempts",
    )
]  # fmt: skip


def _known(row: Any) -> Known:
    return Known(
        id=row.id,
        job=row.job,
        job_revision=row.job_revision,
        task=row.task,
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
            interrupted_attempts=frozenset(row.interrupted_attempts or ()),
        ),
    )


def save(connection: sa.Connection, standings: Mapping[str, Standing]) -> None:
    """Write the rows of these executions."""
    _SAVE.run(connection, (_row(key, standing) for key, standing in standings.items()))


_SAVED = (
    "state", "attempt", "event_id", "reason", "due_at", "finished_at", "result", "error", "started_attempt",
    "started_at", "worker", "token", "code_version", "lost_attempts", "interrupted_attempts",
)  # fmt: skip


def _build_save(_dialect: str) -> Any:
    values = {name: sa.bindparam(f"new_{name}", type_=executions.c[name].type) for name in _SAVED}
    return sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(**values)


_SAVE = Bulk(_build_save, ["key", *(f"new_{name}" for name in _SAVED)])


def _row(key: str, standing: Standing) -> tuple[Any, ...]:
    return (
        key,
        standing.state.value,
        standing.attempt,
        events.format_id(standing.event_id),
        standing.reason,
        standing.due_at,
        standing.finished_at,
        standing.result,
        standing.error,
        standing.started_attempt,
        standing.started_at,
        standing.worker,
        standing.token,
        standing.code_version,
        sorted(standing.lost_attempts) or None,
        sorted(standing.interrupted_attempts) or None,
    )


def add_transitions(connection: sa.Connection, moves: Sequence[Move]) -> None:
    """Keep each move once, however often it is reported."""
    _ADD_TRANSITION.run(
        connection,
        ((move.execution, move.attempt, move.state.value, move.at, move.actor, _why(move)) for move in moves),
    )


_PLAIN_REASONS = {State.RUNNING: "claimed by a worker", State.SUCCEEDED: "the job returned"}
_MAX_REASON = 200


def _why(move: Move) -> str | None:
    if move.reason is None and move.error is not None:
        return f"{move.error.get('type')}: {move.error.get('message')}"[:_MAX_REASON]
    return move.reason or _PLAIN_REASONS.get(move.state)


_TRANSITION = ("execution_id", "attempt", "state", "at", "actor", "reason")


def _build_add_transition(dialect: str) -> Any:
    return _insert(dialect, transitions, _TRANSITION).on_conflict_do_nothing()


_ADD_TRANSITION = Bulk(_build_add_transition, _TRANSITION)


def add_attempts(connection: sa.Connection, moves: Sequence[Move]) -> None:
    """Keep what these moves say about single attempts: starts open a row, ends complete it.

    An attempt that never ran (its message expired, say) gets no row: the execution and its transitions tell of it.
    """
    starts = [move for move in moves if move.state is State.RUNNING]
    ends = [move for move in moves if move.ran and (move.state in FINAL or move.state is State.RETRYING)]
    _START_ATTEMPT.run(connection, (_started(move) for move in starts))
    _END_ATTEMPT.run(connection, (_ended(move) for move in ends))


_START = ("execution_id", "attempt", "state", "worker", "code_version", "started_at")
_END = ("execution_id", "attempt", "state", "reason", "worker", "finished_at", "runtime", "error")


def _build_start(dialect: str) -> Any:
    statement = _insert(dialect, attempts, _START)
    # A start that comes after its end must not reopen the attempt.
    again = {name: statement.excluded[name] for name in ("worker", "code_version", "started_at")}
    return statement.on_conflict_do_update(index_elements=["execution_id", "attempt"], set_=again)


def _build_end(dialect: str) -> Any:
    statement = _insert(dialect, attempts, _END)
    told = {name: statement.excluded[name] for name in ("state", "reason", "finished_at", "runtime", "error")}
    return statement.on_conflict_do_update(
        index_elements=["execution_id", "attempt"], set_=told, where=sa.text("attempts.finished_at IS NULL")
    )


_START_ATTEMPT = Bulk(_build_start, _START)
_END_ATTEMPT = Bulk(_build_end, _END)


def _started(move: Move) -> tuple[Any, ...]:
    return (move.execution, move.attempt, State.RUNNING.value, move.worker, move.code_version, move.at)


def _ended(move: Move) -> tuple[Any, ...]:
    return (
        move.execution,
        move.attempt,
        _attempt_state(move).value,
        move.reason,
        move.worker,
        move.at,
        move.runtime,
        move.error,
    )


def _attempt_state(move: Move) -> AttemptState:
    if move.lost:
        return AttemptState.LOST
    if move.interrupted:
        return AttemptState.INTERRUPTED
    return AttemptState.FAILED if move.state is State.RETRYING else AttemptState(move.state.value)


def add_logs(connection: sa.Connection, lines: Sequence[LogLine]) -> None:
    """Keep each line once. Lines of executions that do not exist must have been left out."""
    _ADD_LOG.run(
        connection,
        (
            (line.execution, sortable(line.event_id), line.attempt, line.at, line.level, line.logger, line.message)
            for line in lines
        ),
    )


_LOG = ("execution_id", "seq", "attempt", "at", "level", "logger", "message")


def _build_add_log(dialect: str) -> Any:
    return _insert(dialect, execution_logs, _LOG).on_conflict_do_nothing()


_ADD_LOG = Bulk(_build_add_log, _LOG)


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


def _insert(dialect: str, table: sa.Table, names: Sequence[str]) -> Any:
    values = {name: sa.bindparam(name, type_=table.c[name].type) for name in names}
    return (postgresql if dialect == "postgresql" else sqlite).insert(table).values(values)
