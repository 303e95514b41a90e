"""Queues are created, declared or consumed before they are named; the unused ones are removed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Every queue that there is counts as added automatically; what definitions and schedules name is added."""
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
