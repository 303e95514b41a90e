"""Package from which each task was announced, and the time since which no worker declares the task."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the empty columns: the relay writes packages when it acquires the leadership."""
    op.add_column("tasks", sa.Column("package", sa.String(255)))
    op.add_column("tasks", sa.Column("removed_at", sa.DateTime(timezone=True)))
