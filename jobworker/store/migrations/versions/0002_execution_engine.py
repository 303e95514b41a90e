"""Limits, dependencies, batches and dead letters of executions; pauses of queues."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

_json = sa.Text().with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add columns after the existing ones, so that an upgraded database equals a new one; create tables and indexes."""
    for column in (
        sa.Column("overrides", _json),
        sa.Column("call", _json),
        sa.Column("expires_at", _moment),
        sa.Column("concurrency_key", sa.String(255)),
        sa.Column("rate_key", sa.String(255)),
        sa.Column("limit_key", sa.String(520)),
        sa.Column("unique_key", sa.String(255)),
        sa.Column("urgency", sa.Integer),
        sa.Column("snoozed_attempts", _json),
        sa.Column("metadata", _json),
        sa.Column("result_file", _json),
        sa.Column("log_bytes", sa.Integer),
        sa.Column("log_dropped", _json),
        sa.Column("rerun_of", sa.String(36)),
        sa.Column("dead_letter", sa.String(16)),
        sa.Column("dead_letter_at", _moment),
        sa.Column("dead_letter_by", sa.String(255)),
        sa.Column("dead_letter_note", sa.Text),
        sa.Column("fingerprint", sa.String(32)),
        sa.Column("step", sa.String(64)),
        sa.Column("waiting_for", sa.Integer),
        sa.Column("triggered_by", sa.String(36)),
    ):
        op.add_column("executions", column)
    for column in (
        sa.Column("paused_at", _moment),
        sa.Column("paused_by", sa.String(255)),
        sa.Column("pause_note", sa.Text),
    ):
        op.add_column("queues", column)
    op.add_column("relay_state", sa.Column("logged_through", sa.String(40)))
    expiring = "expires_at IS NOT NULL AND attempt = 0 AND dispatched_at IS NULL AND finished_at IS NULL"
    dead = "dead_letter || '' = 'open'"
    stop = "state || '' IN ('Running', 'Retrying') AND cancel_requested_at IS NOT NULL"
    for name, columns, condition in (
        ("stop", ["id"], stop),
        ("expiring", ["expires_at"], expiring),
        ("dead_letter", ["id"], dead),
        ("dead_letter_job", ["job", "id"], dead),
        ("dead_letter_fingerprint", ["fingerprint", "id"], dead),
        ("rerun_of", ["rerun_of", "id"], "rerun_of IS NOT NULL"),
        ("succeeded", ["job", "id"], "state || '' = 'Succeeded'"),
    ):
        where = sa.text(condition)
        op.create_index(f"ix_executions_{name}", "executions", columns, sqlite_where=where, postgresql_where=where)
    _create_dependencies()
    _create_batches()
    _create_triggers()
    _limits()


def _limits() -> None:
    """Replace the index of ready executions by two indexes, one of them for executions under limits."""
    op.drop_index("ix_executions_ready", "executions")
    ready = "state || '' = 'Queued' AND dispatched_at IS NULL"
    published = "state || '' = 'Queued' AND dispatched_at IS NOT NULL"
    order = [sa.text("priority DESC"), "due_at", "id"]
    _partial("ix_executions_ready", "executions", ["queue", *order], f"{ready} AND limit_key IS NULL")
    _partial(
        "ix_executions_limited", "executions", ["queue", "limit_key", *order], f"{ready} AND limit_key IS NOT NULL"
    )
    holding = f"(state || '' = 'Running' OR {published}) AND concurrency_key IS NOT NULL"
    _partial("ix_executions_holding", "executions", ["concurrency_key", "id"], holding)
    _partial("ix_executions_ahead", "executions", ["rate_key"], f"{published} AND rate_key IS NOT NULL")
    op.create_table(
        "rate_buckets",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("full_at", _moment, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_rate_buckets"),
    )
    op.create_table(
        "unique_keys",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("execution_id", sa.String(36), nullable=False),
        sa.Column("until", sa.String(16)),
        sa.Column("expires_at", _moment),
        sa.Column("taken_at", _moment, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_unique_keys"),
    )


def _create_dependencies() -> None:
    op.create_table(
        "dependencies",
        sa.Column("execution_id", sa.String(36), nullable=False),
        sa.Column("parent_id", sa.String(36), nullable=False),
        sa.Column("condition", sa.String(16), nullable=False),
        sa.Column("otherwise", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("settled_at", _moment),
        sa.PrimaryKeyConstraint("execution_id", "parent_id", name="pk_dependencies"),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name="fk_dependencies_execution_id", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    _partial("ix_dependencies_unsettled", "dependencies", ["parent_id", "execution_id"], "settled_at IS NULL")


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(128)),
        sa.Column("correlation_id", sa.String(128), nullable=False),
        sa.Column("on_complete", _json),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("cancel_requested_at", _moment),
        sa.Column("cancel_requested_by", sa.String(255)),
        sa.Column("completed_at", _moment),
        sa.Column("completion_id", sa.String(36)),
        sa.Column("problem", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    _partial("ix_batches_open", "batches", ["id"], "completed_at IS NULL")
    _partial("ix_batches_cancelling", "batches", ["id"], "cancel_requested_at IS NOT NULL AND completed_at IS NULL")
    _partial("ix_executions_batch_state", "executions", ["batch_id", "state"], "batch_id IS NOT NULL")
    # Batches had no row of their own before.
    op.execute(
        "INSERT INTO batches (id, kind, correlation_id, created_at, created_by, completed_at) "
        "SELECT batch_id, 'batch', batch_id, min(created_at), min(created_by), "
        "CASE WHEN count(finished_at) = count(*) THEN max(finished_at) END "
        "FROM executions WHERE batch_id IS NOT NULL GROUP BY batch_id"
    )


def _create_triggers() -> None:
    op.create_table(
        "job_triggers",
        sa.Column("after", sa.String(128), nullable=False),
        sa.Column("job", sa.String(128), nullable=False),
        sa.Column("condition", sa.String(16), nullable=False),
        sa.Column("parameters", _json, nullable=False),
        sa.PrimaryKeyConstraint("after", "job", "condition", name="pk_job_triggers"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_job_triggers_job", "job_triggers", ["job"])
    _partial("ix_executions_triggered_by", "executions", ["triggered_by", "job"], "triggered_by IS NOT NULL")


def _partial(name: str, table: str, columns: list[Any], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
