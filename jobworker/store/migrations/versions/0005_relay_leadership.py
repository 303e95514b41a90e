"""Leadership of the relay by a count of renewals instead of a time; problems of the leader, for readiness."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

_json = sa.Text().with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add the count of renewals and the problems; drop the expiry time, which depended on the clock of another host."""
    op.add_column("relay_state", sa.Column("renewals", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("relay_state", sa.Column("problems", _json))
    op.drop_column("relay_state", "leader_until")
