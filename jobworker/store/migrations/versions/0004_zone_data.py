"""The time zone data that schedules were worked out with, and those of each worker."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Nothing is noted yet: the relay notes its data when it begins to lead."""
    op.create_table(
        "zone_data",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("zones", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_zone_data"),
    )
    op.add_column("workers", sa.Column("zone_data", sa.String(64)))
