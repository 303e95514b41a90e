"""What an execution is limited by, waits for and leaves behind; pauses of queues."""

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
