"""Where schedules stand: what settling them reads, and what it writes. Statements of every turn, for many at once."""

import datetime as dt
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.engine.bulk import BulkStatement
from jobworker.store.tables import core
from jobworker.store.tables.schedules import HAS_NEXT_DUE, HAS_PAUSE_END, job_schedules

_executions = core.executions

#: Most ids in one IN list; SQLite allows 32,766 variables.
_CHUNK_SIZE = 5_000


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """Where a schedule stands, without what somebody decided: what settling it has to know.

    `oldest` is the first of its executions that have not ended.
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
    """A schedule that will be due."""

    id: str
    name: str
    revision: int
    next_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ScheduleProgress:
    """How far a schedule has come."""

    id: str
    settled_until: dt.datetime
    next_at: dt.datetime | None
    runs: int
    state: str


def get_many(connection: sa.Connection, ids: Sequence[str], lock: bool = True) -> list[DueSchedule]:
    """Where these schedules stand, by id; `lock` keeps other transactions from settling them before this one ends."""
    found: list[DueSchedule] = []
    for start in range(0, len(ids), _CHUNK_SIZE):
        query = _DUE.where(job_schedules.c.id.in_(ids[start : start + _CHUNK_SIZE])).order_by(job_schedules.c.id)
        found += [DueSchedule(*row) for row in connection.execute(query.with_for_update() if lock else query)]
    return found


def get_specs(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Any]:
    """What somebody decided about these schedules, as it is stored, by id."""
    found: dict[str, Any] = {}
    for start in range(0, len(ids), _CHUNK_SIZE):
        query = sa.select(job_schedules.c.id, job_schedules.c.spec).where(
            job_schedules.c.id.in_(ids[start : start + _CHUNK_SIZE])
        )
        found.update((row.id, row.spec) for row in connection.execute(query))
    return found


def list_unfinished_executions(connection: sa.Connection, schedule_id: str) -> list[tuple[str, ExecutionState]]:
    """Executions of a schedule that have not ended, the oldest first, up to a sensible number: id and state."""
    rows = connection.execute(_UNFINISHED, {"id": schedule_id})
    return list(unreadable_rows.read_all(rows, _read_unfinished))


_read_unfinished = unreadable_rows.build_reader(
    lambda row: f"state of execution {row.id}", lambda row: (row.id, ExecutionState(row.state))
)


def list_due(connection: sa.Connection, now: dt.datetime, limit: int) -> list[tuple[str, dt.datetime]]:
    """Up to `limit` schedules with something due at `now` or before: (id, when), the longest due first."""
    query = _DUE_ORDER.where(job_schedules.c.next_at <= now).limit(limit)
    return [(row.id, row.next_at) for row in connection.execute(query)]


def list_upcoming(
    connection: sa.Connection, after: tuple[dt.datetime, str], until: dt.datetime, limit: int
) -> list[UpcomingSchedule]:
    """Up to `limit` schedules that are due next after this time, or at it with a later id, and not after `until`."""
    place = sa.tuple_(job_schedules.c.next_at, job_schedules.c.id) > sa.tuple_(
        sa.literal(after[0]), sa.literal(after[1])
    )
    query = _UPCOMING.where(place, job_schedules.c.next_at <= until).limit(limit)
    return [UpcomingSchedule(*row) for row in connection.execute(query)]


def get_next_due(connection: sa.Connection, after: dt.datetime) -> dt.datetime | None:
    """When the first schedule is due after this moment."""
    return connection.scalar(_NEXT_DUE, {"after": after})


def update_progress(connection: sa.Connection, progress: Iterable[ScheduleProgress]) -> None:
    """Remember how far the ledger goes, and what comes next."""
    _UPDATE_PROGRESS.run(connection, map(_PROGRESS_VALUES, progress))


def list_run_at_start(connection: sa.Connection) -> list[str]:
    """Schedules that may say `run_at_start`: a look at all of them, made once."""
    said = sa.cast(job_schedules.c.spec, sa.Text).op("LIKE")
    flag = sa.or_(said('%"run_at_start":true%'), said('%"run_at_start": true%'))
    query = sa.select(job_schedules.c.id).where(job_schedules.c.enabled, flag).order_by(job_schedules.c.id)
    return list(connection.scalars(query))


def list_ended_pauses(connection: sa.Connection, now: dt.datetime, limit: int) -> list[str]:
    """Up to `limit` schedules whose pause has come to its end, the longest over first."""
    over = job_schedules.c.paused_until <= now
    query = sa.select(job_schedules.c.id).where(sa.text(HAS_PAUSE_END), over).order_by(job_schedules.c.paused_until)
    return list(connection.scalars(query.limit(limit)))


def update_failures(connection: sa.Connection, failures: Mapping[str, int]) -> None:
    """How many executions of these schedules have failed in a row."""
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

# Statements of every turn are built once: building one costs as much as running it.
#: A backfill is a batch, and nothing that is due waits for it or is left out because of it.
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
    .limit(_CHUNK_SIZE)
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
