"""Stock Celery as the peer of the transport: late acknowledgement, no events, no results. `celery -A …`.

`BENCH_BROKER` is its Redis; `BENCH_VISIBILITY` (s) makes it give back quickly what a dead worker held.
"""

import os
from typing import Any

from celery import Celery

from bench import probe

QUEUE = "celery"


def make_app(broker: str, visibility: str | None = None) -> Celery:
    """The app with the same tasks that JobWorker runs."""
    celery_app = Celery("stock", broker=broker, set_as_current=False)
    celery_app.conf.update(
        task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True, result_expires=None
    )
    if visibility:
        celery_app.conf.broker_transport_options = {
            "visibility_timeout": float(visibility),
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    celery_app.task(_noop, name="noop")
    celery_app.task(_stamp, name="stamp")
    celery_app.task(_note, name="note", bind=True)
    return celery_app


def _noop(number: int = 0) -> None:
    """Nothing."""


def _stamp(sent_at: float) -> None:
    probe.record_arrival(sent_at)


def _note(self: Any, number: int) -> None:
    probe.record_start(str(number), 1, self.request.hostname)


app = make_app(os.environ.get("BENCH_BROKER", ""), os.environ.get("BENCH_VISIBILITY"))
