"""First tables, the relay's row, and the triggers that make the audit log append-only.

The tables are defined here, not imported, because the schema changes later and this migration must not.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

_big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_json = sa.Text().with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_moment = sa.DateTime(timezone=True)

_metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial(name: str, *columns: Any, where: str) -> sa.Index:
    condition = sa.text(where)
    return sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


sa.Table(
    "job_definitions",
    _metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("task", sa.String(255), nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
    sa.Column("definition", _json, nullable=False),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("updated_at", _moment, nullable=False),
)

sa.Table(
    "job_revisions",
    _metadata,
    sa.Column("job", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("definition", _json, nullable=False),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
)

sa.Table(
    "tasks",
    _metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("parameters", _json, nullable=False),
    sa.Column("options", _json, nullable=False),
    sa.Column("code_version", sa.String(64), nullable=False),
    sa.Column("updated_at", _moment, nullable=False),
)

sa.Table(
    "workers",
    _metadata,
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("pool", sa.String(32), nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("queues", _json, nullable=False),
    sa.Column("tasks", _json, nullable=False),
    sa.Column("code_version", sa.String(64), nullable=False),
    sa.Column("started_at", _moment, nullable=False),
    sa.Column("seen_at", _moment, nullable=False),
    sa.Column("gone_at", _moment),
    _partial("ix_workers_live", "id", where="gone_at IS NULL"),
)

sa.Table(
    "queues",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_at", _moment, nullable=False),
)

sa.Table(
    "executions",
    _metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("job", sa.String(128), nullable=False),
    sa.Column("job_revision", sa.Integer, nullable=False),
    sa.Column("task", sa.String(255), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer),
    sa.Column("lost_attempts", _json),
    sa.Column("interrupted_attempts", _json),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("parameters", _json, nullable=False),
    sa.Column("result", _json),
    sa.Column("error", _json),
    sa.Column("progress", _json),
    sa.Column("worker", sa.String(255)),
    sa.Column("token", sa.String(64)),
    sa.Column("code_version", sa.String(64)),
    sa.Column("correlation_id", sa.String(128), nullable=False),
    sa.Column("batch_id", sa.String(36)),
    sa.Column("schedule_id", sa.String(36)),
    sa.Column("scheduled_for", _moment),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("created_by", sa.String(255), nullable=False),
    sa.Column("due_at", _moment, nullable=False),
    sa.Column("dispatched_at", _moment),
    sa.Column("started_at", _moment),
    sa.Column("started_attempt", sa.Integer, nullable=False),
    sa.Column("finished_at", _moment),
    sa.Column("cancel_requested_at", _moment),
    sa.Column("cancel_requested_by", sa.String(255)),
    sa.Column("event_id", sa.String(40), nullable=False),
    sa.Index("ix_executions_job", "job", "id"),
    sa.Index("ix_executions_state", "state", "id"),
    sa.Index("ix_executions_correlation_id", "correlation_id", "id"),
    _partial("ix_executions_batch_id", "batch_id", "id", where="batch_id IS NOT NULL"),
    _partial(
        "ix_executions_ready",
        "queue",
        sa.text("priority DESC"),
        "due_at",
        "id",
        where="state || '' = 'Queued' AND dispatched_at IS NULL",
    ),
    _partial("ix_executions_published", "dispatched_at", where="state || '' = 'Queued' AND dispatched_at IS NOT NULL"),
    _partial("ix_executions_due", "due_at", where="state || '' IN ('Scheduled', 'Retrying')"),
    _partial("ix_executions_running", "worker", where="state || '' = 'Running'"),
    _partial("ix_executions_cancel", "id", where="state || '' = 'Queued' AND cancel_requested_at IS NOT NULL"),
)

sa.Table(
    "attempts",
    _metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("worker", sa.String(255)),
    sa.Column("code_version", sa.String(64)),
    sa.Column("started_at", _moment),
    sa.Column("finished_at", _moment),
    sa.Column("runtime", sa.Float),
    sa.Column("error", _json),
    sqlite_with_rowid=False,
)

sa.Table(
    "transitions",
    _metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), primary_key=True),
    sa.Column("at", _moment, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text),
    sqlite_with_rowid=False,
)

sa.Table(
    "execution_logs",
    _metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.String(40), primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", _moment, nullable=False),
    sa.Column("level", sa.String(16), nullable=False),
    sa.Column("logger", sa.String(255), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

sa.Table(
    "job_schedules",
    _metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("job", sa.String(128), nullable=False, unique=True),
    sa.Column("rule", _json, nullable=False),
    sa.Column("enabled", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("changed_at", _moment, nullable=False),
)

sa.Table(
    "occurrences",
    _metadata,
    sa.Column("schedule_id", sa.String(36), primary_key=True),
    sa.Column("scheduled_for", _moment, primary_key=True),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("execution_id", sa.String(36)),
    sa.Column("recorded_at", _moment, nullable=False),
    sqlite_with_rowid=False,
)

sa.Table(
    "idempotency_keys",
    _metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("execution_ids", _json, nullable=False),
    sa.Column("batch_id", sa.String(36)),
    sa.Column("created_at", _moment, nullable=False),
    sa.Index("ix_idempotency_keys_created_at", "created_at"),
)

_relay_state = sa.Table(
    "relay_state",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.String(36)),
    sa.Column("events_offset", sa.String(40), nullable=False),
    sa.Column("logs_offset", sa.String(40), nullable=False),
    sa.Column("leader", sa.String(255)),
    sa.Column("leader_until", _moment),
    sa.Column("turned_at", _moment),
    sa.Column("beat_tick_at", _moment),
    sa.Column("republish_at", _moment),
)

sa.Table(
    "audit",
    _metadata,
    sa.Column("id", _big_id, primary_key=True, autoincrement=True),
    sa.Column("at", _moment, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("before", _json),
    sa.Column("after", _json),
)


#: INSERT OR REPLACE deletes a row without firing the trigger for DELETE, hence the third trigger.
_SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER audit_refuse_update BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END
    """,
    """
    CREATE TRIGGER audit_refuse_delete BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END
    """,
    """
    CREATE TRIGGER audit_refuse_replace BEFORE INSERT ON audit
    WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END
    """,
    """
    CREATE TRIGGER transitions_refuse_update BEFORE UPDATE ON transitions
    BEGIN SELECT RAISE(ABORT, 'what has happened is not changed'); END
    """,
)

_POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'audit is append-only'; END $$
    """,
    "CREATE TRIGGER audit_refuse_change BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_refuse_truncate BEFORE TRUNCATE ON audit EXECUTE FUNCTION audit_refuse()",
    """
    CREATE FUNCTION transitions_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'what has happened is not changed'; END $$
    """,
    """
    CREATE TRIGGER transitions_refuse_update BEFORE UPDATE ON transitions
    FOR EACH ROW EXECUTE FUNCTION transitions_refuse()
    """,
)


def upgrade() -> None:
    """Create all tables and triggers in the open transaction."""
    connection = op.get_bind()
    _metadata.create_all(connection, checkfirst=False)
    connection.execute(sa.insert(_relay_state).values(id=1, events_offset="0-0", logs_offset="0-0"))
    for statement in _SQLITE_TRIGGERS if connection.dialect.name == "sqlite" else _POSTGRESQL_TRIGGERS:
        op.execute(statement)
