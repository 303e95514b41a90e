"""Use cases of schedules: create, change, remove, pause, resume, get, list.

Due occurrences of a schedule are evaluated before the schedule changes.
"""

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import (
    FieldError,
    InvalidInput,
    PreconditionFailed,
    RevisionNotFound,
    ScheduleExists,
    ScheduleNotFound,
)
from jobworker.domain.executions import comparison
from jobworker.domain.ids import is_id
from jobworker.domain.schedules import description, next_times
from jobworker.domain.schedules import schedule as schedule_rules
from jobworker.domain.schedules.schedule import Schedule, ScheduleOwner, ScheduleState
from jobworker.domain.schedules.state import ScheduleStatus, compute_start
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.domain.schedules.timetable import find_next_time
from jobworker.services import lookup
from jobworker.services.schedules import (
    compiler,
    evaluator,
    execution_factory,
    overdue_schedules,
    ownership,
    pauses,
    time_zone_updates,
    validation,
)
from jobworker.services.schedules.compiler import CompiledSchedule
from jobworker.services.schedules.time_zone_updates import ScheduleMove
from jobworker.services.submissions import preparation
from jobworker.store import unreadable_rows
from jobworker.store.database.database import Database
from jobworker.store.pagination import DEFAULT_LIMIT, Page
from jobworker.store.schedules import schedule_queries, schedule_rows
from jobworker.store.schedules.schedule_queries import ScheduleRevisionRow, ScheduleRowFilters
from jobworker.store.schedules.schedule_rows import ScheduleRow

#: The revisions that a change may replace; None: any.
ExpectedRevisions = Collection[int] | None

#: Maximum revision number that databases can store.
_MAX_REVISION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule with its status, description and warnings.

    `in_words` describes its rule; None: the schedule cannot be read. `next_at` is the next nominal time; None: no
    occurrence will fire, although one more row may record why.
    """

    row: ScheduleRow
    status: ScheduleStatus
    in_words: str | None
    next_at: dt.datetime | None
    expected_by: dt.datetime | None
    overdue: bool
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class ScheduleCriteria:
    """Filters of a list of schedules; None does not filter."""

    job: str | None = None
    owner: ScheduleOwner | None = None
    state: ScheduleStatus | None = None
    calendar: str | None = None
    overdue: bool | None = None


@dataclass(frozen=True, slots=True)
class ScheduleRevisionView:
    """A revision of a schedule, and the fields that it changed; None for the first revision."""

    name: str
    row: ScheduleRevisionRow
    changed_fields: Sequence[str] | None
    removed: bool = False


@dataclass(frozen=True, slots=True)
class ScheduleReference:
    """A schedule that exists, or that was removed (`row` None; found by id only). `revision` is the latest one."""

    id: str
    name: str
    revision: int
    spec: Mapping[str, Any]
    row: ScheduleRow | None


def create(database: Database, clock: Clock, spec: Mapping[str, Any], actor: str) -> ScheduleView:
    """Create a schedule. Raises `ScheduleExists`, and `InvalidInput` with all problems of the specification."""
    schedule = schedule_rules.parse(spec)
    with database.write() as connection:
        existing = schedule_rows.get_by_name(connection, schedule.name)
        if existing is not None:
            raise ScheduleExists(f"schedule {schedule.name} exists already; {ownership.suggest_alternative(existing)}")
        now = clock.now()
        return build_views(connection, [save(connection, schedule, None, ScheduleOwner.API, actor, now)], now)[0]


def change(
    database: Database, clock: Clock, name: str, spec: Mapping[str, Any], expected: ExpectedRevisions, actor: str
) -> ScheduleView:
    """Replace a schedule if its current revision is one of the expected ones.

    Occurrences that are due by now are evaluated with the old revision, later ones with the new one.
    """
    with database.write() as connection:
        row = _lock_expected(connection, name, expected)
        ownership.check_editable(row)
        if spec.get("name", row.name) != row.name:
            message = f"name is {spec['name']!r}, but this is schedule {row.name}; a schedule cannot be renamed"
            raise InvalidInput(message, [FieldError("/name", "not_allowed", message)])
        schedule = schedule_rules.parse({**spec, "name": row.name})
        now = clock.now()
        return build_views(connection, [save(connection, schedule, row, ScheduleOwner.API, actor, now)], now)[0]


def remove(database: Database, clock: Clock, name: str, expected: ExpectedRevisions, actor: str) -> None:
    """Evaluate the due occurrences and remove a schedule; its executions still run, its occurrences are kept."""
    with database.write() as connection:
        row = _lock_expected(connection, name, expected)
        if row.state is not ScheduleState.RETIRED:
            ownership.check_editable(row)
        schedule_rows.delete(connection, evaluator.evaluate_now(connection, row, clock.now()), actor, clock.now())


def pause(
    database: Database, clock: Clock, name: str, note: str | None, until: dt.datetime | None, actor: str
) -> ScheduleView:
    """Pause a schedule until it is resumed or `until` is reached."""
    now = clock.now()
    with database.write() as connection:
        row = pauses.pause_schedule(connection, find(connection, name), note, until, actor, now)
        return build_views(connection, [row], now)[0]


def resume(
    database: Database, clock: Clock, name: str, policy: schedule_rules.MissedOccurrencePolicy | None, actor: str
) -> ScheduleView:
    """End a pause. `policy` decides which of the skipped occurrences fire; None: the schedule's `on_resume`."""
    now = clock.now()
    with database.write() as connection:
        row = pauses.resume_schedule(connection, find(connection, name), actor, now, policy)
        return build_views(connection, [row], now)[0]


def get(database: Database, clock: Clock, name: str) -> ScheduleView:
    """Return the schedule with this name or id. Raises `ScheduleNotFound`."""
    with database.read() as connection:
        return build_views(connection, [find(connection, name)], clock.now())[0]


def list_page(
    database: Database, clock: Clock, criteria: ScheduleCriteria, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[ScheduleView]:
    """Return a page of schedules, sorted by name."""
    now = clock.now()
    since = overdue_schedules.compute_cutoff(now) if criteria.overdue else None
    filters = ScheduleRowFilters(criteria.job, criteria.owner, criteria.state, criteria.calendar, since)
    with database.read() as connection:
        page = schedule_queries.list_page(connection, filters, _to_cursor_filters(criteria), now, limit, cursor)
        return page.replace_items(build_views(connection, page.items, now))


def list_revisions(
    database: Database, name: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[ScheduleRevisionView]:
    """Return the revisions of a schedule, the latest first; a removed schedule is found by its id."""
    with database.read() as connection:
        row = find_reference(connection, name)
        page = schedule_queries.list_revisions(connection, row.id, limit, cursor)
        earliest = page.items[-1].revision if page.items else 1
        before = schedule_queries.get_revision(connection, row.id, earliest - 1)
    older = [*page.items[1:], before]
    items = [_to_revision_view(row, revision, was) for revision, was in zip(page.items, older, strict=False)]
    return page.replace_items(items)


def get_revision(database: Database, name: str, number: int) -> ScheduleRevisionView:
    """Return a revision of a schedule. Raises `ScheduleNotFound`, `RevisionNotFound`."""
    with database.read() as connection:
        row = find_reference(connection, name)
        revision = schedule_queries.get_revision(connection, row.id, number) if number <= _MAX_REVISION else None
        if revision is None:
            raise RevisionNotFound(f"schedule {row.name} has no revision {number}; the latest is {row.revision}")
        return _to_revision_view(row, revision, schedule_queries.get_revision(connection, row.id, number - 1))


def find_reference(connection: sa.Connection, name: str) -> ScheduleReference:
    """Return the schedule with this name or id, or the removed one with this id. Raises `ScheduleNotFound`."""
    row = schedule_rows.get(connection, name) if name.isprintable() else None
    latest = schedule_queries.get_latest_revision(connection, name) if row is None and is_id(name) else None
    if latest is not None:
        return ScheduleReference(latest.schedule_id, latest.spec["name"], latest.revision, latest.spec, None)
    row = row or find(connection, name)
    return ScheduleReference(row.id, row.name, row.revision, row.spec, row)


def find(connection: sa.Connection, name: str) -> ScheduleRow:
    """Return the row of the schedule with this name or id. Raises `ScheduleNotFound` with similar names."""
    row = schedule_rows.get(connection, name) if name.isprintable() else None
    if row is None:
        near = schedule_queries.list_nearby_names(connection, name)
        raise ScheduleNotFound(lookup.describe_unknown("schedule", name, near, "GET /api/v1/schedules"))
    return row


def build_views(connection: sa.Connection, rows: Sequence[ScheduleRow], now: dt.datetime) -> list[ScheduleView]:
    """Build the views of schedules at the time `now`."""
    catalog, compiled_schedules = (
        preparation.load_catalog(connection, {row.job for row in rows}),
        compiler.compile_schedules(connection, rows),
    )
    moves = time_zone_updates.find_moves(connection, rows, compiled_schedules)
    return [_build_view_safely(row, catalog, compiled_schedules.get(row.id), moves.get(row.id), now) for row in rows]


def save(
    connection: sa.Connection,
    schedule: Schedule,
    before: ScheduleRow | None,
    owner: ScheduleOwner,
    actor: str,
    now: dt.datetime,
) -> ScheduleRow:
    """Insert a schedule, or evaluate its due occurrences and update it. Raises `InvalidInput` if it cannot run."""
    timetable = validation.check_schedule(connection, schedule)
    if before is not None:
        before = evaluator.evaluate_now(connection, before, now)
    first = find_next_time(timetable, compute_start(schedule, before.settled_until if before else None, now))
    row = schedule_rows.upsert(connection, schedule, owner, actor, now, first)
    if before is None and schedule.run_at_start:
        evaluator.fire_at_start(connection, [row.id], now, "it was created")
        return find(connection, row.id)
    return row


def _build_view_safely(
    row: ScheduleRow,
    catalog: preparation.JobCatalog,
    compiled: CompiledSchedule | None,
    move: ScheduleMove | None,
    now: dt.datetime,
) -> ScheduleView:
    try:
        return _build_view(row, catalog, compiled, move, now)
    except unreadable_rows.READ_ERRORS as error:
        # A specification is not checked again when it is read, so its problems may appear only now.
        compiler.report_unreadable(row, error)
        return _build_view(row, catalog, None, None, now)


def _build_view(
    row: ScheduleRow,
    catalog: preparation.JobCatalog,
    compiled: CompiledSchedule | None,
    move: ScheduleMove | None,
    now: dt.datetime,
) -> ScheduleView:
    by, status = overdue_schedules.compute_expected_by(row, now), row.compute_status(now)
    in_words = description.describe_schedule(compiled.schedule) if compiled else None
    late = by is not None and by < now
    following = row.next_at if status in (ScheduleStatus.ACTIVE, ScheduleStatus.PAUSED) else None
    warnings = [*_list_warnings(row, catalog, compiled, now), *([_describe_move(move)] if move else [])]
    return ScheduleView(row, status, in_words, following, by, late, warnings)


def _describe_move(move: ScheduleMove) -> str:
    return f"time zone data has changed: {move.describe()} once a relay with {DATA_VERSION} is the leader"


def _list_warnings(
    row: ScheduleRow, catalog: preparation.JobCatalog, compiled: CompiledSchedule | None, now: dt.datetime
) -> Iterator[str]:
    job = catalog.jobs.get(row.job)
    if job is None:
        yield f"there is no job {row.job} any more: nothing starts"
    elif not job.definition.enabled:
        yield f"job {row.job} is disabled: its occurrences are skipped"
    elif (why := execution_factory.get_blocked_reason(catalog, row.job)) is not None:
        yield f"its occurrences are skipped: {why}"
    elif (
        compiled is not None and (problem := execution_factory.get_template(compiled, catalog, now).problem) is not None
    ):
        yield f"its executions fail, because job {row.job} refuses its parameters: {problem}"
    if compiled is None:
        yield "it cannot be read by this version, or a calendar of it is gone: nothing starts; change it"
    elif row.runs == 0:
        # Occurrences that are due and not evaluated yet count as upcoming.
        yield from next_times.compute_warnings(compiled.timetable, min(now, row.settled_until))


def _lock_expected(connection: sa.Connection, name: str, expected: ExpectedRevisions) -> ScheduleRow:
    """Lock and return the schedule. Raises `PreconditionFailed` unless its revision is an expected one."""
    schedule_rows.lock(connection, find(connection, name).id)
    row = find(connection, name)
    if expected is not None and row.revision not in expected:
        message = f"schedule {row.name} is at revision {row.revision} now; read it again, then repeat the change"
        raise PreconditionFailed(message)
    return row


def _to_cursor_filters(criteria: ScheduleCriteria) -> dict[str, Any]:
    """Return the filters that a cursor is bound to: `overdue` without its time, which changes between pages."""
    return {
        "job": criteria.job,
        "owner": criteria.owner,
        "state": criteria.state,
        "calendar": criteria.calendar,
        "overdue": criteria.overdue,
    }


def _to_revision_view(
    reference: ScheduleReference, row: ScheduleRevisionRow, before: ScheduleRevisionRow | None
) -> ScheduleRevisionView:
    changed = None
    if before is not None:
        changed = [difference.pointer for difference in comparison.compare_values("spec", before.spec, row.spec)]
    return ScheduleRevisionView(reference.name, row, changed, reference.row is None)
