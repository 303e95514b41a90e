"""What an execution is limited by, waits for and leaves behind; pauses of queues."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

_json = sa.Text().with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Columns come after those that are there: so a database that has grown is the same as a new one."""
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
    _limits()


def _limits() -> None:
    """What is ready has two indexes from now on, one for executions under limits."""
    op.drop_index("ix_executions_ready", "executions")
    ready = "state || '' = 'Queued' AND dispatched_at IS NULL"
    published = "state || '' = 'Queued' AND dispatched_at IS NOT NULL"
    order = [sa.text("priority DESC"), "due_at", "id"]
    _partial("ix_executions_ready", ["queue", *order], f"{ready} AND limit_key IS NULL")
    _partial("ix_executions_limited", ["queue", "limit_key", *order], f"{ready} AND limit_key IS NOT NULL")
    holding = f"(state || '' = 'Running' OR {published}) AND concurrency_key IS NOT NULL"
    _partial("ix_executions_holding", ["concurrency_key", "id"], holding)
    _partial("ix_executions_ahead", ["rate_key"], f"{published} AND rate_key IS NOT NULL")
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


def _partial(name: str, columns: list[Any], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "executions", columns, sqlite_where=condition, postgresql_where=condition)
