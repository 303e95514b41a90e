"""Leadership of the relay is counted instead of dated; what the leader could not use is kept for readiness."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

_json = sa.Text().with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add the count of renewals and the problems; drop the time that another host's clock decided about."""
    op.add_column("relay_state", sa.Column("renewals", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("relay_state", sa.Column("problems", _json))
    op.drop_column("relay_state", "leader_until")
