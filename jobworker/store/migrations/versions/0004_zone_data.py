"""Time zone data by which the times of schedules were computed, and the version of each worker."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table empty: the relay stores its data when it acquires the leadership."""
    op.create_table(
        "zone_data",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("zones", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_zone_data"),
    )
    op.add_column("workers", sa.Column("zone_data", sa.String(64)))
