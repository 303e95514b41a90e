"""Due schedules: the rows that their evaluation reads and writes, in bulk, once per relay turn."""

import datetime as dt
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.database.id_chunks import split_ids
from jobworker.store.tables import core
from jobworker.store.tables.schedules import HAS_NEXT_DUE, HAS_PAUSE_END, job_schedules

_executions = core.executions

#: Maximum number of unfinished executions of a schedule that are read for one evaluation.
_MAX_UNFINISHED = 5_000


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """Row of a schedule for its evaluation, without its specification.

    `oldest` is the id of its oldest execution that has not ended.
    """

    id: str
    name: str
    job: str
    revision: int
    enabled: bool
    state: str
    paused_at: dt.datetime | None
    paused_by: str | None
    pause_note: str | None
    paused_until: dt.datetime | None
    settled_until: dt.datetime
    next_at: dt.datetime | None
    runs: int
    failures: int
    oldest: str | None


@dataclass(frozen=True, slots=True)
class UpcomingSchedule:
    """Schedule with its next due time."""

    id: str
    name: str
    revision: int
    next_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ScheduleProgress:
    """Progress of a schedule after its evaluation."""

    id: str
    settled_until: dt.datetime
    next_at: dt.datetime | None
    runs: int
    state: str


def get_many(connection: sa.Connection, ids: Sequence[str], lock: bool = True) -> list[DueSchedule]:
    """Return these schedules, ordered by id; `lock` excludes evaluation by other transactions until this one ends."""
    schedules: list[DueSchedule] = []
    for chunk in split_ids(ids):
        query = _DUE.where(job_schedules.c.id.in_(chunk)).order_by(job_schedules.c.id)
        schedules += [DueSchedule(*row) for row in connection.execute(query.with_for_update() if lock else query)]
    return schedules


def get_specs(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Any]:
    """Return the stored specifications of these schedules, by id."""
    specs: dict[str, Any] = {}
    for chunk in split_ids(ids):
        query = sa.select(job_schedules.c.id, job_schedules.c.spec).where(job_schedules.c.id.in_(chunk))
        specs.update((row.id, row.spec) for row in connection.execute(query))
    return specs


def list_unfinished_executions(connection: sa.Connection, schedule_id: str) -> list[tuple[str, ExecutionState]]:
    """Return (id, state) of up to `_MAX_UNFINISHED` executions of a schedule that have not ended, oldest first."""
    rows = connection.execute(_UNFINISHED, {"id": schedule_id})
    return list(unreadable_rows.read_all(rows, _read_unfinished))


_read_unfinished = unreadable_rows.build_reader(
    lambda row: f"state of execution {row.id}", lambda row: (row.id, ExecutionState(row.state))
)


def list_due(connection: sa.Connection, now: dt.datetime, limit: int) -> list[tuple[str, dt.datetime]]:
    """Return (id, due time) of up to `limit` schedules that are due at `now`, longest due first."""
    query = _DUE_ORDER.where(job_schedules.c.next_at <= now).limit(limit)
    return [(row.id, row.next_at) for row in connection.execute(query)]


def list_upcoming(
    connection: sa.Connection, after: tuple[dt.datetime, str], until: dt.datetime, limit: int
) -> list[UpcomingSchedule]:
    """Return the next `limit` schedules after the (due time, id) `after` that are due at `until` or earlier."""
    place = sa.tuple_(job_schedules.c.next_at, job_schedules.c.id) > sa.tuple_(
        sa.literal(after[0]), sa.literal(after[1])
    )
    query = _UPCOMING.where(place, job_schedules.c.next_at <= until).limit(limit)
    return [UpcomingSchedule(*row) for row in connection.execute(query)]


def get_next_due(connection: sa.Connection, after: dt.datetime) -> dt.datetime | None:
    """Return the first due time of all schedules after this moment."""
    return connection.scalar(_NEXT_DUE, {"after": after})


def update_progress(connection: sa.Connection, progress: Iterable[ScheduleProgress]) -> None:
    """Write how far these schedules are evaluated, and their next due times."""
    _UPDATE_PROGRESS.run(connection, map(_PROGRESS_VALUES, progress))


def list_run_at_start(connection: sa.Connection) -> list[str]:
    """Return the ids of schedules that may have `run_at_start`; reads all schedules, so it is called once."""
    spec_like = sa.cast(job_schedules.c.spec, sa.Text).op("LIKE")
    flag = sa.or_(spec_like('%"run_at_start":true%'), spec_like('%"run_at_start": true%'))
    query = sa.select(job_schedules.c.id).where(job_schedules.c.enabled, flag).order_by(job_schedules.c.id)
    return list(connection.scalars(query))


def list_ended_pauses(connection: sa.Connection, now: dt.datetime, limit: int) -> list[str]:
    """Return the ids of up to `limit` schedules whose pause has ended, earliest end first."""
    has_ended = job_schedules.c.paused_until <= now
    query = (
        sa.select(job_schedules.c.id).where(sa.text(HAS_PAUSE_END), has_ended).order_by(job_schedules.c.paused_until)
    )
    return list(connection.scalars(query.limit(limit)))


def update_failures(connection: sa.Connection, failures: Mapping[str, int]) -> None:
    """Write the numbers of consecutive failures of these schedules."""
    _UPDATE_FAILURES.run(connection, list(failures.items()))


def _build_progress_update(_dialect: str) -> Any:
    values = {name: sa.bindparam(f"new_{name}", type_=job_schedules.c[name].type) for name in _PROGRESS_COLUMNS}
    return sa.update(job_schedules).where(job_schedules.c.id == sa.bindparam("key")).values(values)


_PROGRESS_COLUMNS = ("settled_until", "next_at", "runs", "state")
_PROGRESS_VALUES = operator.attrgetter("id", *_PROGRESS_COLUMNS)
_UPDATE_PROGRESS = BulkStatement(_build_progress_update, ["key", *(f"new_{name}" for name in _PROGRESS_COLUMNS)])


def _build_failures_update(_dialect: str) -> Any:
    number = sa.bindparam("number", type_=job_schedules.c.failures.type)
    return sa.update(job_schedules).where(job_schedules.c.id == sa.bindparam("key")).values(failures=number)


_UPDATE_FAILURES = BulkStatement(_build_failures_update, ["key", "number"])

# Statements of every relay turn are built once, because building a statement costs as much as running it.
#: Condition of unfinished executions outside batches: a backfill, which is a batch, does not affect due occurrences.
_UNFINISHED_NOT_IN_BATCH = sa.and_(sa.text(core.UNFINISHED_OF_SCHEDULE), _executions.c.batch_id.is_(None))
_OLDEST = (
    sa.select(_executions.c.id)
    .where(_executions.c.schedule_id == job_schedules.c.id, _UNFINISHED_NOT_IN_BATCH)
    .order_by(_executions.c.id)
    .limit(1)
    .correlate(job_schedules)
    .scalar_subquery()
)
_UNFINISHED = (
    sa.select(_executions.c.id, _executions.c.state)
    .where(_executions.c.schedule_id == sa.bindparam("id"), _UNFINISHED_NOT_IN_BATCH)
    .order_by(_executions.c.id)
    .limit(_MAX_UNFINISHED)
)
_DUE: sa.Select[Any] = sa.select(
    *(job_schedules.c[item.name] for item in fields(DueSchedule) if item.name != "oldest"), _OLDEST.label("oldest")
)
_DUE_ORDER = (
    sa.select(job_schedules.c.id, job_schedules.c.next_at)
    .where(sa.text(HAS_NEXT_DUE))
    .order_by(job_schedules.c.next_at, job_schedules.c.id)
)
_UPCOMING: sa.Select[Any] = (
    sa.select(*(job_schedules.c[item.name] for item in fields(UpcomingSchedule)))
    .where(sa.text(HAS_NEXT_DUE))
    .order_by(job_schedules.c.next_at, job_schedules.c.id)
)
_NEXT_DUE = (
    sa.select(job_schedules.c.next_at)
    .where(sa.text(HAS_NEXT_DUE), job_schedules.c.next_at > sa.bindparam("after", type_=job_schedules.c.next_at.type))
    .order_by(job_schedules.c.next_at)
    .limit(1)
)
