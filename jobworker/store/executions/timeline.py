"""Timeline of one execution, for readers: attempts, transitions, log lines, and a snapshot to detect changes."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions import events
from jobworker.domain.executions.execution import AttemptState, ExecutionState, compute_rank
from jobworker.store import unreadable_rows
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_name_key, parse_number_key
from jobworker.store.tables import core

_attempts = core.attempts
_transitions = core.transitions
_logs = core.execution_logs
_executions = core.executions

_ID: sa.BindParameter[str] = sa.bindparam("id")
_SNAPSHOT_QUERY = sa.select(
    _executions.c.state,
    _executions.c.attempt,
    sa.select(sa.func.count()).where(_transitions.c.execution_id == _ID).scalar_subquery(),
    _executions.c.progress,
    _executions.c["metadata"],
    sa.select(sa.func.max(_logs.c.seq)).where(_logs.c.execution_id == _ID).scalar_subquery(),
    _executions.c.event_id,
    sa.select(core.relay_state.c.logged_through).where(core.relay_state.c.id == 1).scalar_subquery(),
).where(_executions.c.id == _ID)


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """Attempt that a worker started."""

    attempt: int
    state: AttemptState
    reason: str | None
    worker: str | None
    code_version: str | None
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    runtime: float | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TransitionRow:
    """Change of state."""

    attempt: int
    state: ExecutionState
    at: dt.datetime
    actor: str
    reason: str | None

    @property
    def position(self) -> tuple[int, int]:
        """Position in the timeline."""
        return compute_rank(self.attempt, self.state)


@dataclass(frozen=True, slots=True)
class LogRow:
    """Log line of a job."""

    seq: str
    attempt: int
    at: dt.datetime
    level: str
    logger: str
    message: str


@dataclass(frozen=True, slots=True)
class ExecutionSnapshot:
    """Columns that change with every event of an execution, cheap enough to poll several times a second.

    `lines_complete`: all log lines written before the latest change of state are recorded.
    """

    state: ExecutionState
    attempt: int
    transitions: int
    progress: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    last_log: str | None
    lines_complete: bool


def get_snapshot(connection: sa.Connection, execution_id: str) -> ExecutionSnapshot | None:
    """Return the snapshot of an execution."""
    row = connection.execute(_SNAPSHOT_QUERY, {"id": execution_id}).one_or_none()
    if row is None:
        return None
    values = {"state": row[0], "attempt": row[1], "progress": row[3], "metadata": row[4]}
    values = unreadable_rows.repair_row(f"execution {execution_id}", values, _EXECUTION_SHAPE)
    return ExecutionSnapshot(
        transitions=row[2], **values, last_log=row[5], lines_complete=_are_logs_complete(row[6], row[7])
    )


def _are_logs_complete(state: str, lines: str | None) -> bool:
    """Return whether log lines are recorded up to a state (both stream ids); lines may arrive later than events."""
    try:
        return lines is None or events.parse_stream_id(state) <= events.parse_stream_id(lines)
    except unreadable_rows.READ_ERRORS:
        return True  # With an unreadable id, the wait for lines would never end.


def list_attempts(
    connection: sa.Connection, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[AttemptRow]:
    """Return a page of the attempts, in order."""
    listing = Paginator("attempts", {"execution": execution_id}, parse_number_key)
    after = listing.parse_cursor(cursor) or 0
    query = (
        sa.select(*(_attempts.c[item.name] for item in fields(AttemptRow)))
        .where(_attempts.c.execution_id == execution_id, _attempts.c.attempt > after)
        .order_by(_attempts.c.attempt)
        .limit(limit + 1)
    )

    def what(row: Any) -> str:
        return f"attempt {row.attempt} of execution {execution_id}"

    def read(row: sa.Row[Any]) -> AttemptRow:
        return AttemptRow(**unreadable_rows.repair_row(what(row), dict(row._mapping), _ATTEMPT_SHAPE))

    return listing.read_page(connection.execute(query).all(), limit, lambda row: str(row.attempt), read, what)


_ATTEMPT_SHAPE = unreadable_rows.RowShape(
    _attempts, {"error": unreadable_rows.build_object_check(type=str, message=str)}, {"state": AttemptState}
)
_EXECUTION_SHAPE = unreadable_rows.RowShape(
    core.executions,
    {"progress": unreadable_rows.is_object, "metadata": unreadable_rows.is_object},
    {"state": ExecutionState},
)


def list_all_transitions(connection: sa.Connection, execution_id: str) -> Sequence[TransitionRow]:
    """Return all transitions in the order of their positions (reports may have arrived in another order)."""
    query = sa.select(_transitions).where(_transitions.c.execution_id == execution_id)
    rows = unreadable_rows.read_all(connection.execute(query), _read_transition)
    return sorted(rows, key=lambda row: row.position)


def _to_transition(row: sa.Row[Any]) -> TransitionRow:
    return TransitionRow(row.attempt, ExecutionState(row.state), row.at, row.actor, row.reason)


_read_transition = unreadable_rows.build_reader(
    lambda row: f"transition of attempt {row.attempt} to {row.state} of execution {row.execution_id}",
    _to_transition,
    _transitions,
)


def list_transitions(
    connection: sa.Connection, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[TransitionRow]:
    """Return a page of the transitions, in order."""
    listing = Paginator("transitions", {"execution": execution_id}, _parse_position_key)
    after = listing.parse_cursor(cursor)
    rows = list_all_transitions(connection, execution_id)
    if after is not None:
        rows = [row for row in rows if row.position > after]
    return listing.build_page(rows[: limit + 1], limit, lambda row: "{}.{}".format(*row.position))


def _parse_position_key(key: str) -> tuple[int, int]:
    attempt, _, rank = key.partition(".")
    return parse_number_key(attempt), parse_number_key(rank)


def list_logs(
    connection: sa.Connection, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[LogRow]:
    """Return a page of the log lines, in order."""
    listing = Paginator("logs", {"execution": execution_id}, parse_name_key)
    rows = list_logs_after(connection, execution_id, listing.parse_cursor(cursor) or "", limit + 1)
    return listing.build_page(rows, limit, lambda row: row.seq)


def list_logs_after(connection: sa.Connection, execution_id: str, seq: str, limit: int) -> Sequence[LogRow]:
    """Return up to `limit` lines after line `seq`; an empty `seq` precedes all lines."""
    query = sa.select(_logs).where(_logs.c.execution_id == execution_id).order_by(_logs.c.seq)
    log_rows: list[LogRow] = []
    more = True
    while more and len(log_rows) < limit:
        missing = limit - len(log_rows)
        rows = connection.execute(query.where(_logs.c.seq > seq).limit(missing)).all()
        log_rows += unreadable_rows.read_all(rows, _read_log_row)
        # Unreadable lines must not look like the end of the log.
        more = len(rows) == missing
        seq = rows[-1].seq if rows else seq
    return log_rows


_read_log_row = unreadable_rows.build_reader(
    lambda row: f"line {row.seq} of the log of execution {row.execution_id}",
    lambda row: LogRow(row.seq, row.attempt, row.at, row.level, row.logger, row.message),
    _logs,
)
