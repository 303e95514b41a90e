"""Celery's own events (what Flower and gossip listen to), which never make the worker wait."""

from typing import Any

import structlog
from celery.events.dispatcher import EventDispatcher

logger = structlog.get_logger(__name__)


class NonBlockingEventDispatcher(EventDispatcher):
    """Celery's dispatcher, except that it drops what Redis does not take.

    Celery's insists on the worker's heartbeat events: while Redis is away its event loop stands still, and with it our
    own heartbeat and the reports of jobs that end.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "buffer_while_offline": False})

    def _publish(self, event: Any, producer: Any, routing_key: str, **_: Any) -> None:
        try:
            super()._publish(event, producer, routing_key, retry=False)
        except Exception as error:  # noqa: BLE001  whatever it is, it must not stop the worker
            logger.debug("celery_event_dropped", type=routing_key, error=str(error))
