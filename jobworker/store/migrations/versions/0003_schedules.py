"""Schedules independent of job definitions, with policies for misfires, overlaps and pauses; calendars."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

_json = sa.Text().with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Convert the rule of each definition to a schedule with the name of its job."""
    connection = op.get_bind()
    # Times are copied as stored, without interpretation.
    last = "(SELECT max(scheduled_for) FROM occurrences WHERE schedule_id = job_schedules.id) AS last"
    query = f"SELECT id, job, rule, enabled, created_at, changed_at, {last} FROM job_schedules"
    before = connection.execute(sa.text(query)).all()
    op.drop_table("job_schedules")
    _create_schedules()
    _create_calendars()
    condition = "schedule_id IS NOT NULL AND finished_at IS NULL"
    _partial("ix_executions_schedule_id", "executions", ["schedule_id", "id"], condition)
    for row in before:
        _insert(connection, row)


def _create_schedules() -> None:
    op.create_table(
        "job_schedules",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("job", sa.String(128), nullable=False),
        sa.Column("owner", sa.String(16), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("spec", _json, nullable=False),
        sa.Column("enabled", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("paused_at", _moment),
        sa.Column("paused_by", sa.String(255)),
        sa.Column("pause_note", sa.Text),
        sa.Column("paused_until", _moment),
        sa.Column("settled_until", _moment, nullable=False),
        sa.Column("next_at", _moment),
        sa.Column("runs", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("changed_at", _moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_job_schedules"),
        sa.UniqueConstraint("name", name="uq_job_schedules_name"),
    )
    op.create_index("ix_job_schedules_job", "job_schedules", ["job"])
    op.create_index("ix_job_schedules_changed_at", "job_schedules", ["changed_at"])
    _partial("ix_job_schedules_next_at", "job_schedules", ["next_at", "id"], "next_at IS NOT NULL AND enabled")
    _partial("ix_job_schedules_paused_until", "job_schedules", ["paused_until", "id"], "paused_until IS NOT NULL")
    op.create_table(
        "schedule_revisions",
        sa.Column("schedule_id", sa.String(36), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("spec", _json, nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", "revision", name="pk_schedule_revisions"),
    )


def _create_calendars() -> None:
    op.create_table(
        "schedule_calendars",
        sa.Column("calendar", sa.String(128), nullable=False),
        sa.Column("schedule_id", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("calendar", "schedule_id", name="pk_schedule_calendars"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_schedule_calendars_schedule_id", "schedule_calendars", ["schedule_id"])
    op.create_table(
        "calendars",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(16), nullable=False),
        sa.Column("spec", _json, nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("changed_at", _moment, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_calendars"),
    )
    op.create_table(
        "calendar_revisions",
        sa.Column("calendar", sa.String(128), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("spec", _json, nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("calendar", "revision", name="pk_calendar_revisions"),
    )


#: Default members of a specification. `overlap` is "allow", because until this revision executions could overlap.
_UNDECIDED: dict[str, Any] = {
    "description": "", "enabled": True, "calendar": None, "require": [], "exclude": [], "dst": None,
    "start": None, "end": None, "max_runs": None, "initial_delay": 0.0, "run_at_start": False,
    "jitter": 0.0, "spread": 0.0, "parameters": {}, "queue": None, "priority": None, "overlap": "allow",
    "misfire": {"policy": "fire_once", "grace": 60.0, "max": 100}, "on_resume": "skip", "pause_after_failures": None,
}  # fmt: skip


def _insert(connection: sa.Connection, row: Any) -> None:
    rule = json.loads(row.rule) if isinstance(row.rule, str) else row.rule
    zone = rule.pop("zone", "UTC")
    spec = {"name": row.job, "job": row.job, "rule": rule, "zone": zone, **_UNDECIDED}
    settled = max(row.changed_at, row.last) if row.last else row.changed_at
    values = {
        "id": row.id, "name": row.job, "spec": json.dumps(spec), "settled": settled,
        "created": row.created_at, "changed": row.changed_at,
    }  # fmt: skip
    on_postgresql = connection.dialect.name == "postgresql"
    kind = "jsonb" if on_postgresql else "text"
    # While a job was disabled nothing was due; from this revision on such occurrences have a row.
    now = "now()" if on_postgresql else "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    begins = ":settled" if row.enabled else now
    connection.execute(
        sa.text(
            "INSERT INTO job_schedules (id, name, job, owner, revision, spec, enabled, state, settled_until, next_at, "
            "runs, failures, created_at, changed_at) VALUES (:id, :name, :name, 'job', 1, "
            f"CAST(:spec AS {kind}), true, 'active', {begins}, {begins}, 0, 0, :created, :changed)"
        ),
        values,
    )
    connection.execute(
        sa.text(
            "INSERT INTO schedule_revisions (schedule_id, revision, spec, created_at, actor) "
            f"VALUES (:id, 1, CAST(:spec AS {kind}), :changed, 'migration')"
        ),
        values,
    )


def _partial(name: str, table: str, columns: list[Any], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
