"""Queues that must be created, declared or consumed before use; removal of unused queues."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Treat existing queues as added automatically; insert the queues that definitions and schedules name."""
    op.add_column("queues", sa.Column("created_by", sa.String(255)))
    op.add_column("queues", sa.Column("unused_since", _moment))
    _partial("ix_queues_paused", "queues", "name", "paused_at IS NOT NULL")
    _partial("ix_executions_held_back", "executions", "queue", "state || '' IN ('Waiting', 'Scheduled', 'Retrying')")
    for table, column in (("job_definitions", "definition"), ("job_schedules", "spec")):
        op.execute(
            "INSERT INTO queues (name, created_at) "
            f"SELECT {column} ->> 'queue', min(created_at) FROM {table} "
            f"WHERE {column} ->> 'queue' IS NOT NULL GROUP BY 1 ON CONFLICT (name) DO NOTHING"
        )


def _partial(name: str, table: str, column: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, [column], sqlite_where=condition, postgresql_where=condition)
