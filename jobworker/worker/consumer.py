"""Celery's consumer, except that it comes back quickly when Redis does."""

import functools
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer

#: Seconds between two tries to connect: at first, more each time, at most. Celery's own go up to 30, and
#: a worker that is away for longer than its lease is given up.
_INTERVALS = {"interval_start": 0.2, "interval_step": 0.3, "interval_max": 2.0}


class Consumer(CeleryConsumer):
    """Selected through `worker_consumer`."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying again for as long as it takes."""
        conn.ensure_connection = functools.partial(conn.ensure_connection, **_INTERVALS)
        return super().ensure_connected(conn)
