"""The package from which each task was announced, and since when no worker declares it any more."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Nothing is removed yet: the relay notes packages when it begins to lead."""
    op.add_column("tasks", sa.Column("package", sa.String(255)))
    op.add_column("tasks", sa.Column("removed_at", sa.DateTime(timezone=True)))
