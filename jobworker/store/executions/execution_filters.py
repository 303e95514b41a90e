"""Filters of executions, shared by lists and bulk actions."""

import datetime as dt
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.tables.core import executions
from jobworker.store.tables.schedules import occurrences

#: Maximum time by which the time in an id is later than its creation (s), because ids never decrease, even if the clock
#: of the host is set back.
_CLOCK_SLACK_SECONDS = 24 * 3600.0

_UUID_RANDOM_BITS = 80


@dataclass(frozen=True, slots=True)
class ExecutionFilters:
    """Filters of executions; None does not filter."""

    job: str | None = None
    state: ExecutionState | None = None
    queue: str | None = None
    correlation_id: str | None = None
    batch_id: str | None = None
    rerun_of: str | None = None
    fingerprint: str | None = None
    schedule_id: str | None = None
    error_type: str | None = None
    created_after: dt.datetime | None = None
    created_before: dt.datetime | None = None
    ended_after: dt.datetime | None = None
    ended_before: dt.datetime | None = None


_EQUALITY_FILTERS = ("job", "state", "queue", "correlation_id", "batch_id", "rerun_of", "fingerprint")


class _ErrorType(sa.ColumnElement[str]):
    """SQL expression for the type of the error of an execution; null for an unreadable error."""

    inherit_cache = True
    type = sa.Text()


@compiles(_ErrorType)
def _compile_for_postgresql(_element: _ErrorType, _compiler: object, **_options: object) -> str:
    return "(executions.error ->> 'type')"


@compiles(_ErrorType, "sqlite")
def _compile_for_sqlite(_element: _ErrorType, _compiler: object, **_options: object) -> str:
    # One invalid JSON text would make the whole statement fail.
    return "CASE WHEN json_valid(executions.error) THEN executions.error ->> 'type' END"


def build_conditions(filters: ExecutionFilters) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the SQL conditions of these filters."""
    for name in _EQUALITY_FILTERS:
        value = getattr(filters, name)
        if value is not None:
            yield executions.c[name] == value
    if filters.schedule_id is not None:
        # The key of `occurrences` begins with the schedule; executions have no such index, for most have no schedule.
        started = sa.select(occurrences.c.execution_id).where(occurrences.c.schedule_id == filters.schedule_id)
        yield executions.c.id.in_(started)
    if filters.error_type is not None:
        yield _ErrorType() == filters.error_type
    # Ids are ordered by time and created_at has no index: the id bounds find the range, the column decides.
    if filters.created_after is not None:
        yield executions.c.id >= _compute_lowest_id(filters.created_after, 0)
        yield executions.c.created_at > filters.created_after
    if filters.created_before is not None:
        yield executions.c.id < _compute_lowest_id(filters.created_before, _CLOCK_SLACK_SECONDS)
        yield executions.c.created_at < filters.created_before
    if filters.ended_after is not None:
        yield executions.c.finished_at > filters.ended_after
    if filters.ended_before is not None:
        yield executions.c.finished_at < filters.ended_before


def list_ids(connection: sa.Connection, where: Sequence[Any], after: str | None, limit: int) -> list[str]:
    """Return the first `limit` ids of executions that fulfill `where`, after the id `after`."""
    query = sa.select(executions.c.id).where(*where).order_by(executions.c.id).limit(limit)
    if after is not None:
        query = query.where(executions.c.id > after)
    return list(connection.scalars(query))


def count_by_state(connection: sa.Connection, where: Sequence[Any], after: str | None) -> dict[ExecutionState, int]:
    """Count the executions that fulfill `where` after the id `after`, by state."""
    query = sa.select(executions.c.state, sa.func.count()).where(*where).group_by(executions.c.state)
    if after is not None:
        query = query.where(executions.c.id > after)
    return dict(unreadable_rows.read_all(connection.execute(query), _read_count))


_read_count = unreadable_rows.build_reader(
    lambda row: f"state {row[0]!r} of executions", lambda row: (ExecutionState(row[0]), row[1])
)


def _compute_lowest_id(moment: dt.datetime, slack: float) -> str:
    milliseconds = max(0, int((moment.timestamp() + slack) * 1000))
    return str(uuid.UUID(int=milliseconds << _UUID_RANDOM_BITS))
