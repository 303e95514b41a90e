"""Tables of schedules, calendars and occurrences."""

import sqlalchemy as sa

from jobworker.store.database.columns import Json, UtcDateTime, build_partial_index, metadata

#: Condition of schedules with a next occurrence. A query must repeat the exact text for SQLite to use the index.
HAS_NEXT_DUE = "next_at IS NOT NULL AND enabled"

#: Condition of schedules whose pause ends by itself.
HAS_PAUSE_END = "paused_until IS NOT NULL"

#: Schedules. `spec` is `domain.schedules.schedule.Schedule` as JSON; `owner` is code, api, or job (the schedule is part
#: of the definition of its job). `state` is active, exhausted (no further occurrences) or retired (removed from code).
#: All occurrences up to `settled_until` have a row in `occurrences`; `next_at` is the nominal time of the next one
#: (NULL without a next one). `runs` is the number of executions, `failures` the number of consecutive failures.
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

#: All revisions of schedules, by id, because names are reused.
schedule_revisions = sa.Table(
    "schedule_revisions",
    metadata,
    sa.Column("schedule_id", sa.String(36), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("spec", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
)

#: Calendars used by each schedule.
schedule_calendars = sa.Table(
    "schedule_calendars",
    metadata,
    sa.Column("calendar", sa.String(128), primary_key=True),
    sa.Column("schedule_id", sa.String(36), primary_key=True, index=True),
    sqlite_with_rowid=False,
)

#: Current revision of each calendar. `spec` is JSON of `domain.calendars.calendars`; `owner` is code or api.
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

#: All revisions of calendars; they outlive their calendar, so numbers are never reused.
calendar_revisions = sa.Table(
    "calendar_revisions",
    metadata,
    sa.Column("calendar", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("spec", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
)

#: Evaluated occurrences of schedules. The primary key ensures that an occurrence is recorded once.
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

#: Time zone data, in one row, by which the current or last leader computed the times of schedules. `zones` contains the
#: data themselves (`services.schedules.time_zone_updates`), so that they can be compared with a later version.
zone_data = sa.Table(
    "zone_data",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("zones", sa.LargeBinary, nullable=False),
)
