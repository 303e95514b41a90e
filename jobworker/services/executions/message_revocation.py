"""Immediate revocation, in Redis, of queued executions whose cancellation was requested.

The process that commits a cancel request revokes at once, because workers keep starting messages while no relay is
active. Nothing depends on this revocation: the relay revokes again, and only then writes Cancelled.
"""

import redis
import sqlalchemy as sa
import structlog

from jobworker.domain.errors import DatabaseBusy
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation
from jobworker.store.workflows import batches
from jobworker.transport.claims import Claims

logger = structlog.get_logger(__name__)

#: Maximum number of executions revoked per call; the relay revokes the others.
_BATCH_SIZE = 1000


def revoke_cancelled(database: Database, client: redis.Redis) -> None:
    """Revoke the messages of queued executions whose cancellation was requested. Raises `redis.RedisError`."""
    try:
        with database.read() as connection:
            cancelled = batches.list_cancelling(connection)
        if cancelled:
            with database.write() as connection:
                for batch in cancelled:
                    batches.request_cancel_members(connection, batch)
        with database.read() as connection:
            cancel_requests = cancellation.list_queued_cancel_requests(connection, _BATCH_SIZE)
    except (sa.exc.SQLAlchemyError, DatabaseBusy) as error:
        logger.debug("revocation_left_to_the_relay", error=str(error))
        return
    Claims(client).revoke([(row.id, row.attempt + 1) for row in cancel_requests])
