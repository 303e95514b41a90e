"""Schedules: rows, revisions, pauses and progress."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.errors import Conflict
from jobworker.domain.ids import IdFactory
from jobworker.domain.schedules import state
from jobworker.domain.schedules.schedule import Schedule, ScheduleOwner, ScheduleState, load_schedule
from jobworker.domain.schedules.state import ScheduleStatus
from jobworker.store import audit, unreadable_rows
from jobworker.store.audit import AuditEntry
from jobworker.store.tables.schedules import job_schedules, schedule_calendars, schedule_revisions

_ids = IdFactory()


_AT = sa.bindparam("at", type_=job_schedules.c.settled_until.type)

# One statement for many rows, because building it for each row would cost more than running it.
_UPDATE_NEXT_DUE = (
    sa.update(job_schedules)
    .where(job_schedules.c.id == sa.bindparam("key"))
    .values(
        settled_until=sa.case((job_schedules.c.settled_until > _AT, job_schedules.c.settled_until), else_=_AT),
        next_at=sa.bindparam("following"),
        state=sa.bindparam("then"),
        changed_at=_AT,
    )
)


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """Schedule with its progress; `store.tables.schedules` describes the columns."""

    id: str
    name: str
    job: str
    owner: ScheduleOwner
    revision: int
    spec: Mapping[str, Any]
    enabled: bool
    state: ScheduleState
    paused_at: dt.datetime | None
    paused_by: str | None
    pause_note: str | None
    paused_until: dt.datetime | None
    settled_until: dt.datetime
    next_at: dt.datetime | None
    runs: int
    failures: int
    created_at: dt.datetime
    changed_at: dt.datetime

    @property
    def schedule(self) -> Schedule:
        """The specification as a value; raises `UnreadableRow`."""
        with unreadable_rows.convert_errors(f"schedule {self.name}"):
            return load_schedule(self.spec)

    def compute_status(self, now: dt.datetime) -> ScheduleStatus:
        """Return the status of the schedule at `now`."""
        return state.compute_status(self.state, self.enabled, self.paused_at, self.paused_until, now)


@dataclass(frozen=True, slots=True)
class SchedulePauseRecord:
    """Pause of a schedule: begin, actor, note and end; all None for a schedule that is not paused."""

    paused_at: dt.datetime | None = None
    paused_by: str | None = None
    pause_note: str | None = None
    paused_until: dt.datetime | None = None

    @classmethod
    def from_row(cls, row: ScheduleRow) -> "SchedulePauseRecord":
        """Return the pause of a schedule."""
        return cls(row.paused_at, row.paused_by, row.pause_note, row.paused_until)


def get(connection: sa.Connection, name: str) -> ScheduleRow | None:
    """Return the schedule with this name, or else with this id."""
    return get_by_name(connection, name) or get_by_id(connection, name)


def get_by_id(connection: sa.Connection, schedule_id: str) -> ScheduleRow | None:
    """Return the schedule with this id."""
    return _get_one(connection, job_schedules.c.id == schedule_id)


def get_by_name(connection: sa.Connection, name: str) -> ScheduleRow | None:
    """Return the schedule with this name."""
    return _get_one(connection, job_schedules.c.name == name)


def list_all(connection: sa.Connection) -> list[ScheduleRow]:
    """Return all schedules, ordered by id."""
    return list(
        unreadable_rows.read_all(connection.execute(sa.select(job_schedules).order_by(job_schedules.c.id)), to_row)
    )


def lock(connection: sa.Connection, schedule_id: str) -> None:
    """Keep other transactions from changing or evaluating this schedule until this one ends."""
    connection.execute(sa.select(job_schedules.c.id).where(job_schedules.c.id == schedule_id).with_for_update())


def list_owned(connection: sa.Connection, owner: ScheduleOwner) -> list[ScheduleRow]:
    """Return the schedules with this owner, ordered by name."""
    query = sa.select(job_schedules).where(job_schedules.c.owner == owner.value).order_by(job_schedules.c.name)
    return list(unreadable_rows.read_all(connection.execute(query), to_row))


def upsert(
    connection: sa.Connection,
    schedule: Schedule,
    owner: ScheduleOwner,
    actor: str,
    now: dt.datetime,
    next_at: dt.datetime | None,
) -> ScheduleRow:
    """Insert a schedule, or change the schedule with its name, whose occurrences up to `now` must have been evaluated.

    `next_at` is the first occurrence after `domain.schedules.state.compute_start`. No new revision is written if
    nothing changes.
    """
    spec = schedule.to_json()
    before = get_by_name(connection, schedule.name)
    if before and before.owner is owner and before.spec == spec and before.state is not ScheduleState.RETIRED:
        return before
    revision = before.revision + 1 if before else 1
    values = {
        "job": schedule.job,
        "owner": owner.value,
        "revision": revision,
        "spec": spec,
        "enabled": schedule.enabled,
        "state": state.compute_state(schedule, before.runs if before else 0, next_at).value,
        "settled_until": state.compute_start(schedule, before.settled_until if before else None, now),
        "next_at": next_at,
        "changed_at": now,
    }
    schedule_id = before.id if before else _ids.create_id(int(now.timestamp() * 1000))
    try:
        if before is None:
            own = {"id": schedule_id, "name": schedule.name, "created_at": now, "runs": 0, "failures": 0}
            connection.execute(job_schedules.insert().values(**own, **values))
        else:
            connection.execute(job_schedules.update().where(job_schedules.c.id == schedule_id).values(values))
        connection.execute(
            schedule_revisions.insert().values(
                schedule_id=schedule_id, revision=revision, spec=spec, created_at=now, actor=actor
            )
        )
    except sa.exc.IntegrityError as error:
        message = f"schedule {schedule.name} was changed by a concurrent request; try again"
        raise Conflict(message) from error
    _replace_calendars(connection, schedule_id, schedule.calendar_names)
    action = "schedule.change" if before else "schedule.create"
    audit.record(connection, AuditEntry(now, actor, action, schedule.name, before.spec if before else None, spec))
    written = get_by_name(connection, schedule.name)
    assert written is not None, "it was just written"
    return written


def update_pause(connection: sa.Connection, schedule_id: str, paused: SchedulePauseRecord) -> None:
    """Write the pause of a schedule, or its absence."""
    connection.execute(job_schedules.update().where(job_schedules.c.id == schedule_id).values(asdict(paused)))


def retire(connection: sa.Connection, row: ScheduleRow, actor: str, now: dt.datetime) -> None:
    """Mark a schedule as retired: it has no further occurrences and keeps its history. `upsert` restores it."""
    values = {"state": ScheduleState.RETIRED.value, "next_at": None, "changed_at": now}
    connection.execute(job_schedules.update().where(job_schedules.c.id == row.id).values(values))
    _replace_calendars(connection, row.id, ())
    audit.record(connection, AuditEntry(now, actor, "schedule.retire", row.name, row.spec, None))


def update_next_due(
    connection: sa.Connection, changes: Mapping[str, tuple[dt.datetime | None, ScheduleState]], now: dt.datetime
) -> None:
    """Write the next occurrences and states of schedules (by id) after a change of one of their calendars at `now`."""
    rows = [
        {"key": key, "following": next_at, "then": new_state.value, "at": now}
        for key, (next_at, new_state) in changes.items()
    ]
    if rows:
        connection.execute(_UPDATE_NEXT_DUE, rows)


def delete(connection: sa.Connection, row: ScheduleRow, actor: str, now: dt.datetime) -> None:
    """Delete a schedule; its revisions, occurrences and executions stay."""
    _replace_calendars(connection, row.id, ())
    connection.execute(job_schedules.delete().where(job_schedules.c.id == row.id))
    audit.record(connection, AuditEntry(now, actor, "schedule.delete", row.name, row.spec, None))


def _replace_calendars(connection: sa.Connection, schedule_id: str, names: Sequence[str]) -> None:
    connection.execute(schedule_calendars.delete().where(schedule_calendars.c.schedule_id == schedule_id))
    if names:
        rows = [{"calendar": name, "schedule_id": schedule_id} for name in names]
        connection.execute(schedule_calendars.insert(), rows)


def _get_one(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> ScheduleRow | None:
    row = connection.execute(sa.select(job_schedules).where(condition)).one_or_none()
    return to_row(row) if row is not None else None


_SPEC_CHECK = unreadable_rows.build_object_check(name=str, job=str, rule=dict)


def describe_row(row: Any) -> str:
    """Return the name of a row in reports of unreadable rows."""
    return f"schedule {row.name}"


def check_spec(row: sa.Row[Any]) -> None:
    """Raise `TypeError` unless `spec` has the required members; `domain.schedules.schedule.load_schedule` reads all."""
    if not _SPEC_CHECK(row.spec):
        raise TypeError("spec is not a schedule")


def _make(row: sa.Row[Any]) -> ScheduleRow:
    check_spec(row)
    values = dict(row._mapping)
    values["owner"], values["state"] = ScheduleOwner(row.owner), ScheduleState(row.state)
    return ScheduleRow(**values)


#: Converts a row of the table; raises `UnreadableRow`.
to_row = unreadable_rows.build_reader(describe_row, _make, job_schedules)
