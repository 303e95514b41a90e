"""Log lines of executions, and the sizes of logs."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions import events, log_limits
from jobworker.domain.executions.log_limits import DroppedLines
from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.executions.history import build_insert
from jobworker.store.tables.core import execution_logs, executions

#: Prefix of the `seq` of truncation marks, which sorts after all other lines.
_LAST_SEQ_PREFIX = "99999999999999-"


@dataclass(frozen=True, slots=True)
class LogLine:
    """Log line of a job. `seq` determines its position, see `format_seq`."""

    execution_id: str
    seq: str
    attempt: int
    at: dt.datetime
    level: str
    logger: str
    message: str


@dataclass(frozen=True, slots=True)
class LogSize:
    """Size of the stored log of an execution (bytes), and the dropped lines."""

    stored_bytes: int
    dropped: DroppedLines


def get_sizes(connection: sa.Connection, ids: Iterable[str]) -> dict[str, LogSize]:
    """Return the log sizes of the existing executions among `ids`, by id."""
    query = sa.select(executions.c.id, executions.c.log_bytes, executions.c.log_dropped).where(
        executions.c.id.in_(list(ids))
    )
    return {
        row.id: LogSize(row.log_bytes or 0, DroppedLines(*(row.log_dropped or ()))) for row in connection.execute(query)
    }


def update_sizes(connection: sa.Connection, changed: Mapping[str, LogSize]) -> None:
    """Write the sizes of these logs."""
    _UPDATE_SIZE.run(connection, ((key, size.stored_bytes, _to_counts(size.dropped)) for key, size in changed.items()))


def _to_counts(dropped: DroppedLines) -> list[int] | None:
    return [dropped.lines, dropped.size] if dropped else None


def _build_size_update(_dialect: str) -> Any:
    values = {name: sa.bindparam(f"new_{name}", type_=executions.c[name].type) for name in ("log_bytes", "log_dropped")}
    return sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(**values)


_UPDATE_SIZE = BulkStatement(_build_size_update, ["key", "new_log_bytes", "new_log_dropped"])


def insert(connection: sa.Connection, lines: Iterable[LogLine]) -> None:
    """Insert log lines; existing lines are skipped. All executions must exist."""
    _INSERT.run(connection, ([getattr(line, name) for name in _COLUMNS] for line in lines))


_COLUMNS = tuple(item.name for item in fields(LogLine))


def _build_insert(dialect: str) -> Any:
    return build_insert(dialect, execution_logs, _COLUMNS).on_conflict_do_nothing()


_INSERT = BulkStatement(_build_insert, _COLUMNS)


def build_truncation_mark(execution_id: str, dropped: DroppedLines, attempt: int, at: dt.datetime) -> LogLine:
    """Return the last line of a log that is too long.

    Its `seq` grows with the number of dropped lines, so that readers of an earlier mark also read the later one.
    """
    seq = f"{_LAST_SEQ_PREFIX}{dropped.lines:012d}"
    return LogLine(execution_id, seq, attempt, at, "WARNING", "jobworker", log_limits.format_cut_notice(dropped))


def replace_truncation_marks(connection: sa.Connection, marks: Sequence[LogLine]) -> None:
    """Replace the truncation marks of these logs."""
    marked = [mark.execution_id for mark in marks]
    if marked:
        connection.execute(
            sa.delete(execution_logs).where(
                execution_logs.c.execution_id.in_(marked), execution_logs.c.seq >= _LAST_SEQ_PREFIX
            )
        )
        insert(connection, marks)


def is_truncation_mark(seq: str) -> bool:
    """Return whether `seq` belongs to a truncation mark."""
    return seq.startswith(_LAST_SEQ_PREFIX)


def format_seq(stream_id: str) -> str:
    """Format a stream id so that it sorts as text: 14 + 6 digits."""
    milliseconds, sequence = events.parse_stream_id(stream_id)
    return f"{milliseconds:014d}-{sequence:06d}"
