"""Celery's own events (for Flower and gossip), sent without ever blocking the worker."""

from typing import Any

import structlog
from celery.events.dispatcher import EventDispatcher

logger = structlog.get_logger(__name__)


class NonBlockingEventDispatcher(EventDispatcher):
    """Celery's dispatcher, except that it drops events that Redis does not accept.

    Celery's dispatcher retries the worker's heartbeat events: while Redis is down its event loop blocks, and with it
    JobWorker's heartbeat and the reports of ended jobs.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "buffer_while_offline": False})

    def _publish(self, event: Any, producer: Any, routing_key: str, **_: Any) -> None:
        try:
            super()._publish(event, producer, routing_key, retry=False)
        except Exception as error:  # noqa: BLE001  no error here may stop the worker
            logger.debug("celery_event_dropped", type=routing_key, error=str(error))
