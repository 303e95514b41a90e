"""Job definitions, their revisions, and the schedule contained in a definition."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.errors import Conflict
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.schedules import schedule as schedule_rules
from jobworker.domain.schedules.schedule import ScheduleOwner
from jobworker.domain.schedules.timetable import find_next_time
from jobworker.store import audit, revision_pages, unreadable_rows
from jobworker.store.audit import AuditEntry
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_name_key, parse_number_key
from jobworker.store.schedules import schedule_rows
from jobworker.store.similar_names import list_nearby
from jobworker.store.tables import core
from jobworker.store.workflows import trigger_rows

_jobs = core.job_definitions
_revisions = core.job_revisions

# Statements of submissions are built once, because building a statement costs as much as running it.
_BY_NAME = sa.select(_jobs).where(_jobs.c.name == sa.bindparam("name"))
_BY_NAME_LOCKED = _BY_NAME.with_for_update()
_DEFINITIONS = sa.select(_jobs.c.name, _jobs.c.definition)


@dataclass(frozen=True, slots=True)
class JobRow:
    """Current definition of a job, with its revision."""

    definition: JobDefinition
    revision: int
    owner: JobOwner
    created_at: dt.datetime
    updated_at: dt.datetime


@dataclass(frozen=True, slots=True)
class JobRevisionRow:
    """Definition of a job at one revision."""

    job: str
    revision: int
    definition: JobDefinition
    created_at: dt.datetime
    actor: str


def get(connection: sa.Connection, name: str, lock: bool = False) -> JobRow | None:
    """Return the job with this name; `lock` keeps other transactions from changing it until this one ends."""
    row = connection.execute(_BY_NAME_LOCKED if lock else _BY_NAME, {"name": name}).one_or_none()
    return _to_row(row) if row is not None else None


def get_many(connection: sa.Connection, names: Sequence[str]) -> dict[str, JobRow]:
    """Return the existing jobs among `names`, by name."""
    rows = connection.execute(sa.select(_jobs).where(_jobs.c.name.in_(names)))
    return {row.definition.name: row for row in unreadable_rows.read_all(rows, _to_row)}


def list_nearby_names(connection: sa.Connection, name: str) -> list[str]:
    """Return job names close to `name` in alphabetical order."""
    return list_nearby(connection, _jobs.c.name, name)


def list_page(connection: sa.Connection, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[JobRow]:
    """Return a page of jobs, ordered by name."""
    listing = Paginator("jobs", {}, parse_name_key)
    query = sa.select(_jobs).order_by(_jobs.c.name).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(_jobs.c.name > after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.name, _to_row, _describe_row)


def get_definition(connection: sa.Connection, job: str, number: int) -> JobDefinition | None:
    """Return the definition of a job at a revision; revisions outlive their job."""
    row = get_revision(connection, job, number)
    return row.definition if row else None


def get_revision(connection: sa.Connection, job: str, number: int) -> JobRevisionRow | None:
    """Return a revision of a job, with its actor and time."""
    query = sa.select(_revisions).where(_revisions.c.job == job, _revisions.c.revision == number)
    row = connection.execute(query).one_or_none()
    return _to_revision(row) if row is not None else None


def list_revisions(
    connection: sa.Connection, job: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[JobRevisionRow]:
    """Return a page of the revisions of a job, latest first."""
    query = sa.select(_revisions).where(_revisions.c.job == job)
    return revision_pages.list_page(
        connection,
        Paginator("revisions", {"job": job}, parse_number_key),
        query,
        _to_revision,
        limit,
        cursor,
        _describe_revision,
    )


def get_definitions(connection: sa.Connection, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the current definitions of these jobs as JSON; for deleted jobs, the last revision."""
    definitions = {}
    for row in connection.execute(_DEFINITIONS.where(_jobs.c.name.in_(names))):
        definitions[row.name] = (
            unreadable_rows.repair_row(_describe_row(row), {"definition": row.definition}, _DEFINITION_SHAPE)[
                "definition"
            ]
            or {}
        )
    for name in set(names) - definitions.keys():
        query = sa.select(_revisions.c.definition).where(_revisions.c.job == name)
        definitions[name] = connection.scalar(query.order_by(_revisions.c.revision.desc()).limit(1)) or {}
    return definitions


def upsert(
    connection: sa.Connection, definition: JobDefinition, owner: JobOwner, actor: str, now: dt.datetime
) -> JobRow:
    """Insert or change a job. No new revision is written if nothing changes."""
    before = get(connection, definition.name, lock=True)
    described = definition.to_json()
    if before and before.owner is owner and before.definition.to_json() == described:
        return before
    number = _next_revision(connection, definition.name)
    try:
        _write_definition(connection, definition, owner, number, before is None, now)
        connection.execute(
            _revisions.insert().values(
                job=definition.name, revision=number, definition=described, created_at=now, actor=actor
            )
        )
        _write_schedule(connection, definition, actor, now)
        trigger_rows.replace(connection, definition.name, definition.triggers)
    except sa.exc.IntegrityError as error:
        raise Conflict(f"job {definition.name} was changed by a concurrent request; try again") from error
    action = "job.change" if before else "job.create"
    previous = before.definition.to_json() if before else None
    audit.record(connection, AuditEntry(now, actor, action, definition.name, previous, described))
    return JobRow(definition, number, owner, before.created_at if before else now, now)


def delete(connection: sa.Connection, name: str, actor: str, now: dt.datetime) -> bool:
    """Delete a job and its schedule; its revisions and executions stay. Return False if the job does not exist."""
    before = get(connection, name, lock=True)
    if before is None:
        return False
    _remove_schedule(connection, name, actor, now)
    trigger_rows.replace(connection, name, ())
    connection.execute(_jobs.delete().where(_jobs.c.name == name))
    audit.record(connection, AuditEntry(now, actor, "job.delete", name, before.definition.to_json(), None))
    return True


def _next_revision(connection: sa.Connection, name: str) -> int:
    highest = connection.scalar(sa.select(sa.func.max(_revisions.c.revision)).where(_revisions.c.job == name))
    return (highest or 0) + 1


def _write_definition(
    connection: sa.Connection, definition: JobDefinition, owner: JobOwner, number: int, new: bool, now: dt.datetime
) -> None:
    values = {
        "revision": number,
        "task": definition.task,
        "owner": owner.value,
        "definition": definition.to_json(),
        "updated_at": now,
    }
    if new:
        connection.execute(_jobs.insert().values(name=definition.name, created_at=now, **values))
    else:
        connection.execute(_jobs.update().where(_jobs.c.name == definition.name).values(values))


def _write_schedule(connection: sa.Connection, definition: JobDefinition, actor: str, now: dt.datetime) -> None:
    """Write or remove the job's own schedule according to its definition."""
    if definition.schedule is None:
        _remove_schedule(connection, definition.name, actor, now)
        return
    existing = schedule_rows.get_by_name(connection, definition.name)
    if existing is not None and existing.owner is not ScheduleOwner.JOB:
        message = f"there is a schedule named {definition.name} already; remove it, or the one in the definition"
        raise Conflict(message)
    schedule = schedule_rules.parse_job_schedule(definition.name, definition.schedule)
    schedule_rows.upsert(
        connection, schedule, ScheduleOwner.JOB, actor, now, find_next_time(schedule.build_timetable({}), now)
    )


_DEFINITION_SHAPE = unreadable_rows.RowShape(_jobs, {"definition": unreadable_rows.is_object})


def _remove_schedule(connection: sa.Connection, job: str, actor: str, now: dt.datetime) -> None:
    own = schedule_rows.get_by_name(connection, job)
    if own is not None and own.owner is ScheduleOwner.JOB:
        schedule_rows.delete(connection, own, actor, now)


def _describe_row(row: Any) -> str:
    return f"job {row.name}"


def _describe_revision(row: Any) -> str:
    return f"revision {row.revision} of job {row.job}"


def _make_revision(row: sa.Row[Any]) -> JobRevisionRow:
    return JobRevisionRow(row.job, row.revision, JobDefinition.from_json(row.definition), row.created_at, row.actor)


def _make(row: sa.Row[Any]) -> JobRow:
    return JobRow(
        definition=JobDefinition.from_json(row.definition),
        revision=row.revision,
        owner=JobOwner(row.owner),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


_to_row = unreadable_rows.build_reader(_describe_row, _make, _jobs)
_to_revision = unreadable_rows.build_reader(_describe_revision, _make_revision, _revisions)
