"""The tables of what happens by itself: schedules with their calendars, and the ledger of what was due."""

import sqlalchemy as sa

from jobworker.store.engine.columns import Json, UtcDateTime, build_partial_index, metadata

#: Schedules with something ahead of them; a query must use the very same words for SQLite to find the index.
HAS_NEXT_DUE = "next_at IS NOT NULL AND enabled"

#: Pauses that end by themselves.
HAS_PAUSE_END = "paused_until IS NOT NULL"

#: `spec` is `domain.schedules.schedule.Schedule` as JSON; `owner` is code, api, or job (it is part of that job's definition).
#: `state` is active, exhausted (nothing more is due) or retired (gone from code). Every occurrence up to
#: `settled_until` has its row in the ledger; `next_at` is the nominal time of the next one, NULL: there is none.
#: `runs` counts executions, `failures` those that failed in a row.
job_schedules = sa.Table(
    "job_schedules",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("job", sa.String(128), nullable=False, index=True),
    sa.Column("owner", sa.String(16), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("spec", Json, nullable=False),
    sa.Column("enabled", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("paused_at", UtcDateTime),
    sa.Column("paused_by", sa.String(255)),
    sa.Column("pause_note", sa.Text),
    sa.Column("paused_until", UtcDateTime),
    sa.Column("settled_until", UtcDateTime, nullable=False),
    sa.Column("next_at", UtcDateTime),
    sa.Column("runs", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False, index=True),
    build_partial_index("ix_job_schedules_next_at", "next_at", "id", where=HAS_NEXT_DUE),
    build_partial_index("ix_job_schedules_paused_until", "paused_until", "id", where=HAS_PAUSE_END),
)

#: Every revision that ever was of a schedule. Names are given again, so it is the id that counts.
schedule_revisions = sa.Table(
    "schedule_revisions",
    metadata,
    sa.Column("schedule_id", sa.String(36), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("spec", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
)

#: Which calendars a schedule names.
schedule_calendars = sa.Table(
    "schedule_calendars",
    metadata,
    sa.Column("calendar", sa.String(128), primary_key=True),
    sa.Column("schedule_id", sa.String(36), primary_key=True, index=True),
    sqlite_with_rowid=False,
)

#: The current revision of each calendar. `spec` is JSON of `domain.calendars.calendars`; `owner` is code or api.
calendars = sa.Table(
    "calendars",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
    sa.Column("spec", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)

#: Every revision that ever was; it outlives its calendar, so numbers are never used twice.
calendar_revisions = sa.Table(
    "calendar_revisions",
    metadata,
    sa.Column("calendar", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("spec", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
)

#: The ledger of what was due. The key is what makes an occurrence happen once.
occurrences = sa.Table(
    "occurrences",
    metadata,
    sa.Column("schedule_id", sa.String(36), primary_key=True),
    sa.Column("scheduled_for", UtcDateTime, primary_key=True),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("execution_id", sa.String(36)),
    sa.Column("recorded_at", UtcDateTime, nullable=False),
    sqlite_with_rowid=False,
)

#: One row: the time zone data by which the relay that leads, or led last, worked out when schedules are due.
#: `zones` holds the data themselves (`services.schedules.time_zone_updates`), so that a later version can be compared with them.
zone_data = sa.Table(
    "zone_data",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("zones", sa.LargeBinary, nullable=False),
)
